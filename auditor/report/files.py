"""Reading what a page needs from directories and files that nobody has to trust."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory, strict_json
from auditor.artifact.resources import validator
from auditor.artifact.run_directory import Inventory
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence import manifest as manifests
from auditor.evidence.trace_reader import TraceReading, read_trace

_MOST_BYTES = 16 << 20
"""Of a saved comparison. `memaudit diff` thins long series; program texts are what can be long."""


@dataclass(frozen=True)
class ComparisonFile:
    """A saved `diff-1` document."""

    name: str
    document: dict[str, Any]
    sha256: str


def read_comparison(path: Path) -> ComparisonFile:
    """What `memaudit diff A B --format json` wrote to `path`; anything else raises `NothingToAuditError`."""
    if not path.is_file():
        raise _no_comparison(path, "it is no regular file")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        document = strict_json.parse(data, str(path), max_bytes=_MOST_BYTES)
    except OSError as error:
        raise _no_comparison(path, error.strerror or str(error)) from None
    except MemauditError as error:
        raise _no_comparison(path, f"{error.what}: {error.why}" if error.why else error.what) from None
    form = document.get("format") if isinstance(document, dict) else None
    if form != "diff-1":
        raise _no_comparison(path, f"its format is {form[:40]!r}" if isinstance(form, str) else "it names no format")
    wrong = next(iter(validator("diff").iter_errors(document)), None)
    if wrong is not None:
        raise _no_comparison(path, f"it breaks the form of diff-1 at {wrong.json_path[:80]}: {wrong.message[:120]}")
    return ComparisonFile(path.name, document, hashlib.sha256(data).hexdigest())


def _no_comparison(path: Path, why: str) -> NothingToAuditError:
    return NothingToAuditError(
        "the file holds no comparison",
        where=str(path),
        why=why,
        next_step="memaudit diff RUN_A RUN_B --format json > diff.json; a run or a study is named by its directory",
    )


def manifest_hash(path: Path) -> str | None:
    """The SHA-256 of the manifest in a run directory; None where there is none, or none that can be opened."""
    inventory = run_directory.scan(path)
    if run_directory.MANIFEST not in inventory:
        return None
    try:
        return inventory.open(run_directory.MANIFEST).sha256
    except MemauditError:
        return None  # the verification of the run names what is wrong with it


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
