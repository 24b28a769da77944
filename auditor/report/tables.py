"""Tables with a limit, and the sections that every subject has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from auditor.report.marks import EVIDENCE, LEVELS, Mark, evidence_mark, mark
from auditor.report.text import plain, plural
from auditor.report.views import ClaimGroup, FindingView, Limits, Section, Table


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Mark]],
    *,
    numeric: Collection[int] = (),
    code: Collection[int] = (),
    total: int | None = None,
) -> Table:
    """A table of `rows`, which may be fewer than the `total` there are."""
    left = (len(rows) if total is None else total) - len(rows)
    rest = f"{plural(left, 'more row')} not shown." if left > 0 else ""
    return Table(caption, tuple(columns), tuple(tuple(r) for r in rows), frozenset(numeric), frozenset(code), rest)


def pairs(caption: str, values: Iterable[tuple[str, object]], names: tuple[str, str] = ("what", "value")) -> Table:
    """A table of names and values."""
    return table(caption, names, [(name, plain(value)) for name, value in values], code={1})


def claims_section(claims: Sequence[Mapping[str, Any]], limits: Limits) -> Section:
    """Claims by evidence class, in the classes' order."""
    groups = []
    known = [*EVIDENCE, *sorted({str(c["evidence"]) for c in claims} - EVIDENCE.keys())]
    for word in known:
        found = [c for c in claims if c["evidence"] == word]
        if found:
            shown = tuple((str(c["what"]), str(c["message"]), str(c["where"])) for c in found[: limits.rows])
            meaning = EVIDENCE[word][1] if word in EVIDENCE else "A class that this version does not know."
            groups.append(ClaimGroup(evidence_mark(word), meaning, shown, len(found) - len(shown)))
    text = () if groups else ("No claim was examined.",)
    return Section("claims", "Claims, by how well they are supported", text, claims=tuple(groups))


def findings_section(findings: Sequence[Mapping[str, Any]], limits: Limits) -> Section:
    """Findings, the worst first."""
    order = {"error": 0, "warning": 1, "note": 2}
    ranked = sorted(findings, key=lambda f: (order.get(str(f["level"]), 0), str(f["code"]), str(f["where"])))
    views = tuple(
        FindingView(
            mark=mark(LEVELS, str(f["level"])),
            evidence=evidence_mark(str(f["evidence"])),
            code=str(f["code"]),
            where=str(f["where"]),
            message=str(f["message"]),
            hint=str(f.get("hint") or ""),
            expected=str(f.get("expected") or ""),
            found=str(f.get("found") or ""),
        )
        for f in ranked[: limits.rows]
    )
    text: tuple[str, ...] = ()
    if not views:
        text = ("No findings.",)
    elif len(findings) > len(views):
        text = (f"{len(views)} of {plural(len(findings), 'finding')} are shown.",)
    return Section("findings", "Findings", text, findings=views)


def inputs_section(hashes: Sequence[tuple[str, str]]) -> Section:
    """The files this page was made from."""
    rows = [(name, digest) for name, digest in hashes]
    text = ("This page was made from these bytes, and from nothing else. Equal inputs give an equal page.",)
    return Section(
        "inputs", "Inputs of this page", text, (table("SHA-256 of each file", ("file", "SHA-256"), rows, code={0, 1}),)
    )
