"""The trunk: one process that comes to the fork and stays there; each cell is forked from it and goes on by itself.

Who asks for cells (``auditor/replay/executors/trunk.py``) and the trunk send each other lines of JSON over a socket:
``{"cell": DIRECTORY, "number": N}``, or nothing any more; ``{"refused": REASON}`` or ``{"standing": true}``, then
``{"began": N, "pid": PID}`` and ``{"ended": N, "status": STATUS}``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from auditor.artifact.run_directory import MANIFEST
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError
from auditor.evidence import manifest
from auditor.recorder.cell import Cell
from auditor.recorder.forkable import Baseline, open_files, why_not
from auditor.recorder.passes import Pass
from auditor.recorder.scratch import Scratch, ScratchError
from auditor.recorder.settings import CELL, Settings

SHARED = ("format", "memaudit", "run", "program", "seed", "threads", "interop_threads", "reach", "anchor", "fork")
"""What a cell's description has in common with that of the trunk it is forked from."""

_SLACK = 2.0
"""Seconds: file times and the recording's begin are told in different grains."""
_LONGEST_ORDER = 65_536


@dataclass(frozen=True)
class Control:
    """Who a trunk serves."""

    connection: Connection
    lead: Callable[[int], None]
    """Makes a process the head of a session that is killed once the pipe it is given closes at its other end."""
    files: frozenset[int]
    """The descriptors that were open before the program began."""

    def send(self, **message: Any) -> None:
        """Tell something."""
        self.connection.send_bytes(json.dumps(message).encode())


_served: list[Control] = []
"""Who this process serves; nobody, where it is no trunk."""


def begin(connection: Connection, lead: Callable[[int], None]) -> None:
    """Make this process's program a trunk: to be called before it begins."""
    _served.append(Control(connection, lead, frozenset(open_files())))


def replayed(settings: Settings, directory: Path, run: Path) -> Cell:
    """Return the session of a program that is replayed: a trunk's where this process is one, else a cell's."""
    return Trunk(settings, directory, run, _served[0]) if _served else Cell(settings, directory, run)


@dataclass(frozen=True)
class _Order:
    directory: str
    number: int


@dataclass(frozen=True)
class _Child:
    pid: int
    number: int

    @property
    def name(self) -> str:
        """Its part of the scratch folder."""
        return f"cell-{self.number}"


class Trunk(Cell):
    """A cell that comes to the fork, and there becomes any other cell of that fork, each in a process of its own.

    In the trunk itself the program never goes on. In a child it does, from inside :meth:`_fork`, until the cell is
    done; the process then ends at once, with nothing of the program's or the interpreter's own ending run: what is to
    be done once, such as ``finally`` blocks and the writing of buffered files, is not the child's.
    """

    def __init__(self, settings: Settings, directory: Path, run: Path, control: Control) -> None:
        super().__init__(settings, directory, run)
        self._control = control
        self._run = run
        self._is_child = False
        self._before = Baseline.now(control.files)
        self._begun = False

    def _fork(self, beginning: Pass | None = None) -> None:
        """Stand here and serve; go on in the children only."""
        self._stand()
        super()._fork(beginning)

    def _write(self, status: str, error: str | None = None) -> None:
        super()._write(status, error)
        if self._is_child:
            _leave(int(status != "finished"))

    def finish(self, error: BaseException | None) -> None:
        """Write what is known if the program ended before the cell was done, or before the fork."""
        if self._is_child and error is not None:
            traceback.print_exception(error)
        super().finish(error)

    # In the trunk.

    def _stand(self) -> None:
        control = self._control
        reason = why_not(self._before)
        scratch = None
        if reason is None:
            try:
                whole = (self._run, self.directory.parent)
                own = control.files | {self._trace.number}
                scratch = Scratch(self.directory / "scratch", since=_began(self._run), whole=whole, own=own)
            except ScratchError as error:
                reason = error.why
        if scratch is None:
            control.send(refused=reason)
            _leave(0)
        self._trace.sync()
        lifeline = os.pipe()
        children: dict[int, _Child] = {}
        control.send(standing=True)
        while True:
            for ready in wait([control.connection, *children]):
                if isinstance(ready, int):
                    self._reap(ready, children.pop(ready), scratch)
                    continue
                order = _order(control.connection)
                if order is None:
                    _end(children.values())
                child = self._begin_child(order, scratch, lifeline, children)
                if child is None:
                    return
                children[os.pidfd_open(child.pid)] = child
                control.send(began=child.number, pid=child.pid)

    def _begin_child(
        self, order: _Order, scratch: Scratch, lifeline: tuple[int, int], children: dict[int, _Child]
    ) -> _Child | None:
        """Fork; return the child in the trunk, and None in the child, which is the cell then."""
        streams = self.read_streams()
        _flush()
        pid = os.fork()
        child = _Child(pid, order.number)
        if pid:
            return child
        self._is_child = True
        try:
            self._become(Path(order.directory), lifeline, children)
            scratch.enter(child.name)
            # Python's own stream is seeded anew in every forked process.
            self.set_streams(streams)
        except BaseException as error:
            traceback.print_exc()
            self._write("failed", f"{type(error).__name__}: {error}"[:2000])
        return None

    def _reap(self, handle: int, child: _Child, scratch: Scratch) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # what it left behind; while it waits its number is nobody else's
        _, status = os.waitpid(child.pid, 0)
        os.close(handle)
        scratch.remove(child.name)
        self._control.send(ended=child.number, status=os.waitstatus_to_exitcode(status))

    # In a child.

    def _become(self, directory: Path, lifeline: tuple[int, int], siblings: Iterable[int]) -> None:
        """Be the cell of ``directory``: alone, with its own log, description and trace."""
        os.close(lifeline[1])
        # Opened anew: who is told of a pipe's end is said once for each opening.
        own = os.open(f"/proc/self/fd/{lifeline[0]}", os.O_RDONLY | os.O_NONBLOCK)
        self._control.lead(own)
        for handle in (*siblings, lifeline[0]):
            os.close(handle)
        self._control.connection.close()
        with (directory / "log.txt").open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ[CELL] = str(directory)
        trunk, described = self._trace, self.description
        self.directory = directory
        shutil.copyfile(trunk.path, directory / trunk.path.name)
        self._trace = TraceWriter.reopen(directory / trunk.path.name, trunk.head, trunk.lines)
        self._journal.trace = self._trace
        trunk.close()
        self._take(directory)
        other = [name for name in SHARED if self.description.get(name) != described.get(name)]
        if other:
            raise MemauditError(f"this cell forks elsewhere than the process it was forked from: {', '.join(other)}")


def _began(run: Path) -> float:
    """Return when a recording began, in seconds of the epoch; 0 where that is not known."""
    try:
        started = manifest.parse((run / MANIFEST).read_bytes()).predicate["started"]
        return 0.0 if started is None else datetime.fromisoformat(started).timestamp() - _SLACK
    except (OSError, KeyError, ValueError, MemauditError):
        return 0.0


def _order(connection: Connection) -> _Order | None:
    """Return the cell that is asked for; None where the trunk is to end."""
    try:
        order = json.loads(connection.recv_bytes(_LONGEST_ORDER))
    except (EOFError, OSError):
        return None
    return _Order(order["cell"], order["number"])


def _end(children: Iterable[_Child]) -> NoReturn:
    """End the children and this process; the program does not go on."""
    for child in children:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
            os.kill(child.pid, signal.SIGKILL)  # it may not have come to lead its session yet
    _leave(0)


def _leave(status: int) -> NoReturn:
    _flush()
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the program may have put anything there
            stream.flush()
