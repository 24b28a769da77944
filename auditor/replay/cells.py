"""Cells: one arm run for one unit, stored under the hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import auditor
from auditor.artifact import strict_json
from auditor.artifact.canonical import canonical_bytes, write_canonical
from auditor.artifact.intervention_table import kind_of
from auditor.evidence.run_view import RunView
from auditor.replay.order_places import ORDER, Walked
from auditor.replay.plan import CONTROL, GATE, Plan, PlannedArm
from auditor.replay.reach import Reach

FORMAT = "cell-1"


@dataclass(frozen=True)
class Cell:
    """One cell: what it is called, and its description, which is hashed."""

    arm: str
    unit: int | None
    """The fork seed; None for the gate, which runs on with the recorded streams."""
    repeat: int
    """0, or 1 for the second carry of the carry/carry null."""
    description: dict[str, Any]

    @property
    def hash(self) -> str:
        """The SHA-256 of cell.json."""
        return hashlib.sha256(canonical_bytes(self.description) + b"\n").hexdigest()

    @property
    def title(self) -> str:
        """The cell's name for people."""
        unit = "recorded streams" if self.unit is None else f"unit {self.unit}"
        return f"{self.arm}, {unit}" + (", again" if self.repeat else "")


def plan_cells(plan: Plan, run: RunView, reached: Reach) -> list[Cell]:
    """Return every cell of a study: the gate, carry twice for the first unit, then carry and each arm for each unit.

    Raises
    ------
    PlanError
        If an order intervention names steps that are not the rollout's, or lie in several passes.
    """
    carry = PlannedArm(CONTROL, ())
    places = _order_places(plan, run)
    first = plan.seeds[0]
    cells = [
        _cell(plan, run, reached, PlannedArm(GATE, ()), None, 0),
        _cell(plan, run, reached, carry, first, 0),
        _cell(plan, run, reached, carry, first, 1),
    ]
    cells += [_cell(plan, run, reached, carry, unit, 0) for unit in plan.seeds[1:]]
    cells += [_cell(plan, run, reached, arm, unit, 0, places.get(arm.name)) for unit in plan.seeds for arm in plan.arms]
    return cells


def _order_places(plan: Plan, run: RunView) -> dict[str, list[dict[str, Any] | None]]:
    """Return, for each arm with an order intervention, where each of its interventions acts."""
    arms = [arm for arm in plan.arms if any(kind_of(item["source"]) == ORDER for item in arm.do)]
    if not arms:
        return {}
    walked = Walked.of(run, plan.at, plan.at + max(plan.horizons))
    return {arm.name: [walked.place(item) for item in arm.do] for arm in arms}


def _cell(
    plan: Plan,
    run: RunView,
    reached: Reach,
    arm: PlannedArm,
    unit: int | None,
    repeat: int,
    order: list[dict[str, Any] | None] | None = None,
) -> Cell:
    description = {
        **description_of(run, reached.anchor, at=plan.at, where=reached.where, last=plan.at + max(plan.horizons)),
        "arm": arm.name,
        "do": list(arm.do),
        "unit": unit,
        "key": None if unit is None else f"{plan.seed}/{unit}",
        "repeat": repeat,
        "horizons": list(plan.horizons),
        **({} if order is None else {"order": order}),
    }
    return Cell(arm.name, unit, repeat, description)


def description_of(run: RunView, anchor: dict[str, Any], *, at: int, where: str, last: int) -> dict[str, Any]:
    """Return what every cell's description holds, whatever it is to do after step ``at``; ``last`` is its last step."""
    environment = run.environment_at(last)
    numerics, program = environment["numerics"], environment["program"]
    return {
        "format": FORMAT,
        "memaudit": auditor.__version__,
        "run": {"manifest": run.manifest_sha256},
        "program": {"sha256": program["sha256"], "argv": program["argv"], "modules": program["modules"]},
        "seed": run.start["seed"],
        "threads": numerics["threads"],
        "interop_threads": numerics["interop_threads"],
        "anchor": {key: anchor[key] for key in ("path", "files", "step", "pass", "epoch", "position", "at")},
        "fork": {"at": at, "where": where},
    }


class CellStore:
    """The cells of a study on disk. A cell is there whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, cell: Cell) -> Path:
        """Return where a finished cell lies."""
        return self.directory / cell.hash

    def is_done(self, cell: Cell) -> bool:
        """Return whether the cell has finished."""
        return (self.path(cell) / "result.json").is_file()

    def begin(self, cell: Cell) -> Path:
        """Make a fresh working directory for a cell, without what a killed attempt left."""
        working = self._working(cell)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        write_canonical(working / "cell.json", cell.description)
        return working

    def commit(self, cell: Cell) -> str | None:
        """Give a finished cell its name; return why it did not finish, or None.

        A cell that failed keeps its working directory, log included, until it is tried again.
        """
        working = self._working(cell)
        try:
            result = json.loads((working / "result.json").read_text("utf-8"))
        except FileNotFoundError:
            return "the program ended without reaching its recorder: did it enter auditor.record()?"
        if result["status"] != "finished":
            return str(result["error"])
        working.rename(self.path(cell))
        return None

    def log(self, cell: Cell) -> Path:
        """Return the log of a cell that failed."""
        return self._working(cell) / "log.txt"

    def _working(self, cell: Cell) -> Path:
        # Named after this process: one that a killed study left behind may still be writing into its own.
        return self.directory / f".{cell.hash}.{os.getpid()}.part"

    def sweep(self) -> None:
        """Remove what killed attempts left."""
        for path in self.directory.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)

    def result(self, cell: Cell) -> dict[str, Any]:
        """Return a finished cell's result.json."""
        path = self.path(cell) / "result.json"
        value: dict[str, Any] = strict_json.parse_canonical(path.read_bytes(), str(path))
        return value

    def predictions(self, cell: Cell, probe: str, horizon: int) -> np.ndarray[Any, Any] | None:
        """Return float64 predictions ``[samples, …]`` of a probe at a horizon, or None if there are none."""
        path = self.path(cell) / "predictions" / f"{probe}-h{horizon:06d}.npy"
        if not path.is_file():
            return None
        array: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
        return array

    def trace(self, cell: Cell) -> bytes:
        """Return a finished cell's trace."""
        return (self.path(cell) / "trace.jsonl").read_bytes()
