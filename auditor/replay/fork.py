"""One fork of a study: a run, the step after which its arms part, its cells, and what they showed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from auditor.artifact.intervention_table import kind_of
from auditor.causal.distances import DISTANCES
from auditor.causal.estimate import Arm, CellOutcome, build_rows
from auditor.errors import MemauditError
from auditor.evidence.run_view import RunView
from auditor.replay.cells import Cell, CellStore, plan_cells
from auditor.replay.fidelity import gate_verdict
from auditor.replay.nulls import carry_null, check_units_differ, desynchronised, floor_null, load_null
from auditor.replay.plan import CONTROL, FLOOR, Plan
from auditor.replay.program import launch_of
from auditor.replay.reach import reach

PASSED = ("passed", "measured", "not applied")
"""What a null may say without failing."""


class Fork:
    """One fork of a plan, by its number there.

    Raises
    ------
    MemauditError
        If its run cannot be replayed, or an arm names what the run does not have.
    InconclusiveError
        If the step cannot be come back to.
    """

    def __init__(self, plan: Plan, number: int, run: RunView) -> None:
        if run.predicate is None or run.predicate["status"] != "completed":
            raise MemauditError(
                "only a finished run can be replayed", where=str(run.path), next_step=f"memaudit verify {run.path}"
            )
        self.plan = plan
        self.number = number
        self.at = plan.forks[number].at
        self.run = run
        self.launch = launch_of(run)
        self._check_names()
        self._refused: list[tuple[str, str]] = []
        self._plan_cells()
        self.gate: dict[str, Any] = {}
        self.nulls: list[dict[str, Any]] = []

    def refuse(self, way: str, reason: str) -> None:
        """Come to the fork in another way than this one, which turned out not to work.

        Raises
        ------
        InconclusiveError
            If the plan asks for this way, or there is no other.
        """
        self._refused.append((way, reason))
        self._plan_cells()

    @property
    def name(self) -> str:
        """The fork's name for people."""
        return self.plan.forks[self.number].name

    @property
    def steps(self) -> int:
        """Steps that a cell takes from where it begins to its last horizon; of a forked one, those after the fork."""
        return self.at + self.plan.last - self.reached.begins - self.trunk_steps

    @property
    def trunk_steps(self) -> int:
        """Steps that are taken once for all cells."""
        return self.at - self.reached.begins if self.reached.way == "fork" else 0

    @property
    def verdict(self) -> str:
        """``complete``, ``gate failed`` or ``null failed``; after :meth:`examine`."""
        if self.gate["verdict"] != "passed":
            return "gate failed"
        return "complete" if all(null["verdict"] in PASSED for null in self.nulls) else "null failed"

    def controls(self) -> list[Cell]:
        """Return what must run before any arm: the gate, and the first unit's control twice."""
        return [self.cells.gate, self.cells.carries[self.plan.seeds[0]], self.cells.again]

    def first_cells(self) -> list[Cell]:
        """Return the controls, and the second unit's with them: it is needed in any case, and fills a pair of cores."""
        return [*self.controls(), *(self.cells.carries[unit] for unit in self.plan.seeds[1:2])]

    def examine(self, store: CellStore) -> None:
        """Judge gate and nulls, from the cells of :meth:`controls`."""
        gate, first, again = self.controls()
        self.gate = gate_verdict(self.run, store, gate)
        self.nulls = [carry_null(store, first, again), load_null(self.reached, gate, self.gate)]

    def check_units(self, store: CellStore, units: Sequence[int]) -> None:
        """Refuse units whose streams are the same."""
        check_units_differ(store, [self.cells.carries[unit] for unit in units])

    def outcomes(self, store: CellStore, units: Sequence[int], arms: Sequence[str]) -> list[CellOutcome]:
        """Return what the control and these arms measured in these units."""
        found: list[CellOutcome] = []
        by_arm = {CONTROL: self.cells.carries, FLOOR: self.cells.floor, **self.cells.arms}
        for arm in (CONTROL, *arms):
            for unit in units:
                if unit in by_arm[arm]:
                    found += self._measured(store, by_arm[arm][unit])
        return found

    def outcome_names(self, store: CellStore) -> list[str]:
        """Return the plan's outcomes, and the scalars that the program named itself."""
        horizons = store.result(self.controls()[1])["horizons"]
        own = sorted({name for probes in horizons.values() for name in probes.get("", {})})
        return [*self.plan.outcomes, *(name for name in own if name not in self.plan.outcomes)]

    def measured_names(self, store: CellStore) -> set[str]:
        """Return the names of all that the control measured, the distances among them where there are classes."""
        found = self._measured(store, self.controls()[1])
        distances = set(DISTANCES) if any(each.predictions is not None for each in found) else set()
        return {name for each in found for name in each.values} | distances

    def arms(self, store: CellStore, units: Sequence[int]) -> list[Arm]:
        """Return the arms for the estimate, with what their receipts say."""
        found = []
        for planned in self.plan.arms:
            cells = [self.cells.arms[planned.name][unit] for unit in units]
            missed, reason = _not_applied(store, cells)
            found.append(
                Arm(
                    planned.name,
                    planned.at(self.at).do,
                    applied=len(cells) - missed,
                    not_applied=missed,
                    reason=reason,
                    fork=self.number,
                )
            )
        return found

    def document(self, store: CellStore, units: Sequence[int]) -> dict[str, Any]:
        """Return the fork's member of ``forks`` in estimate.json."""
        complete = self.verdict == "complete"
        reached = self.reached
        return {
            "run": {
                "path": str(self.run.path),
                "manifest_sha256": self.run.manifest_sha256,
                "trace_head": (self.run.predicate or {})["trace"]["head"],
            },
            "at": self.at,
            "reach": {
                "way": reached.way,
                "anchor": None if reached.anchor is None else reached.anchor["path"],
                "refused": [{"way": way, "reason": reason} for way, reason in reached.refused],
            },
            "verdict": self.verdict,
            "gate": self.gate,
            "nulls": [*self.nulls, *([self._floor(store, units)] if complete else [])],
            "arms": self._summaries(store, units) if complete else [],
        }

    def _plan_cells(self) -> None:
        place = self.plan.forks[self.number]
        self.reached = reach(self.run, self.at, self.plan.last, self.plan.reach, without=self._refused)
        self.cells = plan_cells(self.plan, place, self.run, self.reached)

    def _check_names(self) -> None:
        """Refuse a name that is a misspelling of one in the census; what is not there may be "not applied"."""
        names = [entry["name"] for entry in self.run.census["sources"]]
        names += [f"stream.{entry['name']}" for entry in self.run.census["streams"]]
        for arm in self.plan.arms:
            for description in arm.do:
                source = description["source"]
                near = difflib.get_close_matches(source, names, n=1, cutoff=0.85)
                if source in names or not near or "." not in source or kind_of(near[0]) != kind_of(source):
                    continue
                raise MemauditError(
                    f"the run has no memory source {source}", where=arm.name, next_step=f"did you mean {near[0]}?"
                )
        for probe in self.plan.probes or ():
            if probe not in self.run.probes:
                raise MemauditError(
                    f"the run has no probe {probe}",
                    where=str(self.run.path),
                    next_step=f"its probes are {', '.join(sorted(self.run.probes)) or 'none'}",
                )

    def _measured(self, store: CellStore, cell: Cell) -> list[CellOutcome]:
        result = store.result(cell)
        chosen = self.plan.probes
        found: list[CellOutcome] = []
        for horizon, probes in result["horizons"].items():
            for probe, values in probes.items():
                if probe and chosen is not None and probe not in chosen:
                    continue
                classes = probe and result["probes"][probe]["kind"] == "classification"
                found.append(
                    CellOutcome(
                        arm=cell.arm,
                        unit=int(cell.unit or 0),
                        horizon=int(horizon),
                        probe=probe,
                        values={name: float(value) for name, value in values.items()},
                        predictions=store.predictions(cell, probe, int(horizon)) if classes else None,
                        fork=self.number,
                    )
                )
        return found

    def _floor(self, store: CellStore, units: Sequence[int]) -> dict[str, Any]:
        measured = [unit for unit in units if unit in self.cells.floor]
        missed, reason = _not_applied(store, [self.cells.floor[unit] for unit in measured])
        if missed:
            return floor_null([], reason)
        rows: list[dict[str, Any]] = build_rows(
            self.outcomes(store, measured, [FLOOR]),
            [Arm(FLOOR, applied=len(measured), fork=self.number)],
            control=CONTROL,
            outcomes=self.outcome_names(store),
            horizons=self.plan.horizons,
            at={self.number: ""},
        )
        return floor_null(rows, "")

    def _summaries(self, store: CellStore, units: Sequence[int]) -> list[dict[str, Any]]:
        found = []
        for arm in self.arms(store, units):
            cells = self.cells.arms[arm.name]
            drifted = {name for unit in units for name in desynchronised(store, cells[unit], self.cells.carries[unit])}
            found.append(
                {
                    "name": arm.name,
                    "do": list(arm.do),
                    "receipts": {
                        "applied": arm.applied,
                        "not_applied": arm.not_applied,
                        "examples": store.result(cells[units[0]])["receipts"],
                    },
                    "desynchronised": sorted(drifted),
                }
            )
        return found


def _not_applied(store: CellStore, cells: Sequence[Cell]) -> tuple[int, str]:
    """Return in how many cells an intervention was not applied, and the first reason."""
    receipts = [store.result(cell)["receipts"] for cell in cells]
    missed = [receipt for each in receipts for receipt in each if not _acted(receipt)]
    number = sum(any(not _acted(receipt) for receipt in each) for each in receipts)
    if not missed:
        return 0, ""
    return number, missed[0]["reason"] or "what it holds to never differed from what the program does"


def _acted(receipt: dict[str, Any]) -> bool:
    """Say whether an intervention did anything; one that lasts may begin with nothing to change, and never find any."""
    idle = receipt["steps_changed"] == 0 and receipt["digest_before"] == receipt["digest_after"]
    return bool(receipt["applied"]) and not idle
