"""What must hold before any arm is believed: the fidelity gate, the carry/carry null, and units that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auditor.compare.divergence import Divergence, first_divergence
from auditor.errors import InconclusiveError
from auditor.evidence.run_view import RunView, Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from auditor.replay.cells import Cell, CellStore


def gate_verdict(run: RunView, store: CellStore, gate: Cell) -> dict[str, Any]:
    """Compare the gate cell, which ran on with the recorded streams, with the recording, bit for bit.

    Returns ``{verdict, steps, numerics, first}`` (docs/study.md); ``steps`` counts steps equal in every digest.
    """
    replayed = cell_steps(store, gate)
    begin = gate.description["anchor"]["step"]
    end = gate.description["fork"]["at"] + max(gate.description["horizons"])
    recorded = [step for step in run.steps() if begin < step.step <= end]
    first, equal = first_divergence(recorded, replayed)
    result = store.result(gate)
    same = result["numerics"] == run.environment_at(end)["numerics"]
    if first is None and result["probes"] != run.probes:
        # Other inputs, or other targets: what would be measured is not what was declared when recording.
        first = Divergence(gate.description["fork"]["at"], "probe")
    return {
        "verdict": "passed" if first is None else "failed",
        "steps": equal,
        "numerics": "same" if same else "different",
        "first": None if first is None else {"step": first.step, "source": first.source},
    }


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


def check_units_differ(store: CellStore, carries: Sequence[Cell]) -> None:
    """Refuse units whose streams are the same: one unit counted twice makes every interval too narrow.

    Raises
    ------
    InconclusiveError
        If two units have a stream in the same state at the end.
    """
    seen: dict[tuple[str, str | None], int | None] = {}
    for cell in carries:
        last = cell_steps(store, cell)[-1]
        for stream in last.streams.items():
            if stream in seen:
                raise InconclusiveError(
                    f"units {seen[stream]} and {cell.unit} have the same stream {stream[0]} at step {last.step}",
                    why="every stream was re-keyed at the fork, so the program seeds this one itself afterwards",
                    next_step="take fixed seeding out of the training loop, and record again",
                )
            seen[stream] = cell.unit


def desynchronised(store: CellStore, arm: Cell, carry: Cell) -> list[str]:
    """Return the streams that an arm left in another state than its control: it drew differently."""
    one, two = cell_steps(store, arm)[-1].streams, cell_steps(store, carry)[-1].streams
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def cell_steps(store: CellStore, cell: Cell) -> list[Step]:
    """Return a cell's steps, digests resolved."""
    return list(resolve_steps(read_trace(store.trace(cell)).events))
