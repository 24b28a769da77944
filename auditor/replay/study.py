"""A study: a pure function of files, (program, anchor, plan) to cells to estimate."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.artifact.canonical import write_atomically, write_canonical
from auditor.artifact.run_directory import MANIFEST
from auditor.causal.estimate import build_rows
from auditor.errors import MemauditError
from auditor.evidence import manifest
from auditor.evidence.keys import SigningKey
from auditor.evidence.manifest import STUDY, write_manifest
from auditor.evidence.run_view import RunView
from auditor.replay.cells import Cell, CellStore
from auditor.replay.executors.run import run_cells
from auditor.replay.executors.trunk import TrunkRefused
from auditor.replay.fork import Fork
from auditor.replay.plan import CONTROL, DEFAULT_OUTCOMES, Plan
from auditor.replay.progress import Observer

VERDICTS = ("gate failed", "null failed", "complete")
"""What a study may say, the worst first; it says the worst of its forks."""
CONDITIONAL = "conditional on this anchor"


class Study:
    """One plan, carried out in one directory; killed at any point, the same call goes on where it stopped.

    ``runs`` are the runs of the plan's forks, in their order.

    Raises
    ------
    MemauditError
        If a run cannot be replayed as the plan says.
    """

    def __init__(self, plan: Plan, runs: Sequence[RunView], out: Path) -> None:
        self.plan = plan
        self.out = out
        self.forks = [Fork(plan, number, run) for number, run in enumerate(runs)]
        self._check_distinct()
        self._check_hash_seeds()

    def execute(
        self,
        executor_of: Callable[[Fork], Executor],
        key: SigningKey,
        *,
        plan_text: bytes | None,
        observer: Observer,
    ) -> dict[str, Any]:
        """Run what is missing, estimate, sign; return the content of estimate.json.

        Parameters
        ----------
        executor_of
            Gives the executor for a fork's cells (:class:`~auditor.replay.executors.choice.Executors`). It raises
            :class:`~auditor.replay.executors.trunk.TrunkRefused` where a live process turns out not to be one that can
            be forked: then the next way is taken.

        Raises
        ------
        MemauditError
            If the directory holds something else than this study.
        InconclusiveError
            If cells fail, or units turn out equal.
        """
        self._prepare(plan_text)
        store = CellStore(self.out / "cells")
        store.sweep()
        _check_unchanged(self.out)
        for fork in self.forks:
            self._settle(fork, store, executor_of)
        cells = [cell for fork in self.forks for cell in fork.cells.all()]
        if not all(store.is_done(cell) for cell in cells):
            (self.out / MANIFEST).unlink(missing_ok=True)
        observer.planned(cells, [cell for cell in cells if store.is_done(cell)])
        for fork in self.forks:
            self._run(fork, fork.first_cells(), store, executor_of, observer)
            fork.examine(store)
        self._check_outcomes(store)
        believed = [fork for fork in self.forks if fork.verdict == "complete"]
        estimate: dict[str, Any] = {}
        for number, units in enumerate(self.plan.look_units, 1):
            seeds = self.plan.seeds[:units]
            for fork in believed:
                self._run(fork, fork.cells.of_units(seeds), store, executor_of, observer)
                fork.check_units(store, seeds)
            estimate = self._estimate(store, seeds, believed, number)
            if _is_settled(estimate):
                break
        write_canonical(self.out / "estimate.json", estimate)
        (self.out / MANIFEST).unlink(missing_ok=True)
        write_manifest(self.out, STUDY, self._predicate(estimate), key)
        return estimate

    def _settle(self, fork: Fork, store: CellStore, executor_of: Callable[[Fork], Executor]) -> None:
        """Find the way that works to a fork of which cells are missing."""
        while not all(store.is_done(cell) for cell in fork.cells.all()):
            try:
                executor_of(fork)
            except TrunkRefused as refusal:
                fork.refuse("fork", refusal.reason)
            else:
                return

    def _run(
        self,
        fork: Fork,
        cells: Sequence[Cell],
        store: CellStore,
        executor_of: Callable[[Fork], Executor],
        observer: Observer,
    ) -> None:
        """Run the cells that are missing; what gives buffers comes before what takes them."""
        donors = fork.cells.donors
        for stage in (
            [cell for cell in cells if not donors.get(cell.hash)],
            [cell for cell in cells if donors.get(cell.hash)],
        ):
            if not all(store.is_done(cell) for cell in stage):
                run_cells(stage, store, fork.launch, executor_of(fork), observer, self.plan.execution.attempts)

    def _check_distinct(self) -> None:
        """Refuse one fork that the plan names twice, by two paths: its tests would count double."""
        seen: dict[tuple[str | None, int], Fork] = {}
        for fork in self.forks:
            other = seen.setdefault((fork.run.manifest_sha256, fork.at), fork)
            if other is not fork:
                raise MemauditError(
                    f"two forks are the same: {other.name} and {fork.name}",
                    why="they are one run, by its manifest",
                    next_step="leave one of them out",
                )

    def _check_outcomes(self, store: CellStore) -> None:
        """Refuse a name that nothing measures, before any arm runs: a margin under it would never be tested."""
        measured = {name for fork in self.forks for name in fork.measured_names(store)}
        named = {name for name in self.plan.outcomes if name not in DEFAULT_OUTCOMES} | set(self.plan.margins)
        for name in sorted(named - measured):
            near = difflib.get_close_matches(name, measured, n=1)
            raise MemauditError(
                f"the plan names the outcome {name}, and the program measures none of that name",
                where=str(self.out / "plan.json"),
                next_step=f"did you mean {near[0]}?" if near else f"it measures {', '.join(sorted(measured))}",
            )

    def _check_hash_seeds(self) -> None:
        seeds = {fork.run.environment["flags"]["PYTHONHASHSEED"] for fork in self.forks}
        if len(seeds) > 1:
            raise MemauditError(
                "the runs of this plan were recorded with several PYTHONHASHSEED",
                why="it is fixed when a process starts, and the cells of a study are started by one process",
                next_step="write a plan for each of them",
            )

    def _prepare(self, plan_text: bytes | None) -> None:
        declared = self.out / "plan.json"
        if self.out.exists() and not self.out.is_dir():
            raise MemauditError(
                "the study directory is a file", where=str(self.out), next_step="name another with --out"
            )
        if any(self.out.resolve().is_relative_to(fork.run.path.resolve()) for fork in self.forks):
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

    def _estimate(self, store: CellStore, seeds: Sequence[int], believed: Sequence[Fork], look: int) -> dict[str, Any]:
        plan = self.plan
        looks = len(plan.look_units)
        level = 1.0 - (1.0 - plan.level) / looks
        rows = (
            build_rows(
                [
                    outcome
                    for fork in believed
                    for outcome in fork.outcomes(store, seeds, [arm.name for arm in plan.arms])
                ],
                [arm for fork in believed for arm in fork.arms(store, seeds)],
                control=CONTROL,
                outcomes={fork.number: fork.outcome_names(store) for fork in believed},
                horizons=plan.horizons,
                margins=plan.margins,
                level=level,
                seed=plan.seed,
                family=plan.family,
                at={fork.number: self._where(fork) for fork in believed},
                conditional=CONDITIONAL,
            )
            if believed
            else []
        )
        return {
            "format": "estimate-1",
            "verdict": min((fork.verdict for fork in self.forks), key=VERDICTS.index),
            "plan": {"sha256": plan.sha256},
            "units": "fork",
            "conditional": CONDITIONAL,
            "look": {"number": look, "looks": looks, "units": len(seeds), "of": len(plan.seeds), "level": level},
            "forks": [fork.document(store, seeds) for fork in self.forks],
            "estimates": rows,
            "findings": [],
        }

    def _where(self, fork: Fork) -> str:
        """Return where a fork lies, for a sentence; the run is named where the plan has several."""
        runs = {each.run for each in self.plan.forks}
        return f"at step {fork.at}" + (f" of {Path(fork.run.path).name}" if len(runs) > 1 else "")

    def _predicate(self, estimate: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": "study-1",
            "verdict": estimate["verdict"],
            "plan_sha256": self.plan.sha256,
            "runs": [fork["run"] for fork in estimate["forks"]],
            "cells": len({cell.hash for fork in self.forks for cell in fork.cells.all()}),
        }


def _check_unchanged(out: Path) -> None:
    """Refuse a signed study whose files were changed: what was never measured would be signed again."""
    if not (out / MANIFEST).exists():
        return
    inventory = run_directory.scan(out)
    try:
        signed = manifest.parse(inventory.bytes_of(MANIFEST), str(out / MANIFEST)).subjects
    except MemauditError as error:
        raise MemauditError(
            "the study's manifest cannot be read, so nobody knows whether its cells are as they were signed",
            where=str(out / MANIFEST),
            why=error.what,
            next_step="name another directory with --out",
        ) from error
    listed = {name for name in signed if name != "estimate.json"}  # that one is made anew
    for name in sorted(listed | {name for name in inventory.files if name.startswith("cells/")}):
        if name not in inventory.files or name not in signed or inventory.open(name).sha256 != signed[name]:
            cell = "/".join(name.split("/")[:2])
            raise MemauditError(
                "the study was changed since it was signed",
                where=str(out / name),
                next_step=f"remove {out / MANIFEST} and {out / cell}: the same command makes that cell again"
                if name.startswith("cells/")
                else "name another directory with --out",
            )


def _is_settled(estimate: dict[str, Any]) -> bool:
    """Say whether every contrast that was measured has its verdict."""
    return all(row["verdict"] != "inconclusive" or not row["units"] for row in estimate["estimates"])
