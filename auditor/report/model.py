"""From directories, their verifications and comparisons to what the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor import __version__
from auditor.artifact import run_directory
from auditor.errors import NothingToAuditError
from auditor.report.diff_page import comparison_subject
from auditor.report.files import ComparisonFile, manifest_hash
from auditor.report.marks import VERDICTS, mark
from auditor.report.run_page import run_subject
from auditor.report.study_page import study_subject
from auditor.report.text import plural
from auditor.report.views import Limits, Report, Subject

#: The page's verdict is the last of its subjects' in this order: what holds, what was found, what does not hold.
_ORDER = (
    *("equal", "passed", "complete"),
    *("different", "not comparable"),
    *("inconclusive", "gate failed", "null failed", "failed"),
)
_HOLDS = frozenset({"equal", "passed", "complete"})
_PARTED = frozenset({"different", "not comparable"})
_DEEPEST = 4


def is_run(path: Path) -> bool:
    """Whether `path` looks like a run directory, whole or not."""
    return (path / run_directory.TRACE).is_file()


def is_study(path: Path) -> bool:
    """Whether `path` looks like a study directory. A cell has a trace too, but a plan only a study has."""
    return not is_run(path) and any((path / name).is_file() for name in (run_directory.PLAN, run_directory.ESTIMATE))


def find_directories(paths: Sequence[Path]) -> list[Path]:
    """Runs and studies at `paths` or up to four levels below them: runs first, then by path, each once.

    What lies inside a run or study (cells, ranks) belongs to it and is not listed. Raises `NothingToAuditError` if
    one of `paths` holds neither.
    """
    found: dict[Path, None] = {}
    for path in paths:
        here = _below(path, _DEEPEST)
        if not here:
            raise NothingToAuditError(
                "no run and no study",
                where=str(path),
                why="a run holds trace.jsonl, a study plan.json",
                next_step="memaudit record -- python train.py",
            )
        found.update(dict.fromkeys(here))
    return sorted(found, key=lambda p: (is_study(p), str(p)))


def _below(path: Path, depth: int) -> list[Path]:
    if is_run(path) or is_study(path):
        return [path]
    if depth == 0 or path.is_symlink() or not path.is_dir():
        return []
    return [
        found
        for child in sorted(path.iterdir())
        if not child.name.startswith(".")
        for found in _below(child, depth - 1)
    ]


def build_report(
    directories: Sequence[Path],
    verifications: Sequence[Mapping[str, Any]],
    limits: Limits | None = None,
    comparisons: Sequence[ComparisonFile] = (),
) -> Report:
    """The page for run and study `directories` and their `verify-1` documents, in the same order, then comparisons.

    Nothing is executed, and no time is read but the manifests'. A file that cannot be read is said to be so. There must
    be a subject.
    """
    limits = limits or Limits()
    names = _names(directories)
    subjects: list[Subject] = []
    words: list[str] = []
    for number, (path, name, verification) in enumerate(zip(directories, names, verifications, strict=True), 1):
        make = study_subject if is_study(path) else run_subject
        subject, word = make(path, name, f"s{number}", verification, limits)
        subjects.append(subject)
        words.append(word)
    known = _manifests(directories, names) if comparisons else {}
    for number, comparison in enumerate(comparisons, len(subjects) + 1):
        subject, word = comparison_subject(comparison, f"s{number}", known, limits)
        subjects.append(subject)
        words.append(word)
    worst = max(words, key=lambda w: _ORDER.index(w) if w in _ORDER else len(_ORDER))
    if len(subjects) == 1:
        sentence, title = subjects[0].sentence, subjects[0].name
    else:
        title = _title(subjects)
        worst = "passed" if worst == "complete" else worst
        sentence = " ".join(
            f"{_label(subject)}: {subject.sentence[:1].lower()}{subject.sentence[1:].rstrip('.')}."
            for subject in subjects[:6]
        )
        if len(subjects) > 6:
            sentence = _counted(words)
    return Report(title, __version__, mark(VERDICTS, worst), sentence, tuple(subjects))


def _manifests(directories: Sequence[Path], names: Sequence[str]) -> dict[str, str]:
    """The names of the runs by the hashes of their manifests."""
    hashes = [(manifest_hash(path), name) for path, name in zip(directories, names, strict=True) if is_run(path)]
    return {found: name for found, name in reversed(hashes) if found is not None}


def _title(subjects: Sequence[Subject]) -> str:
    """ "2 runs, 1 study and 1 comparison"."""
    kinds = (("run", "runs"), ("study", "studies"), ("comparison", "comparisons"))
    counts = [(sum(subject.kind == one for subject in subjects), one, many) for one, many in kinds]
    parts = [plural(*each) for each in counts if each[0]]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def _counted(words: Sequence[str]) -> str:
    """How many of many subjects hold; a comparison that found a difference neither holds nor fails to."""
    parted = sum(word in _PARTED for word in words)
    good = sum(word in _HOLDS for word in words)
    found = f" {plural(parted, 'comparison')} found a difference;" if parted else ""
    return f"{good} of {len(words) - parted} hold;{found} each is explained below."


def _label(subject: Subject) -> str:
    """ "Run", or "Run NAME" where the name says more."""
    kind = subject.kind.capitalize()
    return kind if subject.name == subject.kind else f"{kind} {subject.name}"


def _names(directories: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as it takes to tell them apart."""
    resolved = [path.absolute() for path in directories]
    for parts in range(1, 8):
        names = ["/".join(path.parts[-parts:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in resolved]
