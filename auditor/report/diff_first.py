"""The first difference of two runs: what parted, in which tensor and element, and what running them again showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auditor.report.tables import table
from auditor.report.text import NOTHING, beside_each_other, exact, figure, plural
from auditor.report.views import Limits, Section

Document = Mapping[str, Any]


def when(step: int, at: str) -> str:
    """Where in training something parted, in words."""
    if at == "start" or step == 0:
        return "before the first step"
    if at == "pass":
        return f"where the pass of step {step:,} began"
    return f"step {step:,}" + (", which only one run has" if at == "end" else "")


def first_section(first: Document | None, limits: Limits) -> list[Section]:
    """The section of a `diff-1` document's `first`; none where the runs do not part."""
    if first is None:
        return []
    rows = [
        ("when", when(first["step"], first["at"])),
        ("source", f"{first['source']} ({first['kind']})"),
    ]
    sample, detail = first["sample"], first["detail"]
    if sample is not None:
        rows.append(("pass and place", f"pass {sample['pass']:,}, place {sample['position'] + 1:,}"))
        for side in ("a", "b"):
            rows.append(
                (f"sample in {side.upper()}", "none: its pass is over" if sample[side] is None else str(sample[side]))
            )
    if first["tensor"] is not None:
        rows.append(("tensor", str(first["tensor"])))
    if first["chunk"] is not None:
        rows.append(("chunk", f"{first['chunk']:,} (of 1 MiB each, from 0)"))
    tables = []
    if detail is not None:
        rows += _detail(detail)
        values = detail["values"]
        shown = [
            (str(each["place"]) or "itself", *beside_each_other(each["a"], each["b"])) for each in values[: limits.rows]
        ]
        if values:
            columns = ("place", "A", "B")
            tables.append(table("Values that differ there", columns, shown, code={0, 1, 2}, total=len(values)))
    tables.insert(0, table("What parted first", ("what", "value"), rows, code={1}))
    text = () if detail is None else (_measured(first["step"], detail["step"]),)
    return [Section("first", "First difference", text, tuple(tables))]


def _measured(parted: int, step: int) -> str:
    where = "before the first step" if step == 0 else f"after step {step:,}"
    late = "" if step == parted else ", the next at which both have one: it has grown or changed since it parted"
    return f"Measured in the anchors {where}{late}."


def _detail(detail: Document) -> list[tuple[str, str]]:
    rows = []
    if detail["element"] is not None:
        rows.append(("element", f"[{', '.join(map(str, detail['element']))}]" if detail["element"] else "the only one"))
    if detail["a"] is not None and detail["b"] is not None:
        rows += [("value in A", exact(detail["a"])), ("value in B", exact(detail["b"]))]
    if detail["elements"]:
        tensors = plural(detail["tensors"], "tensor")
        rows.append(("elements that differ", f"{detail['differing']:,} of {detail['elements']:,}, in {tensors}"))
    if detail["relative"] is not None:
        rows.append(("distance", f"{figure(detail['relative'])} of A's norm"))
    if detail["largest"] is not None:
        rows.append(("largest difference", figure(detail["largest"])))
    if detail["ulps"] is not None:
        rows.append(("largest distance", f"{detail['ulps']:,} units in the last place"))
    return rows


def refined_section(refined: Document | None, limits: Limits) -> list[Section]:
    """The section of a `diff-1` document's `refined`; none where nothing was run again."""
    if refined is None:
        return []
    begin = f"from the anchors after step {refined['from']:,}" if refined["from"] else "from the start"
    text = (
        f"Both programs were run again {begin} to step {refined['to']:,}, and every tensor, module call and gradient "
        "of one was compared with the other's."
    )
    rows = [
        (
            side.upper(),
            "yes" if refined[side]["reproduced"] else "no",
            NOTHING
            if refined[side]["first"] is None
            else f"step {refined[side]['first']['step']:,}, in {refined[side]['first']['source']}",
        )
        for side in ("a", "b")
    ]
    tables = [table("Each run against its own recording", ("run", "repeats it", "parts from it at"), rows)]
    first = refined["first"]
    if first is not None:
        call = "" if first["call"] is None else f", call {first['call']:,} in that step"
        named = (
            ("step", f"{first['step']:,}"),
            ("part of the step", str(first["phase"])),
            ("module", None if first["module"] is None else f"{first['module']}{call}"),
            ("source", first["source"]),
            ("tensor", first["tensor"]),
            ("chunk", None if first["chunk"] is None else f"{first['chunk']:,} (of 1 MiB each, from 0)"),
        )
        known = [(name, str(value)) for name, value in named if value is not None]
        tables.insert(0, table("What parted first between the two executions", ("what", "value"), known, code={1}))
    notes = said("", "", refined["notes"], limits)
    nothing = () if first is not None else ("Nothing parted between the two executions.",)
    return [
        Section("refined", "Run again, magnified", (text, *nothing, *(notes[0].text if notes else ())), tuple(tables))
    ]


def said(key: str, title: str, lines: Sequence[str], limits: Limits) -> list[Section]:
    """A section of sentences; none where there is nothing to say."""
    shown = [f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in lines[: limits.rows]]
    if len(lines) > len(shown):
        shown.append(f"{len(lines) - len(shown):,} more not shown.")
    return [Section(key, title, tuple(shown))] if shown else []
