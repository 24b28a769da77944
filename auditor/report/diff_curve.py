"""How far two runs are apart, step by step: the losses' difference, and the state's distance at shared anchors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.compare.series import decimate
from auditor.report import charts
from auditor.report.tables import table
from auditor.report.text import NOTHING, as_number, figure, plural
from auditor.report.views import Chart, Limits, Section, Table

Document = Mapping[str, Any]
_PANELS, _COLUMNS = 8, 10


def curve_section(document: Document, limits: Limits) -> Section:
    """The section of a `diff-1` document's `growth`: one drawing, and the figures in tables."""
    growth = document["growth"]
    losses = sorted((_loss(each) for each in growth["loss"]), key=lambda each: each[0])
    sources = _by_source(document)
    title = "How far they are apart"
    if not losses and not sources:
        why = "Neither a loss nor an anchor that both runs have at the same step says how far they are apart."
        return Section("curve", title, (why,))
    text = (
        "The loss step by step, and the state in the anchors that both runs have: the norm of the difference over the "
        "norm of A's, in the tensors that differ. 1 is as far as its own size."
    )
    drawn = _chart(losses, sources, limits)
    tables = [*_loss_table(losses), *_source_table(sources, limits)]
    return Section("curve", title, (text,), tuple(tables), () if drawn is None else (drawn,))


def _loss(each: Document) -> tuple[int, float, float]:
    a, b = (as_number(each[side]) for side in ("a", "b"))
    return int(each["step"]), math.nan if a is None else a, math.nan if b is None else b


def _by_source(document: Document) -> dict[str, dict[int, float | None]]:
    """The distance of each source after each step, parameters first; None where it is no number."""
    kinds = {each["source"]: each["kind"] for each in document["parted"]}
    found: dict[str, dict[int, float | None]] = {}
    for point in sorted(document["growth"]["sources"], key=lambda each: kinds.get(each["source"]) != "params"):
        found.setdefault(str(point["source"]), {})[int(point["step"])] = as_number(point["relative"])
    return found


def _chart(
    losses: Sequence[tuple[int, float, float]], sources: Mapping[str, Mapping[int, float | None]], limits: Limits
) -> Chart | None:
    values = _loss_values(losses, limits)
    panels = list(sources.items())[: min(_PANELS, limits.effects)]
    for source, points in panels:
        values += [
            {"panel": "state", "source": source, "step": step, "value": value}
            for step, value in sorted(points.items())[: limits.points]
            if _is_drawn(value)
        ]
    if not values:
        return None
    steps = [step for step, _, _ in losses] + [step for _, points in panels for step in points]
    label = f"How far A and B are apart, steps {min(steps):,} to {max(steps):,}: {', '.join(_told(losses, panels))}."
    caption = ["Over training steps, on logarithmic scales; the panels of the state share theirs."]
    equal = sum(a == b for _, a, b in losses)
    odd = sum(not math.isfinite(a - b) for _, a, b in losses)
    odd += sum(value is None or not math.isfinite(value) for _, points in panels for value in points.values())
    if equal:
        caption.append(f"{plural(equal, 'step')} with equal losses not drawn: zero has no place on this scale.")
    if odd:
        caption.append(f"{plural(odd, 'value')} not finite and not drawn.")
    if len(panels) < len(sources):
        caption.append(f"{plural(len(sources) - len(panels), 'more source')} in the table only.")
    return Chart(charts.divergence(values, label), " ".join(caption))


def _is_drawn(value: float | None) -> bool:
    low, high = charts.LOGARITHMIC
    return value is not None and low <= value <= high


def _loss_values(losses: Sequence[tuple[int, float, float]], limits: Limits) -> list[dict[str, object]]:
    """The points of the loss panel; what cannot stand on a logarithmic scale parts the line into segments."""
    gaps = [(step, abs(a - b) if math.isfinite(a - b) else 0.0) for step, a, b in losses]
    segments: list[list[tuple[int, float]]] = [[]]
    for step, gap in decimate(gaps, limits.points):
        if _is_drawn(gap):
            segments[-1].append((step, gap))
        elif segments[-1]:
            segments.append([])
    return [
        {"panel": "loss", "segment": number, "alone": len(points) == 1, "step": step, "value": gap}
        for number, points in enumerate(segments)
        for step, gap in points
    ]


def _told(
    losses: Sequence[tuple[int, float, float]], panels: Sequence[tuple[str, Mapping[int, float | None]]]
) -> list[str]:
    """Each series from its first to its last value, for a screen reader."""
    said = []
    if losses:
        (_, a, b), (_, c, d) = losses[0], losses[-1]
        said.append(f"loss from {figure(abs(a - b), 2)} to {figure(abs(c - d), 2)}")
    for source, points in panels:
        values = [points[step] for step in sorted(points)]
        said.append(f"{source} from {figure(values[0], 2)} to {figure(values[-1], 2)}")
    return said


def _loss_table(losses: Sequence[tuple[int, float, float]]) -> list[Table]:
    differing = [each for each in losses if each[1] != each[2] and not (math.isnan(each[1]) and math.isnan(each[2]))]
    if not differing:
        return []
    finite = [each for each in differing if math.isfinite(each[1] - each[2])]
    odd = [each for each in differing if not math.isfinite(each[1] - each[2])]
    named = [("first that differs", differing[0])]
    if finite:
        named.append(("farthest apart", max(finite, key=lambda each: abs(each[1] - each[2]))))
    if odd:
        named.append(("first that is not finite", odd[0]))
    named.append(("last", losses[-1]))
    rows = [(which, f"{step:,}", figure(a, 9), figure(b, 9), figure(abs(a - b))) for which, (step, a, b) in named]
    columns = ("which", "step", "A", "B", "|A − B|")
    return [table("Loss of both, in a few numbers", columns, rows, numeric={1, 2, 3, 4})]


def _source_table(sources: Mapping[str, Mapping[int, float | None]], limits: Limits) -> list[Table]:
    if not sources:
        return []
    steps = sorted({step for points in sources.values() for step in points})
    columns = steps if len(steps) <= _COLUMNS else [*steps[: _COLUMNS - 1], steps[-1]]
    rows = [
        (source, *(figure(points[step], 2) if step in points else NOTHING for step in columns))
        for source, points in list(sources.items())[: limits.rows]
    ]
    left = len(steps) - len(columns)
    caption = "Distance after each anchor that both have, as a share of A's norm"
    return [
        table(
            f"{caption} ({plural(left, 'more anchor')} not shown)" if left else caption,
            ("source", *(f"step {step:,}" if step else "start" for step in columns)),
            rows,
            numeric=range(1, len(columns) + 1),
            code={0},
            total=len(sources),
        )
    ]
