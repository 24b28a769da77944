"""The nulls of a study: carry/carry, save/load/continue, the floor of one unit in the last place, units that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auditor.compare.divergence import first_divergence
from auditor.errors import InconclusiveError
from auditor.evidence.run_view import Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from auditor.replay.cells import Cell, CellStore
from auditor.replay.fidelity import span
from auditor.replay.reach import Reach


def carry_null(store: CellStore, one: Cell, two: Cell) -> dict[str, Any]:
    """Compare two runs of the control for the same unit, bit for bit; return ``{name, verdict, message}``."""
    first, equal = first_divergence(cell_steps(store, one), cell_steps(store, two))
    if first is None:
        results = [store.result(cell) for cell in (one, two)]
        if results[0]["horizons"] == results[1]["horizons"]:
            return {"name": "carry/carry", "verdict": "passed", "message": f"{equal} steps are equal in every digest"}
        message = "every digest is equal, and the outcomes are not"
    else:
        message = f"they part at step {first.step} in {first.source}: the program does not repeat itself here"
    return {"name": "carry/carry", "verdict": "failed", "message": message}


def load_null(reached: Reach, gate: Cell, verdict: dict[str, Any]) -> dict[str, Any]:
    """Return ``{name, verdict, message}`` of save, load and continue.

    Where cells come from an anchor, the gate is this null: what the recording saved was loaded in a fresh process that
    went on, and is compared with the recording, which was never interrupted.
    """
    name = "save/load/continue"
    begin, _ = span(gate)
    if reached.anchor is None or reached.way != "restore":
        how = "are forked from a live process" if reached.way == "fork" else "run from the program's start"
        message = f"cells {how}: none goes on from what it loads"
        return {"name": name, "verdict": "not applied", "message": message}
    if verdict["verdict"] != "passed":
        return {"name": name, "verdict": "failed", "message": "what was loaded does not go on as the recording did"}
    message = (
        f"{reached.anchor['path']}, loaded anew, goes on as the recording did: {verdict['steps']} steps "
        f"from {begin + 1} on are equal in every digest"
    )
    return {"name": name, "verdict": "passed", "message": message}


def floor_null(rows: Sequence[dict[str, Any]], reason: str) -> dict[str, Any]:
    """Return ``{name, verdict, message, sizes}`` of the floor: what one unit in the last place of every weight does.

    ``rows`` are the estimate's rows of that arm; a size is the mean over units of the distance, or of the difference's
    absolute value. It never fails: an effect is to be read beside it.
    """
    name = "1-ulp floor"
    if reason:
        return {"name": name, "verdict": "not applied", "message": reason, "sizes": []}
    sizes = [
        {
            **{member: row[member] for member in ("probe", "outcome", "horizon")},
            "units": len(row["units"]),
            "size": sum(map(abs, row["differences"])) / len(row["differences"]),
        }
        for row in rows
        if row["differences"] and all(isinstance(value, float | int) for value in row["differences"])
    ]
    if not sizes:
        message = "every weight moved by one unit in the last place; no outcome of the plan could be measured"
        return {"name": name, "verdict": "measured", "message": message, "sizes": []}
    units = max(size["units"] for size in sizes)
    message = f"every weight moved by one unit in the last place, in {units} units; mean size:"
    return {"name": name, "verdict": "measured", "message": message, "sizes": sizes}


def check_units_differ(store: CellStore, carries: Sequence[Cell]) -> None:
    """Refuse units whose streams are the same: one unit counted twice makes every interval too narrow.

    Raises
    ------
    InconclusiveError
        If two units have a stream in the same state at the end.
    """
    seen: dict[tuple[str, str | None], int | None] = {}
    for cell in carries:
        for stream in store.result(cell)["streams"].items():
            if stream in seen:
                _, last = span(cell)
                raise InconclusiveError(
                    f"units {seen[stream]} and {cell.unit} have the same stream {stream[0]} at step {last}",
                    why="every stream was re-keyed at the fork, so the program seeds this one itself afterwards",
                    next_step="take fixed seeding out of the training loop, and record again",
                )
            seen[stream] = cell.unit


def desynchronised(store: CellStore, arm: Cell, carry: Cell) -> list[str]:
    """Return the streams that an arm left in another state than its control: it drew differently."""
    one, two = (store.result(cell)["streams"] for cell in (arm, carry))
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def cell_steps(store: CellStore, cell: Cell) -> list[Step]:
    """Return a cell's steps, digests resolved."""
    return list(resolve_steps(read_trace(store.trace(cell)).events))
