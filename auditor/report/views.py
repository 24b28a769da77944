"""What the page shows, as frozen values: everything is read and decided before a template sees it."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.report.marks import Mark


@dataclass(frozen=True)
class Table:
    """A table: caption, column names, rows of cells (text, or a mark), and what was left out."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Mark, ...], ...]
    numeric: frozenset[int] = frozenset()
    """Columns set flush right."""
    code: frozenset[int] = frozenset()
    """Columns set in a monospaced face."""
    rest: str = ""
    """A sentence on rows that are not shown."""


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption. `svg` is clean SVG made by auditor.report.charts, and by nothing else."""

    svg: str
    caption: str


@dataclass(frozen=True)
class ClaimGroup:
    """The claims of one evidence class."""

    mark: Mark
    meaning: str
    claims: tuple[tuple[str, str, str], ...]
    """(what, message, where)"""
    rest: int = 0
    """How many more there are."""


@dataclass(frozen=True)
class FindingView:
    """One finding."""

    mark: Mark
    evidence: Mark
    code: str
    where: str
    message: str
    hint: str
    expected: str
    found: str


@dataclass(frozen=True)
class Effect:
    """One outcome on one probe: every arm and horizon."""

    heading: str
    note: str
    chart: Chart | None
    table: Table
    sentences: tuple[tuple[Mark, str], ...]
    warnings: tuple[str, ...]
    units: tuple[Table, ...]


@dataclass(frozen=True)
class CauseView:
    """One class of cause of a difference, and what speaks for it."""

    mark: Mark
    words: str
    code: str
    source: str
    where: str
    """When that source parted, in words."""
    evidence: tuple[str, ...]
    rest: int = 0
    """How many more lines of evidence there are."""


@dataclass(frozen=True)
class TextDiff:
    """How one text file differs."""

    path: str
    change: str
    lines: tuple[tuple[str, str], ...]
    """(``ins``, ``del``, ``hunk`` or ``same``, the line with its sign)"""
    rest: str = ""
    """A sentence on what is not shown."""


@dataclass(frozen=True)
class Section:
    """A titled part of the page. Empty parts say what is missing in `text`."""

    key: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    claims: tuple[ClaimGroup, ...] = ()
    findings: tuple[FindingView, ...] = ()
    effects: tuple[Effect, ...] = ()
    causes: tuple[CauseView, ...] = ()
    texts: tuple[TextDiff, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    """(command, what it does)"""
    folder: str = "the folder that holds it"
    """Where the commands are to be given."""


@dataclass(frozen=True)
class Subject:
    """One run, study or comparison on the page."""

    key: str
    kind: str
    name: str
    mark: Mark
    sentence: str
    facts: tuple[tuple[str, str], ...]
    proved: tuple[str, ...]
    not_proved: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    """The whole page."""

    title: str
    version: str
    mark: Mark
    sentence: str
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class Limits:
    """How much of each part is shown; the page is rendered again with a smaller set where it grew too large."""

    rows: int = 200
    """Rows of a table, claims of a class, findings."""
    points: int = 600
    """Points of a curve."""
    effects: int = 40
    """Outcomes with a chart of their own."""


#: From the most to the least; the last fits whatever the input.
LIMITS = (Limits(), Limits(60, 300, 16), Limits(15, 120, 6), Limits(5, 60, 2))
