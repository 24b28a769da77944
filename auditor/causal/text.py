"""An estimate as text for a terminal."""

from __future__ import annotations

from typing import Any


def lines(estimate: dict[str, Any]) -> list[str]:
    """Return the lines that tell an ``estimate-1``: gate and nulls, a table an arm, its sentences, the verdict last."""
    gate = estimate["gate"]
    passed = gate["verdict"] == "passed"
    told = [
        f"fidelity gate   {gate['verdict']}: {gate['steps']} replayed steps are equal to the recording in every digest"
        if passed
        else f"fidelity gate   failed at step {gate['first']['step']} in {gate['first']['source']} "
        f"(numerics class: {gate['numerics']}); {gate['steps']} steps before it are equal"
    ]
    told += [f"null {null['name']}: {null['verdict']}, {null['message']}" for null in estimate["nulls"]]
    for arm in estimate["arms"]:
        told += ["", *_arm(estimate, arm)]
    told += ["", _verdict(estimate)]
    return told


def _arm(estimate: dict[str, Any], arm: dict[str, Any]) -> list[str]:
    receipts = arm["receipts"]
    told = [f"{arm['name']}  applied in {receipts['applied']} of {receipts['applied'] + receipts['not_applied']} units"]
    if arm.get("desynchronised"):
        told.append(f"  drew differently from its control, so these streams differ: {', '.join(arm['desynchronised'])}")
    rows = [row for row in estimate["estimates"] if row["arm"] == arm["name"]]
    cells = [("outcome", "probe", "horizon", "estimate", "95 % interval", "adjusted p", "verdict")]
    cells += [
        (
            row["outcome"],
            row["probe"],
            str(row["horizon"]),
            _number(row["estimate"]),
            "–" if row["interval"] is None else f"[{_number(row['interval'][0])}, {_number(row['interval'][1])}]",
            _number(row["adjusted_p_value"]),
            row["verdict"],
        )
        for row in rows
    ]
    widths = [max(len(cell[column]) for cell in cells) for column in range(len(cells[0]))]
    for cell in cells:
        told.append("  " + "  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip())
    decided = [row for row in rows if row["verdict"] in ("effect", "equivalent", "not applied")]
    told += [f"  {row['sentence']}" for row in decided]
    told += [f"  warning: {text}" for text in dict.fromkeys(text for row in rows for text in row["warnings"])]
    return told


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.3g}"


def _verdict(estimate: dict[str, Any]) -> str:
    if estimate["verdict"] == "gate failed":
        return "inconclusive: the replay does not reproduce the recording, so no arm was run"
    if estimate["verdict"] == "null failed":
        return "nothing is reported: two runs of the control for one unit differ, so no difference means anything"
    rows = estimate["estimates"]
    effects = sum(row["verdict"] == "effect" for row in rows)
    tested = sum(row["verdict"] != "descriptive" for row in rows)
    return f"complete: {effects} of {tested} tested contrasts show an effect; {estimate['conditional']}"
