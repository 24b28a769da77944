"""A study: a pure function of files, (program, anchor, plan) to cells to estimate."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact.canonical import write_atomically, write_canonical
from auditor.causal.estimate import Arm, CellOutcome, build_rows
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey
from auditor.evidence.manifest import STUDY, write_manifest
from auditor.evidence.run_view import RunView
from auditor.replay.cells import Cell, CellStore, plan_cells
from auditor.replay.executors.run import run_cells
from auditor.replay.nulls import carry_null, check_units_differ, desynchronised, gate_verdict
from auditor.replay.plan import CONTROL, Plan
from auditor.replay.program import launch_of
from auditor.replay.reach import reach


@dataclass(frozen=True)
class Progress:
    """What a study tells while it runs."""

    done: int
    total: int
    cell: str


class Study:
    """One plan, carried out in one directory; killed at any point, the same call goes on where it stopped."""

    def __init__(self, plan: Plan, run: RunView, out: Path) -> None:
        if run.predicate is None or run.predicate["status"] != "completed":
            raise MemauditError(
                "only a finished run can be replayed", where=str(run.path), next_step=f"memaudit verify {run.path}"
            )
        self.plan = plan
        self.run = run
        self.out = out
        self.launch = launch_of(run)
        self._check_sources()
        self.reached = reach(run, plan.at, max(plan.horizons))
        self.cells = plan_cells(plan, run, self.reached)

    def execute(
        self, executor: Executor, key: SigningKey, *, plan_text: bytes | None, progress: Callable[[Progress], None]
    ) -> dict[str, Any]:
        """Run what is missing, estimate, sign; return the content of estimate.json.

        ``executor`` gives each task a fresh process (:mod:`auditor.replay.executors.forkserver`).

        Raises
        ------
        MemauditError
            If the directory holds something else than this study.
        InconclusiveError
            If a cell fails, or units turn out equal.
        """
        self._prepare(plan_text)
        self._fix_hash_seed()
        store = CellStore(self.out / "cells")
        store.sweep()
        total = len(self.cells)
        done = sum(store.is_done(cell) for cell in self.cells)

        def on_done(cell: Cell) -> None:
            nonlocal done
            done += 1
            progress(Progress(done, total, cell.title))

        gate, first, again = self.cells[:3]
        run_cells([gate, first, again], store, self.launch, executor, on_done)
        verdict = gate_verdict(self.run, store, gate)
        null = carry_null(store, first, again)
        if verdict["verdict"] == "passed" and null["verdict"] == "passed":
            run_cells(self.cells, store, self.launch, executor, on_done)
            check_units_differ(store, [cell for cell in self.cells if cell.arm == CONTROL and not cell.repeat])
        estimate = self._estimate(store, verdict, null)
        write_canonical(self.out / "estimate.json", estimate)
        (self.out / "manifest.json").unlink(missing_ok=True)
        write_manifest(self.out, STUDY, self._predicate(estimate), key)
        return estimate

    def _check_sources(self) -> None:
        """Refuse a source that is a misspelling of one in the census; one that is not there may be "not applied"."""
        names = [entry["name"] for entry in self.run.census["sources"]]
        for arm in self.plan.arms:
            for description in arm.do:
                source = description["source"]
                near = difflib.get_close_matches(source, names, n=1, cutoff=0.85)
                if source not in names and near and "." in source:
                    raise MemauditError(
                        f"the run has no memory source {source}", where=arm.name, next_step=f"did you mean {near[0]}?"
                    )

    def _fix_hash_seed(self) -> None:
        """Give the processes to come the recorded hash seed: it orders sets, and is fixed when a process starts."""
        recorded = self.run.environment["flags"]["PYTHONHASHSEED"]
        if recorded is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = recorded

    def _prepare(self, plan_text: bytes | None) -> None:
        declared = self.out / "plan.json"
        if self.out.exists() and not self.out.is_dir():
            raise MemauditError(
                "the study directory is a file", where=str(self.out), next_step="name another with --out"
            )
        if self.out.resolve().is_relative_to(self.run.path.resolve()):
            raise MemauditError(
                "a study cannot lie inside its run",
                where=str(self.out),
                why="the run would no longer verify: every file in it is listed",
                next_step="name a directory beside the run with --out",
            )
        if self.out.exists() and any(self.out.iterdir()):
            if not declared.is_file() or hashlib.sha256(declared.read_bytes()).hexdigest() != self.plan.sha256:
                raise MemauditError(
                    "the study directory holds something else than this plan",
                    where=str(self.out),
                    why="a plan is fixed before its first cell runs",
                    next_step="name another directory with --out",
                )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_canonical(declared, self.plan.document())
        if plan_text is not None:
            write_atomically(self.out / "plan.yaml", plan_text)

    def _estimate(self, store: CellStore, gate: dict[str, Any], null: dict[str, Any]) -> dict[str, Any]:
        verdict = (
            "gate failed"
            if gate["verdict"] != "passed"
            else "null failed"
            if null["verdict"] != "passed"
            else "complete"
        )
        complete = verdict == "complete"
        arms, summaries = self._arms(store) if complete else ([], [])
        rows = (
            build_rows(
                self._outcomes(store),
                arms,
                control=CONTROL,
                outcomes=self._outcome_names(store),
                horizons=self.plan.horizons,
                margins=self.plan.margins,
                seed=self.plan.seed,
                at=self.plan.at,
            )
            if complete
            else []
        )
        return {
            "format": "estimate-1",
            "verdict": verdict,
            "plan": {"sha256": self.plan.sha256},
            "run": {
                "path": str(self.run.path),
                "manifest_sha256": self.run.manifest_sha256,
                "trace_head": (self.run.predicate or {})["trace"]["head"],
            },
            "fork": {"at": self.plan.at, "units": "fork"},
            "conditional": "conditional on this anchor",
            "gate": gate,
            "nulls": [null],
            "arms": summaries,
            "estimates": rows,
            "findings": [],
        }

    def _arms(self, store: CellStore) -> tuple[list[Arm], list[dict[str, Any]]]:
        """Return the arms for the estimate, and their summaries with receipts."""
        arms: list[Arm] = []
        summaries: list[dict[str, Any]] = []
        carries = {cell.unit: cell for cell in self.cells if cell.arm == CONTROL and not cell.repeat}
        for planned in self.plan.arms:
            cells = [cell for cell in self.cells if cell.arm == planned.name]
            receipts = [store.result(cell)["receipts"] for cell in cells]
            missed = [receipt for each in receipts for receipt in each if not receipt["applied"]]
            not_applied = sum(any(not receipt["applied"] for receipt in each) for each in receipts)
            reason = missed[0]["reason"] if missed else ""
            arms.append(
                Arm(planned.name, planned.do, applied=len(cells) - not_applied, not_applied=not_applied, reason=reason)
            )
            drifted = sorted({name for cell in cells for name in desynchronised(store, cell, carries[cell.unit])})
            summaries.append(
                {
                    "name": planned.name,
                    "do": list(planned.do),
                    "receipts": {
                        "applied": len(cells) - not_applied,
                        "not_applied": not_applied,
                        "examples": receipts[0] if receipts else [],
                    },
                    "desynchronised": drifted,
                }
            )
        return arms, summaries

    def _measured(self) -> list[Cell]:
        names = {CONTROL, *(arm.name for arm in self.plan.arms)}
        return [cell for cell in self.cells if cell.arm in names and not cell.repeat and cell.unit is not None]

    def _outcome_names(self, store: CellStore) -> list[str]:
        """Return the plan's outcomes, and the scalars that the program named itself."""
        horizons = store.result(self.cells[1])["horizons"]
        own = sorted({name for probes in horizons.values() for name in probes.get("", {})})
        return [*self.plan.outcomes, *(name for name in own if name not in self.plan.outcomes)]

    def _outcomes(self, store: CellStore) -> list[CellOutcome]:
        outcomes: list[CellOutcome] = []
        for cell in self._measured():
            result = store.result(cell)
            for horizon, probes in result["horizons"].items():
                for probe, values in probes.items():
                    classes = probe and result["probes"][probe]["kind"] == "classification"
                    outcomes.append(
                        CellOutcome(
                            arm=cell.arm,
                            unit=int(cell.unit or 0),
                            horizon=int(horizon),
                            probe=probe,
                            values={name: float(value) for name, value in values.items()},
                            predictions=store.predictions(cell, probe, int(horizon)) if classes else None,
                        )
                    )
        return outcomes

    def _predicate(self, estimate: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": "study-1",
            "verdict": estimate["verdict"],
            "plan_sha256": self.plan.sha256,
            "run": estimate["run"],
            "cells": len(self.cells),
        }
