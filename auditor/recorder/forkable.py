"""Whether this process can be forked as it stands: what a fork would not copy, or what children would share.

A forked process has the one thread that forked it, and shares with its parent each file opened before, each pipe, each
shared mapping and each device. Linux only: the answers come from ``/proc/self``.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc")


@dataclass(frozen=True)
class Baseline:
    """What a process had before the program used it."""

    threads: int
    """Threads, native ones among them."""
    files: frozenset[int]
    """Open file descriptors."""

    @classmethod
    def now(cls, files: Collection[int] | None = None) -> Baseline:
        """Return it as it is now; ``files`` are the descriptors of an earlier moment, if they count."""
        return cls(native_threads(), frozenset(open_files() if files is None else files))


def native_threads() -> int:
    """Return how many threads this process has, those that Python does not know among them."""
    return len(list(Path("/proc/self/task").iterdir()))


def open_files() -> list[int]:
    """Return the open file descriptors."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that the listing itself had open
            os.fstat(int(path.name))
            found.append(int(path.name))
    return sorted(found)


def why_not(before: Baseline) -> str | None:
    """Return why forking would not be exact, in words; None where nothing stands against it.

    ``before`` is taken when the recorder is entered: threads that libraries start when they are imported (OpenBLAS in
    NumPy and SciPy: one a core) are in it. They do no harm: measured with NumPy 2 on Linux, OpenBLAS ends its threads
    in the parent right before a fork and starts new ones at its next large product, in the parent and in the child,
    with equal bits.
    """
    for reason in (_threads(before), _devices(), _children(), _mappings(), _channels(before)):
        if reason is not None:
            return reason
    return None


def _threads(before: Baseline) -> str | None:
    if torch.get_num_threads() != 1:
        return f"torch uses {torch.get_num_threads()} threads"
    others = sorted(each.name for each in threading.enumerate() if each is not threading.current_thread())
    if others:
        return f"other threads are running: {', '.join(others)}"
    more = native_threads() - before.threads
    if more > 0:
        return f"{more} threads that Python does not know were started since the recorder was entered"
    return None


def _devices() -> str | None:
    for name in ("cuda", "xpu", "mps"):
        module = getattr(torch, name, None)
        if module is not None and getattr(module, "is_initialized", lambda: False)():
            return f"{name} is in use, whose state no fork copies"
    return None


def _children() -> str | None:
    alive = [pid for pid in _child_pids() if not _is_zombie(pid)]
    return f"{len(alive)} processes that the program started are running" if alive else None


def _child_pids() -> list[int]:
    found: list[int] = []
    for path in _PROC.glob("self/task/*/children"):
        with suppress(OSError):  # a thread that ended meanwhile
            found += map(int, path.read_bytes().split())
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _mappings() -> str | None:
    for line in (_PROC / "self" / "maps").read_text("utf-8", "replace").splitlines():
        _, rights, _, _, inode, *rest = line.split(maxsplit=5)
        name = rest[0] if rest else ""
        # Semaphores are locks between processes: what a child does to one, it may.
        if rights[1] == "w" and rights[3] == "s" and inode != "0" and not Path(name).name.startswith("sem."):
            return f"memory is shared between processes ({name}): what one cell writes, others would read"
    return None


def _channels(before: Baseline) -> str | None:
    for number in open_files():
        if number in before.files:
            continue
        with suppress(OSError):  # closed meanwhile
            mode = os.fstat(number).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISCHR(mode)):
                return f"the program has {Path(f'/proc/self/fd/{number}').readlink()} open, which cells would share"
    return None
