"""What processes use of the machine's memory by themselves, from Linux's ``/proc``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1024


def is_known() -> bool:
    """Return whether this system tells how much memory a process uses."""
    return _field(_PROC / "self" / "status", b"RssAnon:") is not None


def private_memory(pids: Iterable[int], limit: int) -> int:
    """Return the private resident memory of processes, in bytes: exact where it may be more than ``limit``.

    ``RssAnon`` (proc(5)) is cheap, but counts a page that forked processes still share once for each: no less than what
    they use. Only where that is over the limit is each page counted once (``Pss_Anon``), for which the kernel walks the
    pages. Shared memory and files are not counted, nor what was swapped out.
    """
    wanted = list(pids)
    most = sum(_bytes(_PROC / str(pid) / "status", b"RssAnon:") for pid in wanted)
    if most <= limit:
        return most
    total = 0
    for pid in wanted:
        shared_out = _field(_PROC / str(pid) / "smaps_rollup", b"Pss_Anon:")
        total += _bytes(_PROC / str(pid) / "status", b"RssAnon:") if shared_out is None else shared_out
    return total


def _bytes(path: Path, name: bytes) -> int:
    return _field(path, name) or 0


def _field(path: Path, name: bytes) -> int | None:
    """Return a field of a /proc file in bytes; None if the process ended, or the system does not tell."""
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * _KIB
    return None
