"""An executor that gives every task a fresh process with torch loaded, at about 0.1 s of start-up."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from auditor.replay.executors.family import end_family, end_left_behind, family, lead_family, process_table
from auditor.replay.executors.limits import Ended, Limits

# Loaded once, by the fork server; by name, so that this wing imports nothing of the one that knows torch. torch imports
# _dynamo with the first optimizer that is made: more than a second in every cell.
PRELOADED = ["torch", "torch._dynamo", "auditor.adapters.explicit"]

LOST = 255
"""What multiprocessing gives as the exit status of a process whose fork server was killed."""

_MEMORY_POLL = 0.1
"""Seconds between two looks at the memory of cells, where it is limited."""
_MEMORY_SHARE = 20
"""A look is followed by this many times its own duration without one: a table of many processes takes long to read."""

_Task = tuple["Future[Ended]", Callable[..., int], tuple[Any, ...]]


@dataclass
class _Running:
    process: BaseProcess
    future: Future[Ended]
    began: float = field(default_factory=time.monotonic)
    reason: str | None = None
    """Why it was killed here."""

    @property
    def head(self) -> int:
        pid = self.process.pid
        assert pid  # noqa: S101 - it was started; 0 would mean this process's own group
        return pid


class ForkserverExecutor(Executor):
    """Runs each task in a process of its own, ended with all that it started; futures give an :class:`Ended`.

    ``concurrent.futures.ProcessPoolExecutor`` is not used: with one task a process it can stand still (CPython issue
    115634), and one killed worker breaks its whole pool. Here a killed process is one task's exit status.

    One thread starts and awaits all processes: multiprocessing may not poll one process from two threads.
    """

    def __init__(self, workers: int, limits: Limits | None = None) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._workers = workers
        self._limits = limits or Limits()
        self._waiting: deque[_Task] = deque()
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._abandoned = False
        self._next_look = 0.0
        self._wake: tuple[Connection, Connection] = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._manage, name="memaudit-cells", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., int], /, *args: Any, **kwargs: Any) -> Future[Ended]:  # type: ignore[override]
        """Queue ``fn(*args)`` for a process of its own; ``fn`` returns its exit status.

        Raises
        ------
        RuntimeError
            After :meth:`shutdown`.
        """
        if kwargs:
            raise TypeError("tasks take positional arguments only")
        future: Future[Ended] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down")
            self._waiting.append((future, fn, args))
        self._wake[1].send_bytes(b".")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; with ``cancel_futures`` end the running processes too.

        That takes no time worth interrupting: a Ctrl-C meanwhile is dropped, so that no process is left behind.
        """
        guarded = cancel_futures and threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if guarded else None
        try:
            with self._lock:
                already = self._closed and not cancel_futures
                self._closed = True
                self._abandoned = self._abandoned or cancel_futures
            if not already and self._thread.is_alive():
                self._wake[1].send_bytes(b".")
            if wait:
                self._thread.join()
        finally:
            if guarded:
                signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

    def _manage(self) -> None:
        try:
            # The fork server is started from this thread, and inherits what it blocks: until torch is loaded it would
            # answer a Ctrl-C with a traceback. The tracker comes first, as starting it unblocks the signal.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            # Now, not with the first task: loading torch takes seconds in which others have something to do.
            forkserver.ensure_running()
            while self._serve():
                pass
        except BaseException as error:
            with self._lock:
                self._closed = True
                futures = [future for future, _, _ in self._waiting] + [each.future for each in self._running.values()]
            for future in futures:
                if not future.cancelled() and not future.done():
                    future.set_exception(error)  # nobody is to wait for ever

    def _serve(self) -> bool:
        """Do what is due, and wait for the next thing; return False once there is nothing left to wait for."""
        with self._lock:
            abandoned, closed = self._abandoned, self._closed
            if abandoned:
                for future, _, _ in self._waiting:
                    future.cancel()
                self._waiting.clear()
        if abandoned:
            for running in self._running.values():
                end_family(running.head)
        else:
            self._start_waiting()
        if closed and not self._running and not self._waiting:
            return False
        ready = wait([self._wake[0], *self._running], self._patience())
        if self._wake[0] in ready:
            self._wake[0].recv_bytes()
        for sentinel in ready:
            if isinstance(sentinel, int):
                self._end(self._running.pop(sentinel))
        self._enforce()
        return True

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
            except OSError as error:
                # The fork server was killed, or there are no more processes to be had; another time there may be.
                future.set_result(Ended(-signal.SIGKILL, f"its process could not be started: {error}"))
            except Exception as error:
                future.set_exception(error)
            else:
                self._running[process.sentinel] = _Running(process, future)

    def _end(self, running: _Running) -> None:
        running.process.join()
        end_left_behind(running.head)
        status, reason = running.process.exitcode or 0, running.reason
        if status == LOST:
            status, reason = -signal.SIGKILL, reason or "the process that starts the cells was killed"
        running.process.close()
        running.future.set_result(Ended(status, reason))

    def _patience(self) -> float | None:
        """Return for how long nothing needs to be looked at but processes that end, in seconds."""
        watched = [running.began for running in self._running.values() if running.reason is None]
        due = []
        if watched and self._limits.timeout is not None:
            due.append(min(watched) + self._limits.timeout)
        if watched and self._limits.memory is not None:
            due.append(self._next_look)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _enforce(self) -> None:
        """Kill what is over a limit."""
        now = time.monotonic()
        looks = self._limits.memory is not None and now >= self._next_look
        limits = self._limits if looks else Limits(timeout=self._limits.timeout)
        table = process_table() if looks else {}
        for running in self._running.values():
            if running.reason is None:
                running.reason = limits.exceeded(now - running.began, family(running.head, table))
                if running.reason is not None:
                    end_family(running.head)
        if looks:
            ended = time.monotonic()
            self._next_look = ended + max(_MEMORY_POLL, _MEMORY_SHARE * (ended - now))


def _exit_with(function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is a child
    lead_family(parent.sentinel)
    unblock_interrupt()
    status = function(*arguments)
    sys.exit(LOST - 1 if status % 256 == LOST else status)


def unblock_interrupt() -> None:
    """Let SIGINT through again, without one that came before: it was meant for the study, in the terminal's group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # drops what is pending (POSIX, sigaction)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
