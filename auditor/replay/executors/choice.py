"""Which executor runs the cells of a fork."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Self

from auditor.evidence.run_view import RunView
from auditor.replay.executors.forkserver import ForkserverExecutor
from auditor.replay.executors.in_process import InProcessExecutor
from auditor.replay.executors.limits import Limits
from auditor.replay.executors.trunk import TrunkExecutor, TrunkRefused
from auditor.replay.fork import Fork
from auditor.replay.plan import Execution

IN_THIS_PROCESS = "the cells run in this process, one after the other"
"""Why no live process is forked where cells are run for a debugger."""


def fix_hash_seed(run: RunView) -> None:
    """Give the processes to come the recorded hash seed: it orders sets, and is fixed when a process starts."""
    recorded = run.environment["flags"]["PYTHONHASHSEED"]
    if recorded is None:
        os.environ.pop("PYTHONHASHSEED", None)
    else:
        os.environ["PYTHONHASHSEED"] = recorded


class Executors:
    """The executors of a study; use it as a context manager, which ends every process that is left.

    Cells that come to their fork by themselves share one executor; where a live process is forked, each fork of the
    plan has its trunk.

    Parameters
    ----------
    execution
        What the plan says, or the command line in its place.
    out
        The study directory; trunks have their folders beside it.
    threads
        Torch threads of a cell, as recorded: by default so many cells run at a time as the cores have room for.
    """

    def __init__(self, execution: Execution, out: Path, threads: int) -> None:
        self._execution = execution
        self._out = out.resolve()
        self.jobs = 1 if execution.kind == "in-process" else execution.jobs or max(1, (os.cpu_count() or 1) // threads)
        self._shared: Executor | None = None
        self._trunks: dict[int, TrunkExecutor] = {}

    def __call__(self, fork: Fork) -> Executor:
        """Return the executor for a fork's cells.

        Raises
        ------
        TrunkRefused
            If the live process cannot be forked there.
        """
        if fork.reached.way != "fork":
            if self._shared is None:
                fix_hash_seed(fork.run)
                self._shared = self._make_shared()
            return self._shared
        if self._execution.kind == "in-process":
            raise TrunkRefused(IN_THIS_PROCESS, str(fork.run.path))
        if fork.number not in self._trunks:
            trunk = TrunkExecutor(
                fork.launch,
                fork.cells.gate.description,
                self._out.with_name(f".{self._out.name}.trunk-{fork.number}"),
                self.jobs,
                self._limits(),
                hash_seed=fork.run.environment["flags"]["PYTHONHASHSEED"],
            )
            try:
                trunk.start()
            except BaseException:
                trunk.shutdown(cancel_futures=True)
                raise
            self._trunks[fork.number] = trunk
        return self._trunks[fork.number]

    def warm(self, run: RunView) -> None:
        """Have torch loaded where cells like this run's will begin, while the caller has something else to do."""
        fix_hash_seed(run)
        if self._shared is None and self._execution.kind == "forkserver":
            self._shared = self._make_shared()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for executor in (self._shared, *self._trunks.values()):
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def _limits(self) -> Limits:
        return Limits(self._execution.timeout, self._execution.memory)

    def _make_shared(self) -> Executor:
        if self._execution.kind == "in-process":
            return InProcessExecutor(self._limits())
        return ForkserverExecutor(self.jobs, self._limits())
