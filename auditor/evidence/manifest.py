"""The manifest: an in-toto Statement v1 about every file of a directory, signed, written last."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory, strict_json
from auditor.artifact.canonical import canonical_bytes
from auditor.errors import MemauditError
from auditor.evidence.dsse import IN_TOTO, Envelope, sign_envelope, verify_envelope
from auditor.evidence.keys import SigningKey

STATEMENT = "https://in-toto.io/Statement/v1"
RUN = "urn:memaudit:run:1"
STUDY = "urn:memaudit:study:1"
PARTIAL = "manifest.json.partial"
"""What the manifest is called until it is whole."""


class ManifestError(MemauditError):
    """A manifest that cannot be written or is no statement of memaudit's."""


@dataclass(frozen=True)
class Manifest:
    """A parsed statement. Nothing is known about its truth: that is what verification is for."""

    envelope: Envelope
    predicate_type: str
    predicate: dict[str, Any]
    subjects: dict[str, str]
    """Path to SHA-256 in hexadecimal."""
    statement: dict[str, Any]


def write_manifest(directory: Path, predicate_type: str, predicate: dict[str, Any], key: SigningKey) -> None:
    """Hash every file below ``directory`` and write the signed manifest, last and atomically.

    Empty directories are removed first: a manifest lists files, and an empty directory counts as not listed.

    Raises
    ------
    ManifestError
        If the directory holds a link, a device or a fifo, or has a manifest already.
    """
    target = directory / run_directory.MANIFEST
    if target.exists() or target.is_symlink():
        raise ManifestError("there is a manifest already", where=str(target))
    partial = directory / PARTIAL
    partial.unlink(missing_ok=True)  # left by a process killed while it wrote one
    _remove_empty(directory)
    inventory = run_directory.scan(directory)
    if inventory.irregular:
        entry = inventory.irregular[0]
        raise ManifestError(f"a {entry.kind} cannot be signed", where=str(directory / entry.path))
    subjects = [{"name": name, "digest": {"sha256": inventory.open(name).sha256}} for name in sorted(inventory.files)]
    statement = {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    data = sign_envelope(IN_TOTO, canonical_bytes(statement), [key])
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    _sync_directory(directory)


def parse(data: bytes, where: str = run_directory.MANIFEST) -> Manifest:
    """Return the manifest in ``data``, its signatures checked, its files not.

    Raises
    ------
    EnvelopeError
        If the envelope is not in its one form.
    ManifestError
        If the payload is no Statement v1 with well-formed subjects.
    """
    envelope = verify_envelope(data, where)
    place = f"{where}#/payload"
    try:
        statement = strict_json.parse_canonical(envelope.payload + b"\n", place)
    except strict_json.StrictJsonError as error:
        raise ManifestError(f"the statement: {error.what}", where=place, why=error.why) from None
    if not isinstance(statement, dict) or set(statement) != {"_type", "subject", "predicateType", "predicate"}:
        raise ManifestError("not an in-toto statement", where=place)
    if statement["_type"] != STATEMENT:
        raise ManifestError(f"the statement's type is not {STATEMENT}", where=place)
    if not isinstance(statement["predicateType"], str) or not isinstance(statement["predicate"], dict):
        raise ManifestError("the statement has no predicate", where=place)
    return Manifest(
        envelope, statement["predicateType"], statement["predicate"], _subjects(statement["subject"], place), statement
    )


def read(directory: Path) -> Manifest:
    """Return the manifest of a directory, as :func:`parse`.

    Raises
    ------
    DirectoryError
        If there is none.
    """
    inventory = run_directory.scan(directory)
    return parse(inventory.bytes_of(run_directory.MANIFEST), str(directory / run_directory.MANIFEST))


def _subjects(listed: Any, where: str) -> dict[str, str]:
    malformed = ManifestError("the statement's subjects are malformed", where=where)
    if not isinstance(listed, list):
        raise malformed
    subjects: dict[str, str] = {}
    for entry in listed:
        if not isinstance(entry, dict) or set(entry) != {"name", "digest"}:
            raise malformed
        name, digest = entry["name"], entry["digest"]
        if not isinstance(name, str) or not isinstance(digest, dict) or set(digest) != {"sha256"}:
            raise malformed
        value = digest["sha256"]
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise malformed
        if not run_directory.is_inside(name) or name == run_directory.MANIFEST:
            raise ManifestError("a subject's path leaves the directory", where=where, why=repr(name)[:200])
        subjects[name] = value
    if list(subjects) != sorted(subjects) or len(subjects) != len(listed):
        raise ManifestError("the subjects are not sorted, or one stands twice", where=where)
    return subjects


def _remove_empty(directory: Path) -> None:
    for parent, _, _ in os.walk(directory, topdown=False):
        path = Path(parent)
        if path != directory and not any(path.iterdir()):
            path.rmdir()


def _sync_directory(directory: Path) -> None:
    """Make the rename durable. Windows cannot open a directory, and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
