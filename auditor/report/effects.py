"""The rows of an estimate as the page shows them: by probe and outcome, a forest plot, tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.causal.inference import pairing_gain
from auditor.causal.wording import DISTANCE_WORDS, p_text, steps_text
from auditor.report import charts
from auditor.report.marks import ROWS, Mark, mark
from auditor.report.tables import table
from auditor.report.text import NOTHING, as_number, figure, plural
from auditor.report.views import Chart, Effect, Limits, Table

Row = Mapping[str, Any]
#: Arms in one chart: past this it is a wall, and the table says it better.
MOST_BARS = 40


def effects(rows: Sequence[Row], limits: Limits) -> tuple[Effect, ...]:
    """One `Effect` for each probe and outcome, in the order of the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["probe"]), str(row["outcome"])), []).append(row)
    several = len({probe for probe, _ in groups}) > 1
    return tuple(
        _effect(probe, outcome, found, several, limits)
        for (probe, outcome), found in list(groups.items())[: limits.effects]
    )


def hidden(rows: Sequence[Row], limits: Limits) -> int:
    """How many probes and outcomes are not shown."""
    return max(0, len({(row["probe"], row["outcome"]) for row in rows}) - limits.effects)


def _effect(probe: str, outcome: str, rows: Sequence[Row], several: bool, limits: Limits) -> Effect:
    distance = rows[0]["estimand"] == "function distance"
    word = DISTANCE_WORDS.get(outcome, outcome)
    heading = f"{word[:1].upper() + word[1:] if distance else word}{f' on {probe}' if several else ''}"
    level = as_number(rows[0]["level"])
    percent = f"{100 * level:.4g} %" if level is not None else "stated"
    where = f"on probe {probe}" if probe else "as the program itself measures it"
    note = (
        f"Mean distance between the treated and the carried network's predictions {where}. It is never "
        f"negative and never tested against zero; the {percent} interval describes its mean."
        if distance
        else f"Treated minus carried, paired by unit, {where}, with a {percent} interval. Right of the dashed "
        "line, the intervention raised it."
    )
    shown = rows[: limits.rows]
    return Effect(
        heading=heading,
        note=note,
        chart=_forest(word, where, rows, distance),
        table=_table(word, shown, len(rows)),
        sentences=tuple((mark(ROWS, str(row["verdict"])), str(row["sentence"])) for row in shown),
        warnings=_warnings(shown),
        units=_units(word, rows, limits),
    )


def _forest(word: str, where: str, rows: Sequence[Row], distance: bool) -> Chart | None:
    values = []
    for row in rows:
        estimate = as_number(row["estimate"])
        interval = row["interval"]
        if estimate is None or not math.isfinite(estimate):
            continue
        low, high = (as_number(interval[0]), as_number(interval[1])) if interval else (None, None)
        bar = {"low": low, "high": high} if low is not None and high is not None else {}
        place = {"arm": row["arm"], "when": steps_text(int(row["horizon"])), "horizon": int(row["horizon"])}
        values.append({**place, "estimate": estimate, "verdict": row["verdict"], **bar})
    if not values or len(values) > MOST_BARS:
        return None
    what = f"mean {word}" if distance else f"difference in {word}"
    label = (
        f"Forest plot of the {what} for {plural(len({v['arm'] for v in values}), 'arm')}; the table has the numbers."
    )
    drawn = charts.forest(values, label, what)
    legend = (
        "Square: estimate. Line: interval of the mean."
        if distance
        else "Circle: effect. Diamond: equivalent. Triangle: inconclusive. Line: interval."
    )
    return Chart(drawn, f"{what[:1].upper() + what[1:]} {where}. {legend}")


def _table(word: str, rows: Sequence[Row], total: int) -> Table:
    lines: list[tuple[str | Mark, ...]] = []
    for row in rows:
        interval = row["interval"]
        gain = pairing_gain([_number(v) for v in row["treated"] or ()], [_number(v) for v in row["control"] or ()])
        lines.append(
            (
                str(row["arm"]),
                str(row["horizon"]),
                mark(ROWS, str(row["verdict"])),
                figure(row["estimate"], 3),
                _interval(interval, str(row["verdict"])),
                _p(row["p_value"]),
                _p(row["adjusted_p_value"]),
                str(len(row["units"])),
                NOTHING if gain is None else f"{100 * gain:.0f} %",
            )
        )
    columns = ("arm", "horizon", "verdict", "estimate", "interval", "p", "adjusted p", "units", "variance kept")
    if rows and rows[0]["estimand"] == "function distance":
        # Never tested and not paired, so that neither p-values nor the variance kept mean anything.
        keep = (0, 1, 2, 3, 4, 7)
        lines = [tuple(line[i] for i in keep) for line in lines]
        names = [columns[i] for i in keep]
        return table(f"{word}: every arm and horizon", names, lines, numeric={1, 3, 4, 5}, total=total)
    return table(
        f"{word}: every arm and horizon. Variance kept: the paired difference's over the sum of both arms'; "
        "below 1, pairing paid.",
        columns,
        lines,
        numeric={1, 3, 4, 5, 6, 7, 8},
        total=total,
    )


def _units(word: str, rows: Sequence[Row], limits: Limits) -> tuple[Table, ...]:
    """One table for each horizon: a line for each unit, a column for each arm, and what is shared in front."""
    tables = []
    for horizon in sorted({int(row["horizon"]) for row in rows})[: max(2, limits.rows // 20)]:
        here = [row for row in rows if row["horizon"] == horizon][:8]
        units = sorted({int(unit) for row in here for unit in row["units"]})
        if not units:
            continue
        by_arm = [dict(zip(row["units"], row["differences"], strict=False)) for row in here]
        carried: dict[int, Any] = {}
        for row in here:
            carried.update(zip(row["units"], row["control"] or (), strict=False))
        lines = [
            (
                str(unit),
                *([figure(carried.get(unit), 5)] if carried else []),
                *(figure(arm.get(unit), 4) for arm in by_arm),
            )
            for unit in units[: limits.rows]
        ]
        columns = ("unit", *(["carry"] if carried else []), *(str(row["arm"]) for row in here))
        what = "differences from the carried unit" if carried else "distances"
        tables.append(
            table(
                f"{word}, {steps_text(horizon)}: {what}, unit by unit",
                columns,
                lines,
                numeric=set(range(1, len(columns))),
                total=len(units),
            )
        )
    return tuple(tables)


def _warnings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Each warning once, with the arms it is about where it is not about all of them."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for warning in row["warnings"]:
            about.setdefault(str(warning), []).append(f"{row['arm']} at {row['horizon']}")
    return tuple(
        text if len(who) == len(rows) else f"{text} ({', '.join(who[:6])}{' …' if len(who) > 6 else ''})"
        for text, who in about.items()
    )


def _number(value: object) -> float:
    number = as_number(value)
    return float("nan") if number is None else number


def _interval(interval: Sequence[object] | None, verdict: str) -> str:
    if interval is None:
        return NOTHING if verdict == "not applied" else "refused"
    return f"[{figure(interval[0], 3)}, {figure(interval[1], 3)}]"


def _p(value: object) -> str:
    number = as_number(value)
    return NOTHING if number is None else p_text(number)
