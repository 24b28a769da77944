"""What the checks look at: one directory, opened once, with what could be read of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from auditor.artifact import run_directory, strict_json
from auditor.artifact.resources import validator
from auditor.artifact.run_directory import MANIFEST, TRACE, Inventory, OpenedFile
from auditor.errors import MemauditError
from auditor.evidence import manifest as manifests
from auditor.evidence.dsse import Signature
from auditor.evidence.history import History
from auditor.evidence.trace_reader import TraceReading, read_trace
from auditor.evidence.trust import TrustStore
from auditor.findings.evidence import Evidence

T = TypeVar("T")
RUN = "run"
STUDY = "study"


class Examination:
    """A run or study under examination. Files are opened once; what was parsed is kept, and so is why it could not be.

    ``kind`` is ``run`` or ``study``; ``label`` is the path as the user gave it, for commands in hints.
    """

    def __init__(self, path: Path, inventory: Inventory, trusted: TrustStore) -> None:
        self.path = path
        self.label = str(path)
        self.inventory = inventory
        self.trusted = trusted
        self.manifest: manifests.Manifest | None = None
        self.manifest_error: MemauditError | None = None
        self._parsed: dict[tuple[str, str], Any] = {}
        if MANIFEST in inventory:
            try:
                self.manifest = manifests.parse(inventory.bytes_of(MANIFEST))
            except MemauditError as error:
                self.manifest_error = error
        self.kind = self._kind()

    def _kind(self) -> str:
        if self.manifest is not None and self.manifest.predicate_type == manifests.STUDY:
            return STUDY
        if self.manifest is not None and self.manifest.predicate_type == manifests.RUN:
            return RUN
        names = (run_directory.PLAN, run_directory.ESTIMATE)
        return STUDY if TRACE not in self.inventory and any(name in self.inventory for name in names) else RUN

    @cached_property
    def trace(self) -> TraceReading:
        """The trace as far as it can be read; empty without a file."""
        if TRACE not in self.inventory:
            return TraceReading()
        return read_trace(self.inventory.open(TRACE).data)

    @cached_property
    def history(self) -> History:
        """Which of the trace's events count, and which were made void by a cut."""
        return History.of(self.trace.events)

    @cached_property
    def signers(self) -> list[Signature]:
        """The manifest's signatures, good and bad."""
        return [] if self.manifest is None else list(self.manifest.envelope.signatures)

    @property
    def has_good_signature(self) -> bool:
        """Whether some signature verifies, trusted or not."""
        return any(signer.problem is None for signer in self.signers)

    @property
    def is_vouched_for(self) -> bool:
        """Whether a key that is trusted here signed the manifest."""
        return any(signer.problem is None and self.trusted.trusts(signer.keyid) for signer in self.signers)

    @property
    def attested(self) -> Evidence:
        """How far what is signed but not recomputed may be believed."""
        return Evidence.ATTESTED if self.is_vouched_for else Evidence.CLAIMED

    def opened(self, path: str) -> OpenedFile | None:
        """Return a file's bytes and hash, or None if it is not there or cannot be read."""
        result = self.parsed(path, "bytes", lambda: self.inventory.open(path))
        return result if isinstance(result, OpenedFile) else None

    def parsed(self, path: str, kind: str, read: Callable[[], T]) -> T | MemauditError:
        """Return what ``read`` makes of a file, or the error it raises; each is done once."""
        key = (path, kind)
        if key not in self._parsed:
            try:
                self._parsed[key] = read()
            except MemauditError as error:
                self._parsed[key] = error
        result: T | MemauditError = self._parsed[key]
        return result

    def document(self, path: str, schema: str) -> Any | MemauditError:
        """Return a canonical JSON file that fits its schema, or what is wrong with it."""
        return self.parsed(path, schema, lambda: self._document(path, schema))

    def _document(self, path: str, schema: str) -> Any:
        value = strict_json.parse_canonical(self.inventory.bytes_of(path), path)
        check_schema(value, schema, path)
        return value


class SchemaError(MemauditError):
    """A document that does not fit its schema."""


def check_schema(value: Any, schema: str, where: str) -> None:
    """Check a value against a shipped schema.

    Raises
    ------
    SchemaError
        At the first, deepest place that does not fit.
    """
    from jsonschema.exceptions import best_match

    try:
        error = best_match(validator(schema).iter_errors(value))
    except RecursionError:
        raise SchemaError("nested too deeply to be checked", where=where) from None
    if error is not None:
        pointer = "".join(f"/{part}" for part in error.absolute_path)
        raise SchemaError(f"does not fit its format: {error.message[:200]}", where=f"{where}#{pointer}")
