"""Running a study's cells: each until it is done, begun again where its process was killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, as_completed

from auditor.errors import InconclusiveError
from auditor.replay.cells import Cell, CellStore
from auditor.replay.executors.worker import Launch, run_cell

ATTEMPTS = 3
"""How often a cell is begun whose process is killed."""


def run_cells(
    cells: Sequence[Cell], store: CellStore, launch: Launch, executor: Executor, on_done: Callable[[Cell], None]
) -> None:
    """Run the cells that are not done yet; return when all are.

    Raises
    ------
    InconclusiveError
        If a cell's program fails, or its process was killed three times; the log is named. Finished cells stay.
    """
    pending = [cell for cell in cells if not store.is_done(cell)]
    for attempt in range(1, ATTEMPTS + 1):
        futures: dict[Future[int], Cell] = {
            executor.submit(run_cell, str(store.begin(cell).resolve()), launch): cell for cell in pending
        }
        killed: list[Cell] = []
        for future in as_completed(futures):
            cell, status = futures[future], future.result()
            if status < 0 and attempt < ATTEMPTS:
                killed.append(cell)
                continue
            problem = store.commit(cell)
            if problem is not None:
                raise InconclusiveError(
                    f"a cell failed: {cell.title}",
                    where=str(store.log(cell)),
                    why=f"its process was killed by signal {-status}; often for want of memory"
                    if status < 0
                    else problem,
                    next_step="read the log; the same command goes on with the cells that are missing",
                )
            on_done(cell)
        if not killed:
            return
        pending = killed
