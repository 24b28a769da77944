"""Cells: one arm run for one unit, stored under the hash of everything that determines it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import auditor
from auditor.artifact import strict_json
from auditor.artifact.canonical import canonical_bytes, write_canonical
from auditor.artifact.intervention_table import AT, kind_of, takes_from
from auditor.artifact.run_directory import TRACE
from auditor.errors import MemauditError
from auditor.evidence.run_view import RunView
from auditor.replay.order_places import ORDER, Walked
from auditor.replay.plan import CONTROL, FLOOR, GATE, Plan, PlanError, PlannedArm, PlannedFork
from auditor.replay.reach import Reach

FORMAT = "cell-1"
FLOOR_UNITS = 5
"""In how many units the floor is measured: a mean of a few is enough to read an effect beside."""


@dataclass(frozen=True)
class Cell:
    """One cell: what it is called, and its description, which is hashed."""

    arm: str
    unit: int | None
    """The fork seed; None for the gate, which runs on with the recorded streams."""
    repeat: int
    """0, or 1 for the second carry of the carry/carry null."""
    description: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of cell.json."""
        return hashlib.sha256(canonical_bytes(self.description) + b"\n").hexdigest()

    @property
    def title(self) -> str:
        """The cell's name for people."""
        unit = "recorded streams" if self.unit is None else f"unit {self.unit}"
        return f"{self.arm}, {unit}" + (", again" if self.repeat else "")


@dataclass(frozen=True)
class ForkCells:
    """Every cell of one fork, by what it is for."""

    gate: Cell
    """The recorded streams run on."""
    again: Cell
    """The first unit's control once more."""
    carries: dict[int, Cell]
    """The control, by unit."""
    floor: dict[int, Cell]
    """The floor of one unit in the last place, by unit: the first few."""
    arms: dict[str, dict[int, Cell]]
    """The treated arms, by name and unit."""
    donors: dict[str, tuple[Cell, ...]]
    """By the hash of a cell that takes buffers from others: the cells that give them."""

    def all(self) -> list[Cell]:
        """Return every cell, in the order in which they are run."""
        return [self.gate, self.again, *self.of_units(list(self.carries))]

    def of_units(self, units: Sequence[int]) -> list[Cell]:
        """Return the cells of these units: controls (those that give to them too), floor, arms."""
        arms = [by_unit[unit] for unit in units for by_unit in self.arms.values()]
        givers = [giver for cell in arms for giver in self.donors.get(cell.hash, ())]
        controls = {cell.hash: cell for cell in (*(self.carries[unit] for unit in units), *givers)}
        return [*controls.values(), *(self.floor[unit] for unit in units if unit in self.floor), *arms]


def plan_cells(plan: Plan, fork: PlannedFork, run: RunView, reached: Reach) -> ForkCells:
    """Return every cell of one fork of a study.

    Raises
    ------
    PlanError
        If an order intervention names steps that are not the rollout's, or lie in several passes, or buffers are to
        be swapped between units and there is only one.
    """
    arms = [arm.at(fork.at) for arm in plan.arms]
    places = _order_places(arms, run, fork.at, fork.at + plan.last)
    base = {
        **description_of(run, reached, at=fork.at, last=fork.at + plan.last),
        "horizons": list(plan.horizons),
    }

    def cell(arm: PlannedArm, unit: int | None, more: Mapping[str, Any] | None = None, repeat: int = 0) -> Cell:
        key = None if unit is None else f"{plan.seed}/{unit}"
        about = {"arm": arm.name, "do": list(arm.do), "unit": unit, "key": key, "repeat": repeat}
        return Cell(arm.name, unit, repeat, {**base, **about, **(more or {})})

    given = _given(arms, fork.at)
    carry = PlannedArm(CONTROL, ())
    giving = {"give": given} if given else {}
    carries = {unit: cell(carry, unit, giving) for unit in plan.seeds}
    donors: dict[str, tuple[Cell, ...]] = {}
    treated: dict[str, dict[int, Cell]] = {arm.name: {} for arm in arms}
    for arm in arms:
        for number, unit in enumerate(plan.seeds):
            other = plan.seeds[(number + 1) % len(plan.seeds)]
            givers = [_giver(item, carries, unit, other, arm.name) for item in arm.do]
            more: dict[str, Any] = {"order": places[arm.name]} if arm.name in places else {}
            if any(givers):
                more["take"] = [
                    None if giver is None else {"cell": giver.hash, "step": item.get(AT, fork.at)}
                    for giver, item in zip(givers, arm.do, strict=True)
                ]
            treated[arm.name][unit] = new = cell(arm, unit, more)
            donors[new.hash] = tuple(giver for giver in givers if giver is not None)
    floor = PlannedArm(FLOOR, ({"source": "params", "do": "jitter"},))
    return ForkCells(
        gate=cell(PlannedArm(GATE, ()), None),
        again=cell(carry, plan.seeds[0], giving, repeat=1),
        carries=carries,
        floor={unit: cell(floor, unit) for unit in plan.seeds[:FLOOR_UNITS]},
        arms=treated,
        donors=donors,
    )


def _order_places(
    arms: Sequence[PlannedArm], run: RunView, first: int, last: int
) -> dict[str, list[dict[str, Any] | None]]:
    """Return, for each arm with an order intervention, where each of its interventions acts."""
    acting = [arm for arm in arms if any(kind_of(item["source"]) == ORDER for item in arm.do)]
    if not acting:
        return {}
    walked = Walked.of(run, first, last)
    return {arm.name: [walked.place(item) for item in arm.do] for arm in acting}


def _given(arms: Sequence[PlannedArm], fork: int) -> list[dict[str, Any]]:
    """Return what the controls give to arms that take buffers: ``{step, source}`` each, sorted."""
    wanted = {(item.get(AT, fork), item["source"]) for arm in arms for item in arm.do if takes_from(item) is not None}
    return [{"step": step, "source": source} for step, source in sorted(wanted)]


def _giver(item: dict[str, Any], carries: Mapping[int, Cell], unit: int, other: int, arm: str) -> Cell | None:
    """Return the control that an intervention takes buffers from, or None."""
    match takes_from(item):
        case "control":
            return carries[unit]
        case "other unit":
            if unit == other:
                raise PlanError(
                    "buffers are swapped between units, and there is only one", where=arm, next_step="use more units"
                )
            return carries[other]
    return None


def description_of(run: RunView, reached: Reach, *, at: int, last: int) -> dict[str, Any]:
    """Return what every cell's description holds, whatever it is to do after step ``at``; ``last`` is its last step."""
    environment = run.environment_at(last)
    numerics, program = environment["numerics"], environment["program"]
    anchor = reached.anchor
    place = ("path", "files", "step", "pass", "epoch", "position", "at")
    return {
        "format": FORMAT,
        "memaudit": auditor.__version__,
        "run": {"manifest": run.manifest_sha256},
        "program": {"sha256": program["sha256"], "argv": program["argv"], "modules": program["modules"]},
        "seed": run.start["seed"],
        "threads": numerics["threads"],
        "interop_threads": numerics["interop_threads"],
        "reach": reached.way,
        "anchor": None if anchor is None else {key: anchor[key] for key in place},
        "fork": {"at": at, "where": reached.where, "before": reached.before},
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
        """Return whether the cell has finished; a result that was cut short is none."""
        return _result_of(self.path(cell)) is not None

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
        result = _result_of(working)
        if result is None:
            if (working / "result.json").exists():
                return "its result.json cannot be read"
            if (working / TRACE).exists():
                return "the program's process ended in the middle of the training, past everything that tells why"
            return "the program ended without reaching its recorder: did it enter auditor.record()?"
        if result["status"] != "finished":
            return str(result.get("error"))
        shutil.rmtree(self.path(cell), ignore_errors=True)  # what is there is not a whole cell
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


def _result_of(directory: Path) -> dict[str, Any] | None:
    """Return the result in a cell's directory, or None if there is none that can be read."""
    path = directory / "result.json"
    try:
        value = strict_json.parse_canonical(path.read_bytes(), str(path))
    except (OSError, MemauditError):
        return None
    return value if isinstance(value, dict) and "status" in value else None
