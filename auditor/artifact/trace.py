"""The trace: an append-only log of events, each line holding the SHA-256 of the line before it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from auditor.artifact.canonical import canonical_bytes

FORMAT = "trace-1"
GENESIS = "0" * 64
"""``prev`` of the first line."""


class TraceWriter:
    """Appends events to a trace, chains them, and counts them.

    Each line is handed to the operating system when it is written, so it outlives a killed process; ``sync``
    makes it outlive the machine (it costs about 20 times a line, so it is for seals, anchors and the end).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = GENESIS
        self.lines = 0
        # Unbuffered: one write call a line, no partial lines between events.
        self._file = path.open("xb", buffering=0)

    def append(self, event: str, members: dict[str, Any]) -> None:
        """Write one event. ``members`` must be ready for canonical JSON and not hold seq, event or prev."""
        line = canonical_bytes({**members, "event": event, "prev": self.head, "seq": self.lines}) + b"\n"
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a trace line were written to {self.path}")
        self.head = hashlib.sha256(line).hexdigest()
        self.lines += 1

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
