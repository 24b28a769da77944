"""A cell's process with all it starts (loader workers): one session, which ends as a whole.

The process table is Linux's ``/proc``; where there is none, what stays in the session is ended all the same.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

_PROC = Path("/proc")
_ROUNDS = 100
"""How often a family that goes on growing is killed anew."""


@dataclass(frozen=True)
class Entry:
    """One living process of the table."""

    parent: int
    session: int


def lead_family(lifeline: int) -> None:
    """Make this process the head of a session of its own, which is killed once ``lifeline``'s other end closes.

    ``lifeline`` is the reading end of a pipe whose other end only the study's process holds
    (``multiprocessing.parent_process().sentinel``). A study that is killed cannot end its cells itself; where the
    kernel can signal a session about a pipe (Linux) they end with it, elsewhere they run to their end, unread.
    """
    os.setsid()
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if connection.wait([lifeline], 0):
        os.kill(os.getpid(), signal.SIGKILL)  # it closed before the kernel was told


def process_table() -> dict[int, Entry]:
    """Return every living process (zombies are none) by its number; empty where there is no ``/proc``."""
    table: dict[int, Entry] = {}
    for path in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            # proc(5): "pid (name) state ppid pgrp session …"; the name may hold anything, parentheses too.
            state, parent, _, session = (path / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if state not in (b"Z", b"X"):
                table[int(path.name)] = Entry(int(parent), int(session))
    return table


def family(head: int, table: dict[int, Entry]) -> set[int]:
    """Return the living processes of ``head``'s session, and all descendants of these."""
    found = {pid for pid, entry in table.items() if head in (pid, entry.session)}
    while more := {pid for pid, entry in table.items() if entry.parent in found} - found:
        found |= more
    return found


def end_family(head: int) -> None:
    """Kill ``head`` and its family, those in sessions of their own too where there is a process table."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        # Before its session: children in other sessions are found while they have a parent.
        new = family(head, process_table()) - killed
        for pid in new:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= new
        if not new:
            break
    end_left_behind(head)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(head, signal.SIGKILL)  # where there is no table, it may not have come to lead its session yet


def end_left_behind(head: int) -> None:
    """Kill what is left in the session of a process that has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(head, signal.SIGKILL)
