"""Reading what a page needs from a directory that nobody has to trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auditor.artifact import run_directory, strict_json
from auditor.artifact.resources import validator
from auditor.artifact.run_directory import Inventory
from auditor.errors import MemauditError
from auditor.evidence import manifest as manifests
from auditor.evidence.trace_reader import TraceReading, read_trace


class Files:
    """One directory: each file is opened once, hashed, and either parsed or listed in `problems`."""

    def __init__(self, path: Path) -> None:
        self.inventory: Inventory = run_directory.scan(path)
        self.problems: list[str] = []
        self.hashes: list[tuple[str, str]] = []

    def _open(self, name: str) -> memoryview | None:
        if name not in self.inventory:
            return None
        try:
            opened = self.inventory.open(name)
        except MemauditError as error:
            self.problems.append(f"{name}: {error.what}")
            return None
        self.hashes.append((name, opened.sha256))
        return opened.data

    def document(self, name: str, schema: str | None = None) -> dict[str, Any]:
        """A JSON object that fits its schema; an empty one, with a problem noted, where it is not that."""
        data = self._open(name)
        if data is None:
            return {}
        try:
            value = strict_json.parse(bytes(data), name)
        except MemauditError as error:
            self.problems.append(f"{name}: {error.what}")
            return {}
        wrong = next(iter(validator(schema).iter_errors(value)), None) if schema else None
        if wrong is not None or not isinstance(value, dict):
            self.problems.append(f"{name} does not have the form that the specification gives it")
            return {}
        return value

    def trace(self) -> TraceReading:
        """The trace as far as it can be read."""
        data = self._open(run_directory.TRACE)
        reading = read_trace(data) if data is not None else TraceReading()
        if reading.problems:
            self.problems.append(f"{run_directory.TRACE}: {reading.problems[0].message}")
        return reading

    def predicate(self) -> dict[str, Any]:
        """The manifest's predicate, whoever signed it; an empty one without a readable manifest."""
        data = self._open(run_directory.MANIFEST)
        if data is None:
            return {}
        try:
            return manifests.parse(bytes(data)).predicate
        except MemauditError as error:
            self.problems.append(f"{run_directory.MANIFEST}: {error.what}")
            return {}
