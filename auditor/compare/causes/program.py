"""The program itself differs: its files, its modules, its arguments."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.beside import PROGRAM, Row
from auditor.compare.situation import LIKELY, POSSIBLE, Cause, Situation, pair_of
from auditor.findings.formats.text import count

_TOLD = 8


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause if the programs differ and the runs part."""
    found = changes(situation)
    parted = situation.first
    if not found or parted is None:
        return
    evidence = [pair_of(row) for row in found if row.name.startswith("argument ")]
    if len(evidence) < len(found):
        files = [f"{each.path} {each.change}{_lines(each.changed_lines)}" for each in situation.programs.differences]
        evidence += files[:_TOLD] or ["the hashes of its files differ"]
    # What parted first and is given to a step has a nearer cause; the program may stand behind it.
    confidence = POSSIBLE if situation.given() or situation.is_rounding else LIKELY
    yield Cause("program", confidence, tuple(evidence), parted.name, parted.step)


def changes(situation: Situation) -> list[Row]:
    """Return what differs in the program itself: text and arguments; neither its seed nor where it lies."""
    return [
        row
        for row in situation.of_group(PROGRAM)
        if row.name == "sha256" or row.name.startswith(("module ", "argument "))
    ]


def _lines(number: int) -> str:
    return f", {count(number, 'line')} taken away or added" if number else ""
