"""Writing anchors off the training thread: one at a time, so that at most one copy of the state waits for the disk."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from auditor.state.anchor import Snapshot


@dataclass(frozen=True)
class Stored:
    """An anchor whose files are on the disk, whole."""

    path: str
    """Below the run."""
    files: dict[str, str]
    """SHA-256 by file name."""


class AnchorWriter:
    """Writes one anchor at a time on a thread of its own.

    Nothing here looks at live state: a snapshot is copies. The thread lives only while it writes, so that a program
    that forks between anchors forks a process without it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread: threading.Thread | None = None
        self._done: Stored | None = None
        self._error: Exception | None = None

    def submit(self, snapshot: Snapshot, path: str) -> None:
        """Begin to write an anchor; the one before must have been collected."""
        if self._thread is not None:
            raise RuntimeError("an anchor is still being written")
        self._thread = threading.Thread(target=self._write, args=(snapshot, path), name="memaudit-anchor")
        self._thread.start()

    def collect(self) -> Stored | None:
        """Wait for the anchor in the making, if there is one, and return it.

        Raises
        ------
        Exception
            Whatever kept it from being written.
        """
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        done, error = self._done, self._error
        self._done = self._error = None
        if error is not None:
            raise error
        return done

    def check(self) -> None:
        """Raise at once what kept the anchor in the making from being written, if that is known by now."""
        if self._error is not None:
            self.collect()

    def close(self) -> None:
        """Wait for what is being written, and ask no more about it."""
        if self._thread is not None:
            self._thread.join()

    def drop(self, path: str) -> None:
        """Remove an anchor's files."""
        shutil.rmtree(self._directory / path)

    def _write(self, snapshot: Snapshot, path: str) -> None:
        try:
            self._done = Stored(path, snapshot.write(self._directory / path))
        except Exception as error:  # handed to the training thread, which ends the recording and says why
            self._error = error
