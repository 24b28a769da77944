"""How long a cell may take and how much memory it may use, and how its process ended."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from auditor.errors import MemauditError
from auditor.replay.executors import process_memory

_MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What each cell may use; None for no limit.

    Raises
    ------
    MemauditError
        If a limit is not positive, or memory is limited where nobody can tell how much a process uses.
    """

    timeout: float | None = None
    """Seconds of wall time, from the start of its process."""
    memory: int | None = None
    """Bytes of private resident memory (:mod:`auditor.replay.executors.process_memory`), loader workers included."""

    def __post_init__(self) -> None:
        for name, value in (("time", self.timeout), ("memory", self.memory)):
            if value is not None and not value > 0:
                raise MemauditError(f"a cell's limit of {name} must be more than 0, not {value}")
        if self.memory is not None and not process_memory.is_known():
            raise MemauditError(
                "memory cannot be limited here",
                why="this system has no /proc that tells how much a process uses",
                next_step="leave the memory limit out, or run the study on Linux",
            )

    def exceeded(self, seconds: float, pids: Iterable[int]) -> str | None:
        """Return in words which limit a cell is over that has run for ``seconds`` in ``pids``, or None."""
        if self.timeout is not None and seconds >= self.timeout:
            return f"it took longer than {self.timeout:g} s"
        if self.memory is not None and process_memory.private_memory(pids, self.memory) > self.memory:
            return f"it used more than {self.memory / _MIB:,.0f} MiB of memory"
        return None


@dataclass(frozen=True)
class Ended:
    """How a task's process ended."""

    status: int
    """Its exit status; negative for the signal that killed it."""
    reason: str | None = None
    """In words, where the executor killed or lost it."""

    @property
    def killed(self) -> str | None:
        """Why the process did not come to its own end, in words; None if it did."""
        if self.reason is not None:
            return self.reason
        if self.status >= 0:
            return None
        try:
            name = f" ({signal.Signals(-self.status).name})"
        except ValueError:
            name = ""  # a real-time signal
        remark = "; often for want of memory" if self.status == -signal.SIGKILL else ""
        return f"its process was killed by signal {-self.status}{name}{remark}"
