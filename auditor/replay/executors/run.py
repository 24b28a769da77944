"""Running a study's cells: each until it is done, begun again where its process was killed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from typing import cast

from auditor.errors import InconclusiveError
from auditor.replay.cells import Cell, CellStore
from auditor.replay.executors.limits import Ended
from auditor.replay.executors.worker import Launch, run_cell
from auditor.replay.progress import Observer

ATTEMPTS = 3
"""How often a cell is begun whose process is killed."""

_POLL = 0.2
"""Seconds between two looks at which cells have begun, for who watches."""


@dataclass
class _Attempt:
    cell: Cell
    number: int
    told: bool = False
    """Whether the observer knows that it began."""


def run_cells(
    cells: Sequence[Cell],
    store: CellStore,
    launch: Launch,
    executor: Executor,
    observer: Observer,
    attempts: int = ATTEMPTS,
) -> None:
    """Run the cells that are not done yet, each once; return when all are.

    A cell whose process is killed, by anyone or for a limit, is begun again, up to ``attempts`` times. One whose
    program fails is not: the same input fails again. A cell that fails does not stop the others.

    ``executor`` gives futures of :class:`~auditor.replay.executors.limits.Ended`.

    Raises
    ------
    InconclusiveError
        If cells failed, once all others are done: the first of them and its log are named. Finished cells stay.
    """
    running: dict[Future[Ended], _Attempt] = {}
    failures: dict[str, str] = {}

    def begin(cell: Cell, number: int) -> None:
        future = cast("Future[Ended]", executor.submit(run_cell, str(store.begin(cell).resolve()), launch))
        running[future] = _Attempt(cell, number)
        if future.done():
            end(future)  # an executor that runs it in this thread: kept before the next one begins

    def tell_started(future: Future[Ended]) -> None:
        if not running[future].told:
            running[future].told = True
            observer.started(running[future].cell)

    def end(future: Future[Ended]) -> None:
        tell_started(future)
        attempt, ended = running.pop(future), future.result()
        cell = attempt.cell
        problem = store.commit(cell)
        if problem is None:
            observer.finished(cell)
        elif ended.killed is not None and attempt.number < attempts:
            observer.retried(cell, ended.killed)
            begin(cell, attempt.number + 1)
        else:
            failures[cell.hash] = problem if ended.killed is None else f"{ended.killed}; begun {attempt.number} times"
            observer.failed(cell, failures[cell.hash])

    pending = {cell.hash: cell for cell in cells if not store.is_done(cell)}
    for cell in pending.values():
        begin(cell, 1)
    while running:
        done, others = wait(running, _POLL, FIRST_COMPLETED)
        for future in others:
            if future.running():
                tell_started(future)
        for future in done:
            end(future)
    if failures:
        raise _report([pending[name] for name in pending if name in failures], failures, store)


def _report(failed: Sequence[Cell], reasons: dict[str, str], store: CellStore) -> InconclusiveError:
    first = failed[0]
    return InconclusiveError(
        f"a cell failed: {first.title}" if len(failed) == 1 else f"{len(failed)} cells failed, {first.title} the first",
        where=str(store.log(first)),
        why=reasons[first.hash],
        next_step="read the log; the same command goes on with the cells that are missing",
    )
