"""Sample ids as they are consumed, on the disk at each step: what a killed run still shows of a pass in progress."""

from __future__ import annotations

import hashlib
from io import FileIO
from pathlib import Path

import numpy as np

from auditor.artifact import order_file
from auditor.artifact.run_directory import ORDER, order_part
from auditor.artifact.run_directory import order_file as order_path
from auditor.recorder.passes import Pass


class OrderLog:
    """Writes ``order/pass-….part`` while a pass goes on and ``order/pass-….npy`` where it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[int, tuple[FileIO, int]] = {}

    def note(self, passes: list[Pass]) -> None:
        """Append the ids consumed since the last call: unsigned integers of 8 bytes, little-endian."""
        for each in passes:
            if each.walk is None or not each.walk.has_ids:
                continue
            file, written = self._open.get(each.number) or (self._begin(each.number), 0)
            ids = each.walk.delivered[written:]
            if ids:
                file.write(np.asarray(ids, dtype="<i8").tobytes())
            self._open[each.number] = (file, written + len(ids))

    def finish(self, number: int, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[str, str]:
        """Write a pass's order file in place of its log; return its path below the run and its SHA-256."""
        (self._directory / ORDER).mkdir(exist_ok=True)
        again = 1
        while (self._directory / order_path(number, again)).exists():
            again += 1
        path = order_path(number, again)
        data = order_file.write(self._directory / path, ids.astype(np.uint64))
        self.forget(number)
        return path, hashlib.sha256(data).hexdigest()

    def forget(self, number: int) -> None:
        """Remove a pass's log."""
        if number in self._open:
            self._open.pop(number)[0].close()
            (self._directory / order_part(number)).unlink()

    def _begin(self, number: int) -> FileIO:
        (self._directory / ORDER).mkdir(exist_ok=True)
        return FileIO(self._directory / order_part(number), "w")
