"""The text of the program that a run keeps: read, and held against the hashes in the environment file that names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from auditor.artifact.run_directory import (
    MAX_SOURCE_BYTES,
    MAX_SOURCE_FILE_BYTES,
    DirectoryError,
    Inventory,
    can_keep_source,
    source_folder,
)


@dataclass(frozen=True)
class Misfit:
    """A kept file that is not what the environment file says, or something in that file that cannot be so."""

    where: str
    """Path in the run, with ``#/pointer`` inside the environment file."""
    message: str
    is_missing: bool = False
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True)
class SourceTexts:
    """The program files that lie in the run under one environment file."""

    files: dict[str, bytes]
    """Bytes by path from the program's folder, sorted by path; only files whose SHA-256 is the recorded one."""
    hashes: dict[str, str]
    """SHA-256 of every file that the environment file names, kept or not, the program's own first."""
    misfits: tuple[Misfit, ...]
    """What was left out, and why."""


def read_source_texts(inventory: Inventory, environment_file: str, program: dict[str, Any]) -> SourceTexts:
    """Read what a run keeps; ``program`` is that member of the environment file, which fits its schema."""
    folder, kept = source_folder(environment_file), program["kept"]
    hashes: dict[str, str] = dict(program["modules"])
    misfits: list[Misfit] = []
    if program["path"] is not None and program["sha256"] is not None:
        name = PurePosixPath(program["path"]).name
        if name in hashes:
            misfits.append(Misfit(f"{environment_file}#/program/modules", "a module has the program's own name"))
        hashes = {name: program["sha256"], **{path: sha256 for path, sha256 in hashes.items() if path != name}}
    place = f"{environment_file}#/program/kept"
    if kept != sorted(set(kept)):
        misfits.append(Misfit(place, "the kept files are not in order, or one stands twice"))
    named = set(kept)
    for path in inventory.files:
        top, _, below = path.partition("/")
        if top == folder and below not in named:
            misfits.append(Misfit(path, f"a file that {environment_file} does not name as kept"))
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(named):
        where = f"{folder}/{path}"
        if path not in hashes or not can_keep_source(path):
            misfits.append(Misfit(place, f"{ascii(path)[:200]} is no file of the program that can be kept"))
        elif where not in inventory:
            message = f"a file that {environment_file} names as kept is missing"
            misfits.append(Misfit(where, message, is_missing=True, expected=hashes[path]))
        elif inventory.files[where] > MAX_SOURCE_FILE_BYTES or total + inventory.files[where] > MAX_SOURCE_BYTES:
            misfits.append(Misfit(where, "a kept file is larger than may be kept"))
        else:
            problem = _problem(inventory, where, hashes[path])
            if problem is not None:
                misfits.append(problem)
                continue
            files[path] = inventory.bytes_of(where)
            total += len(files[path])
    return SourceTexts(files, hashes, tuple(misfits))


def _problem(inventory: Inventory, where: str, expected: str) -> Misfit | None:
    try:
        found = inventory.open(where).sha256
    except DirectoryError as error:
        return Misfit(where, f"a kept file cannot be read: {error.why or error.what}", expected=expected)
    if found != expected:
        return Misfit(where, "a kept file is not the one that was recorded", expected=expected, found=found)
    return None
