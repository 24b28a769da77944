"""An estimate as text for a terminal."""

from __future__ import annotations

from typing import Any

_TESTED = ("effect", "equivalent", "inconclusive")


def lines(estimate: dict[str, Any]) -> list[str]:
    """Return the lines that tell an ``estimate-1``: each fork's gate, nulls and arms, the verdict last."""
    told: list[str] = []
    for number, fork in enumerate(estimate["forks"]):
        if len(estimate["forks"]) > 1:
            told += ["", f"{fork['run']['path']} after step {fork['at']}", ""]
        told += _controls(fork)
        for arm in fork["arms"]:
            told += ["", *_arm([row for row in estimate["estimates"] if row["fork"] == number], arm)]
    told += ["", _verdict(estimate)]
    return told


def _controls(fork: dict[str, Any]) -> list[str]:
    gate, reach = fork["gate"], fork["reach"]
    told = [f"reach           {reach['way']}" + (f" from {reach['anchor']}" if reach["anchor"] else "")]
    if gate["verdict"] == "passed":
        told.append(
            f"fidelity gate   passed: {gate['steps']} replayed steps are equal to the recording in every digest"
        )
    else:
        told.append(
            f"fidelity gate   failed at step {gate['first']['step']} in {gate['first']['source']} "
            f"(numerics class: {gate['numerics']}); {gate['steps']} steps before it are equal"
        )
        for cause in gate["causes"]:
            told.append(f"  {cause['class']} ({cause['confidence']}): {'; '.join(cause['evidence'])}")
    told += [f"null {null['name']}: {null['verdict']}, {null['message']}" for null in fork["nulls"]]
    sizes: dict[str, list[str]] = {}
    for size in (size for null in fork["nulls"] for size in null.get("sizes", [])):
        what = f"{size['outcome']} on {size['probe']}" if size["probe"] else size["outcome"]
        sizes.setdefault(what, []).append(f"{_number(size['size'])} after {size['horizon']}")
    return told + [f"  {what}: {', '.join(values)}" for what, values in sizes.items()]


def _arm(of_fork: list[dict[str, Any]], arm: dict[str, Any]) -> list[str]:
    receipts = arm["receipts"]
    told = [f"{arm['name']}  applied in {receipts['applied']} of {receipts['applied'] + receipts['not_applied']} units"]
    if arm.get("desynchronised"):
        told.append(f"  drew differently from its control, so these streams differ: {', '.join(arm['desynchronised'])}")
    rows = [row for row in of_fork if row["arm"] == arm["name"]]
    warnings = [f"  warning: {text}" for text in dict.fromkeys(text for row in rows for text in row["warnings"])]
    if rows and all(row["verdict"] == "not applied" for row in rows):
        return told + warnings
    level = f"{100 * rows[0]['level']:.4g} % interval" if rows else "interval"
    cells = [("outcome", "probe", "horizon", "estimate", level, "adjusted p", "verdict")]
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
    decided = [row for row in rows if row["verdict"] in ("effect", "equivalent")]
    return [*told, *(f"  {row['sentence']}" for row in decided), *warnings]


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.3g}"


def _verdict(estimate: dict[str, Any]) -> str:
    rows, look = estimate["estimates"], estimate["look"]
    failed = [fork for fork in estimate["forks"] if fork["verdict"] != "complete"]
    what = {
        "gate failed": "inconclusive: the replay does not reproduce the recording, so no arm was run",
        "null failed": "nothing is reported: a comparison that must show nothing showed something",
    }
    worst = what.get(estimate["verdict"])
    if worst is not None and not rows:
        return worst
    effects = sum(row["verdict"] == "effect" for row in rows)
    # Where there is no interval, nothing was tested: an outcome that nobody measured, or too few units.
    tested = sum(row["verdict"] in _TESTED and row["interval"] is not None for row in rows)
    shown = f"{effects} of {tested} tested contrasts show an effect" if tested else "nothing could be tested"
    told = f"{shown}; {estimate['conditional']}"
    if look["looks"] > 1:
        told += f"; look {look['number']} of {look['looks']}, after {look['units']} of {look['of']} units"
    if worst is not None:
        return f"{worst} at {len(failed)} of {len(estimate['forks'])} forks; elsewhere {told}"
    return f"complete: {told}"
