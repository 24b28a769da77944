"""Coming to a step of a recorded program in a way of one's choice, and running cells from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auditor.artifact.intervention_table import kind_of
from auditor.artifact.resources import validator
from auditor.evidence.run_view import RunView, Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from auditor.replay.cells import Cell, CellStore, description_of
from auditor.replay.executors.forkserver import ForkserverExecutor
from auditor.replay.executors.limits import Limits
from auditor.replay.executors.run import run_cells
from auditor.replay.executors.trunk import TrunkExecutor
from auditor.replay.order_places import ORDER, Walked
from auditor.replay.plan import parse_intervention
from auditor.replay.program import launch_of
from auditor.replay.progress import Observer
from auditor.replay.reach import Reach, reach
from tests.support.programs import ROOT, memaudit

PROGRAM = ROOT / "tests" / "support" / "reached.py"


def record(cwd: Path, *words: object, program: Path = PROGRAM) -> Path:
    """Record the training of ``reached.py`` with the command; return its run directory."""
    answer = memaudit("record", "--out", "run", "--", sys.executable, program, *words, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return cwd / "run"


@dataclass
class Told(Observer):
    """Keeps what it is told."""

    retries: list[str] = field(default_factory=list)

    def planned(self, cells: Sequence[Cell], done: Any) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def finished(self, cell: Cell) -> None: ...
    def failed(self, cell: Cell, reason: str) -> None: ...
    def retried(self, cell: Cell, reason: str) -> None:
        self.retries.append(reason)


@dataclass
class Rolled:
    """One finished cell."""

    path: Path

    @property
    def result(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        validator("cell-result").validate(value)
        return value

    @property
    def steps(self) -> list[Step]:
        return list(resolve_steps(read_trace((self.path / "trace.jsonl").read_bytes()).events))

    def after(self, at: int) -> list[tuple[object, ...]]:
        """All that the steps after ``at`` say, but where in the trace they stand."""
        return [
            (s.step, s.pass_, s.position, s.ids, s.batch, s.sources, s.streams, s.loss)
            for s in self.steps
            if s.step > at
        ]

    @property
    def files(self) -> dict[str, bytes]:
        """What was measured: the result and the predictions."""
        found = [self.path / "result.json", *sorted((self.path / "predictions").iterdir())]
        return {path.name: path.read_bytes() for path in found}


class Rolling:
    """Cells of one run and fork."""

    def __init__(self, run: Path, at: int, horizons: Sequence[int], way: str, *, workers: int = 2) -> None:
        self.view = RunView.open(run)
        self.at, self.horizons, self.workers = at, sorted(horizons), workers
        self.reached: Reach = reach(self.view, at, max(horizons), way)
        self.store = CellStore(run.parent / f"study-{way}-{at}" / "cells")
        self.launch = launch_of(self.view)
        self.told = Told()

    def cell(self, arm: str, unit: int | None, *do: str) -> Cell:
        described: list[Any] = [parse_intervention(text) for text in do]
        last = self.at + self.horizons[-1]
        more: dict[str, Any] = {}
        if any(kind_of(item["source"]) == ORDER for item in described):
            walked = Walked.of(self.view, self.at, last)
            more["order"] = [walked.place(item) for item in described]
        description = {
            **description_of(self.view, self.reached, at=self.at, last=last),
            "arm": arm,
            "do": described,
            "unit": unit,
            "key": None if unit is None else f"0/{unit}",
            "repeat": 0,
            "horizons": self.horizons,
            **more,
        }
        validator("cell").validate(description)
        return Cell(arm, unit, 0, description)

    def trunk(self, limits: Limits | None = None) -> TrunkExecutor:
        return TrunkExecutor(
            self.launch,
            self.cell("carry", 0).description,
            self.store.directory.parent / "trunk",
            self.workers,
            limits,
            hash_seed=self.view.environment["flags"]["PYTHONHASHSEED"],
        )

    @contextmanager
    def executor(self, limits: Limits | None = None) -> Iterator[Executor]:
        made = self.trunk(limits) if self.reached.way == "fork" else ForkserverExecutor(self.workers, limits)
        try:
            yield made
        except BaseException:
            made.shutdown(cancel_futures=True)
            raise
        made.shutdown()

    def roll(self, cells: Sequence[Cell], limits: Limits | None = None) -> list[Rolled]:
        with self.executor(limits) as executor:
            run_cells(cells, self.store, self.launch, executor, self.told)
        return [Rolled(self.store.path(cell)) for cell in cells]
