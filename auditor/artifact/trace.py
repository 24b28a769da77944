"""The trace: an append-only log of events, each line holding the SHA-256 of the line before it."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from auditor.artifact.canonical import canonical_bytes
from auditor.errors import MemauditError

try:
    import fcntl
except ImportError:  # Windows; there two writers are kept apart by nothing but their users
    fcntl = None  # type: ignore[assignment]

FORMAT = "trace-1"
GENESIS = "0" * 64
"""``prev`` of the first line."""


class TraceInUseError(MemauditError):
    """A trace that another process is writing."""


class TraceWriter:
    """Appends events to a trace, chains them, and counts them.

    A trace has one writer: it is locked while it is open, and the lock goes with the process. Each line is handed to
    the operating system when it is written, so it outlives a killed process; ``sync`` makes it outlive the machine (it
    costs about 20 times a line, so it is for seals, anchors and the end).
    """

    def __init__(self, path: Path) -> None:
        self._begin(path, "xb", GENESIS, 0)

    @classmethod
    def reopen(cls, path: Path, head: str, lines: int) -> Self:
        """Go on in a trace of which ``lines`` whole lines were read, the last with SHA-256 ``head``.

        Raises
        ------
        TraceInUseError
            If another process is writing it.
        """
        writer = cls.__new__(cls)
        writer._begin(path, "ab", head, lines)
        return writer

    def _begin(self, path: Path, mode: str, head: str, lines: int) -> None:
        self.path = path
        self.head = head
        self.lines = lines
        self._turn = threading.Lock()
        # Unbuffered: one write call a line, no partial lines between events.
        self._file = cast(FileIO, path.open(mode, buffering=0))
        try:
            _lock(self._file, path)
        except BaseException:
            self._file.close()
            raise

    def append(self, event: str, members: dict[str, Any]) -> None:
        """Write one event. ``members`` must be ready for canonical JSON and not hold seq, event or prev."""
        with self._turn:
            line = canonical_bytes({**members, "event": event, "prev": self.head, "seq": self.lines}) + b"\n"
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes of a trace line were written to {self.path}")
            self.head = hashlib.sha256(line).hexdigest()
            self.lines += 1

    @property
    def number(self) -> int:
        """The open file's descriptor."""
        return self._file.fileno()

    def sync(self) -> None:
        """Make all that was written durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make the trace durable and close it; closing twice is allowed."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _lock(file: FileIO, path: Path) -> None:
    """Take the record lock on a trace. Record locks are the process's own: workers that it forks do not hold them."""
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise TraceInUseError(
                "another process is writing this trace",
                where=str(path),
                next_step="wait until the recording has ended, or end it",
            ) from None
        # A file system without locks: then there is none.
