"""A pool of forkserver processes with torch loaded: a fresh process a cell, at about 0.1 s of start-up."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from auditor.errors import InconclusiveError
from auditor.replay.cells import Cell, CellStore
from auditor.replay.executors.worker import Launch, run_cell

# Loaded once, by the fork server; by name, so that this wing imports nothing of the one that knows torch.
PRELOADED = ["torch", "auditor.adapters.program", "auditor.adapters.explicit"]

_ATTEMPTS = 3
"""How often a cell is begun whose worker died."""


def forkserver_pool(workers: int) -> Executor:
    """Return a pool in which every task has a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(max_workers=workers, mp_context=context, max_tasks_per_child=1)


def run_cells(
    cells: Sequence[Cell], store: CellStore, launch: Launch, workers: int, on_done: Callable[[Cell], None]
) -> None:
    """Run the cells that are not done yet; return when all are.

    A worker that dies (killed, out of memory) takes the pool with it: unfinished cells are begun again in a new one.

    Raises
    ------
    InconclusiveError
        If a cell's program fails, or its workers died three times; the log is named. Finished cells stay.
    """
    for _ in range(_ATTEMPTS):
        pending = [cell for cell in cells if not store.is_done(cell)]
        if not pending:
            return
        with forkserver_pool(workers) as pool:
            try:
                _run_round(pool, pending, store, launch, on_done)
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if all(store.is_done(cell) for cell in cells):
        return
    raise InconclusiveError(
        f"workers died {_ATTEMPTS} times before all cells were done",
        why="a process was killed; the usual reason is memory",
        next_step="use fewer workers (--jobs 1); the same command goes on where this one stopped",
    )


def _run_round(
    pool: Executor, cells: Sequence[Cell], store: CellStore, launch: Launch, on_done: Callable[[Cell], None]
) -> None:
    futures: dict[Future[int], Cell] = {
        pool.submit(run_cell, str(store.begin(cell).resolve()), launch): cell for cell in cells
    }
    for future in as_completed(futures):
        cell = futures[future]
        future.result()
        problem = store.commit(cell)
        if problem is not None:
            raise InconclusiveError(
                f"a cell failed: {cell.title}",
                where=str(store.log(cell)),
                why=problem,
                next_step="read the log; the same command goes on with the cells that are missing",
            )
        on_done(cell)
