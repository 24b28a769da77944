"""How the text of two programs differs, file by file, as unified diffs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from auditor.artifact.run_directory import ENVIRONMENT
from auditor.compare.side import Side
from auditor.evidence.source_texts import SourceTexts, read_source_texts

CONTEXT_LINES = 2
MOST_LINES = 20_000
"""Of both files together. What difflib does takes the square of it, and kept files may have been made to be slow."""


@dataclass(frozen=True)
class FileDifference:
    """One file of the programs that is not the same in both."""

    path: str
    """Below the program's folder; that of A, and of B where A has none."""
    change: str
    """``changed``, ``only in A``, ``only in B``."""
    lines: tuple[str, ...] | None
    """The unified diff, without its first two lines; None where a text was not kept."""

    @property
    def changed_lines(self) -> int:
        """How many lines were taken away or added."""
        return sum(line.startswith(("+", "-")) for line in self.lines or ())


class ProgramTexts:
    """The kept files of both programs."""

    def __init__(self, a: Side, b: Side) -> None:
        self._sides = (a, b)

    @cached_property
    def _texts(self) -> tuple[SourceTexts | None, SourceTexts | None]:
        one, two = (_texts_of(side) for side in self._sides)
        return one, two

    @cached_property
    def differences(self) -> tuple[FileDifference, ...]:
        """What differs, the programs' own files first: they are compared whatever they are called."""
        one, two = self._texts
        return () if one is None or two is None else tuple(self._differences(one, two))

    def _differences(self, a: SourceTexts, b: SourceTexts) -> Iterator[FileDifference]:
        names = {path: path for path in a.hashes if path in b.hashes}
        programs = [next(iter(side.hashes), None) if _has_file(run) else None for side, run in self._pairs(a, b)]
        if programs[0] is not None and programs[1] is not None:
            names = {path: path for path in names if path not in programs}
            names = {programs[0]: programs[1], **names}
        others = [(path, None) for path in a.hashes if path not in names]
        others_b = [(None, path) for path in b.hashes if path not in names.values()]
        for one, two in [*names.items(), *others, *others_b]:
            if one is not None and two is not None and a.hashes[one] == b.hashes[two]:
                continue
            change = "changed" if one is not None and two is not None else f"only in {'A' if one else 'B'}"
            before = b"" if one is None else a.files.get(one)
            after = b"" if two is None else b.files.get(two)
            known = before is not None and after is not None
            yield FileDifference(one or two or "", change, _diff(before or b"", after or b"") if known else None)

    def _pairs(self, a: SourceTexts, b: SourceTexts) -> list[tuple[SourceTexts, Side]]:
        return list(zip((a, b), self._sides, strict=True))


def _has_file(side: Side) -> bool:
    program = side.environment["program"]
    return program["path"] is not None and program["sha256"] is not None


def _texts_of(side: Side) -> SourceTexts | None:
    if not side.environment:
        return None
    found = read_source_texts(side.inventory, ENVIRONMENT, side.environment["program"])
    side.damage.update({misfit.where: misfit.message for misfit in found.misfits})
    return found


def _diff(a: bytes, b: bytes) -> tuple[str, ...]:
    """Return a unified diff; bytes that are no UTF-8 are shown as escapes."""
    one, two = (each.decode("utf-8", "backslashreplace").splitlines() for each in (a, b))
    if len(one) + len(two) > MOST_LINES:
        return _one_hunk(one, two)
    lines = difflib.unified_diff(one, two, lineterm="", n=CONTEXT_LINES)
    return tuple(line for number, line in enumerate(lines) if number >= 2)


def _one_hunk(a: list[str], b: list[str]) -> tuple[str, ...]:
    """Return all between the first and the last line that differ as one hunk; nothing where no line does."""
    if a == b:
        return ()
    shorter = min(len(a), len(b))
    head = next((k for k in range(shorter) if a[k] != b[k]), shorter)
    tail = next((k for k in range(shorter - head) if a[-1 - k] != b[-1 - k]), shorter - head)
    begin, after = max(head - CONTEXT_LINES, 0), min(tail, CONTEXT_LINES)
    ends = len(a) - tail, len(b) - tail
    lengths = [end + after - begin for end in ends]
    return (
        f"@@ -{begin + 1},{lengths[0]} +{begin + 1},{lengths[1]} @@",
        *(f" {line}" for line in a[begin:head]),
        *(f"-{line}" for line in a[head : ends[0]]),
        *(f"+{line}" for line in b[head : ends[1]]),
        *(f" {line}" for line in a[ends[0] : ends[0] + after]),
    )
