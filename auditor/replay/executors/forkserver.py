"""An executor that gives every task a fresh process with torch loaded, at about 0.1 s of start-up."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

# Loaded once, by the fork server; by name, so that this wing imports nothing of the one that knows torch.
PRELOADED = ["torch", "auditor.adapters.explicit"]

_Task = tuple["Future[int]", Callable[..., int], tuple[Any, ...]]


class ForkserverExecutor(Executor):
    """Runs each task in a process of its own; a future's result is the process's exit status, negative for a signal.

    ``concurrent.futures.ProcessPoolExecutor`` is not used: with one task a process it can stand still (CPython issue
    115634), and one killed worker breaks its whole pool. Here a killed process is one task's exit status.

    One thread starts and awaits all processes: multiprocessing may not poll one process from two threads.
    """

    def __init__(self, workers: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._workers = workers
        self._waiting: deque[_Task] = deque()
        self._running: dict[int, tuple[BaseProcess, Future[int]]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._abandoned = False
        self._wake: tuple[Connection, Connection] = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._manage, name="memaudit-cells", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., int], /, *args: Any, **kwargs: Any) -> Future[int]:  # type: ignore[override]
        """Queue ``fn(*args)`` for a process of its own; ``fn`` returns its exit status.

        Raises
        ------
        RuntimeError
            After :meth:`shutdown`.
        """
        if kwargs:
            raise TypeError("tasks take positional arguments only")
        future: Future[int] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down")
            self._waiting.append((future, fn, args))
        self._wake[1].send_bytes(b".")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; with ``cancel_futures`` end the running processes too."""
        with self._lock:
            already = self._closed and not cancel_futures
            self._closed = True
            self._abandoned = self._abandoned or cancel_futures
        if not already and self._thread.is_alive():
            self._wake[1].send_bytes(b".")
        if wait:
            self._thread.join()

    def _manage(self) -> None:
        while True:
            with self._lock:
                abandoned, closed = self._abandoned, self._closed
                if abandoned:
                    for future, _, _ in self._waiting:
                        future.cancel()
                    self._waiting.clear()
            if abandoned:
                for process, _ in self._running.values():
                    process.kill()
            else:
                self._start_waiting()
            if closed and not self._running and not self._waiting:
                return
            ready = wait([self._wake[0], *self._running])
            if self._wake[0] in ready:
                self._wake[0].recv_bytes()
            for sentinel in ready:
                if isinstance(sentinel, int):
                    process, future = self._running.pop(sentinel)
                    process.join()
                    future.set_result(process.exitcode or 0)

    def _start_waiting(self) -> None:
        while len(self._running) < self._workers:
            with self._lock:
                if not self._waiting:
                    return
                future, function, arguments = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            process = self._context.Process(target=_exit_with, args=(function, arguments))
            try:
                process.start()
            except Exception as error:
                future.set_exception(error)
                continue
            self._running[process.sentinel] = (process, future)


def _exit_with(function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    sys.exit(function(*arguments))
