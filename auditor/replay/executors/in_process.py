"""An executor that runs cells in this very process, one after the other: for debuggers and notebooks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib import import_module
from pathlib import Path
from typing import Any

from auditor.artifact import strict_json
from auditor.errors import MemauditError
from auditor.replay.executors.limits import Ended, Limits
from auditor.replay.executors.process_state import as_fresh
from auditor.replay.executors.worker import Launch

_HASH_SEED = "PYTHONHASHSEED"
_STARTED_WITH = os.environ.get(_HASH_SEED)


class InProcessExecutor(Executor):
    """Runs each cell before ``submit`` returns, in the calling thread, and puts back what the program changed.

    A ``breakpoint()`` in the program opens the debugger on the terminal; all other output goes to the cell's log. What
    cannot be put back is listed in :mod:`auditor.replay.executors.process_state`. A Ctrl-C ends the cell and goes on to
    the caller.

    Raises
    ------
    MemauditError
        If there are limits: nobody is there to end a cell that is over them.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        if limits is not None and limits != Limits():
            raise MemauditError(
                "cells that run in this process cannot be limited",
                why="ending one would end the study",
                next_step="leave the limits out, or run the cells in processes of their own",
            )
        self._closed = False

    def submit(self, fn: Callable[..., int], /, *args: Any, **kwargs: Any) -> Future[Ended]:  # type: ignore[override]
        """Run the cell ``fn(directory, launch)`` now; return a future that is done.

        Raises
        ------
        MemauditError
            In any thread but the main one, and where this process cannot be made like the recorded one.
        RuntimeError
            After :meth:`shutdown`.
        """
        if self._closed:
            raise RuntimeError("the executor was shut down")
        directory, launch = _cell(*args, **kwargs)
        if threading.current_thread() is not threading.main_thread():
            raise MemauditError(
                "a cell can run in this process's main thread only",
                why="its program may set signal handlers, and its directory and output are the whole process's",
                next_step="call this from the main thread, or run the cells in processes of their own",
            )
        _match(directory)
        future: Future[Ended] = Future()
        future.set_running_or_notify_cancel()
        try:
            with as_fresh(Path(launch.script).parent):
                status = fn(directory, launch)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(Ended(status))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more cells; none is running."""
        self._closed = True


def _cell(directory: str, launch: Launch) -> tuple[str, Launch]:
    return directory, launch


def _match(directory: str) -> None:
    """Give this process what the cell needs and only the start of a process, or of its work, decides.

    Raises
    ------
    MemauditError
        If it is too late for that.
    """
    wanted = os.environ.get(_HASH_SEED)
    if wanted not in (None, "random", _STARTED_WITH):
        raise MemauditError(
            "this process has another hash seed than the recorded one",
            why="it orders sets, and is fixed when a process starts",
            next_step=f"start this process with {_HASH_SEED}={wanted}, or run the cells in processes of their own",
        )
    path = Path(directory) / "cell.json"
    threads = strict_json.parse_canonical(path.read_bytes(), str(path))["interop_threads"]
    torch: Any = import_module("torch")  # by name: this wing imports nothing that knows torch
    present = torch.get_num_interop_threads()
    if present == threads:
        return
    try:
        torch.set_num_interop_threads(threads)
    except RuntimeError:
        raise MemauditError(
            f"torch has {present} interop threads in this process, and had {threads} in the recorded one",
            why="their number changes bits, and can be set only before torch's first parallel work",
            next_step=f"call torch.set_num_interop_threads({threads}) where this process begins, or run the cells in "
            "processes of their own",
        ) from None
