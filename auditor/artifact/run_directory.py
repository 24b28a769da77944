"""What lies in a directory of evidence: every entry, without following links, and each file opened once.

What was hashed is what is parsed: a file's bytes are read (or mapped) from one descriptor opened with O_NOFOLLOW.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from auditor.errors import MemauditError

MANIFEST = "manifest.json"
TRACE = "trace.jsonl"
ENVIRONMENT = "environment.json"
PROBES = "probe/probes.json"
ORDER = "order"
ANCHORS = "anchors"
SOURCE = "source"
TENSORS = "tensors.safetensors"
VALUES = "values.json"
PLAN_SOURCE = "plan.yaml"
PLAN = "plan.json"
ESTIMATE = "estimate.json"
CELLS = "cells"

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 32
MAX_SOURCE_FILE_BYTES = 1 << 20
MAX_SOURCE_BYTES = 16 << 20
MAX_SOURCE_FILES = 2_000
_MAP_ABOVE = 1 << 20
_CHUNK = 1 << 20
_HALF_WRITTEN = re.compile(r"\.[^/]+\.[0-9]+\.tmp")
_SOURCE_FOLDER = re.compile(r"source(-[2-9]|-[1-9][0-9]+)?")


def order_file(number: int, again: int = 1) -> str:
    """Return the path of a pass's order file below the run; passes count from 1.

    A pass that was walked ``again`` after a cut has another file beside the first.
    """
    return f"{ORDER}/pass-{number:06d}{'' if again == 1 else f'-{again}'}.npy"


def order_part(number: int) -> str:
    """Return the path of the log of a pass in progress, below the run."""
    return f"{ORDER}/pass-{number:06d}.part"


def anchor_path(step: int) -> str:
    """Return the usual path of the anchor after ``step``, below the run."""
    return f"{ANCHORS}/step-{step:06d}"


def source_folder(environment_file: str) -> str:
    """Return the folder for the text of the program that an environment file describes: ``source``, ``source-2``, …"""
    return SOURCE + environment_file.removeprefix("environment").removesuffix(".json")


def environment_of(path: str) -> str | None:
    """Return the environment file that speaks of a path: of ``source-2/train.py``, environment-2.json; None elsewhere.

    ``path`` may be the folder alone.
    """
    folder = _SOURCE_FOLDER.fullmatch(path.partition("/")[0])
    return None if folder is None else f"environment{folder[1] or ''}.json"


def can_keep_source(path: str) -> bool:
    """Say whether a program's file can be kept under its path from the program's folder."""
    return is_inside(path) and path.count("/") < MAX_DEPTH and not is_half_written(f"{SOURCE}/{path}")


def is_half_written(path: str) -> bool:
    """Say whether a path is one that a recorder writes to before it renames, or a folder it makes before it fills it.

    A recorder that was killed leaves such paths behind; nothing in the trace speaks of them.
    """
    return path in (ORDER, ANCHORS, "probe") or any(_HALF_WRITTEN.fullmatch(part) for part in path.split("/"))


class DirectoryError(MemauditError):
    """A directory or file of evidence that cannot be read."""


@dataclass(frozen=True)
class Irregular:
    """An entry that is no regular file and no directory with something in it."""

    path: str
    """Relative, with ``/`` between parts."""
    kind: str
    """``symbolic link``, ``device``, ``fifo``, ``socket``, ``empty directory``, ``name that is not UTF-8``."""


@dataclass(frozen=True)
class OpenedFile:
    """The bytes of one file, with their SHA-256 in hexadecimal."""

    path: str
    data: memoryview
    sha256: str


@dataclass
class Inventory:
    """Every entry below a directory. Files are opened on demand, once each."""

    root: Path
    files: dict[str, int]
    """Relative path to size in bytes, sorted by path."""
    irregular: tuple[Irregular, ...]
    _opened: dict[str, OpenedFile] = field(default_factory=dict, repr=False)

    def open(self, path: str) -> OpenedFile:
        """Return a file's bytes and hash; the same object each time, so that all checks see the same bytes.

        Raises
        ------
        DirectoryError
            If the file is not in the inventory, is no longer a regular file, or cannot be read.
        """
        if path not in self._opened:
            if path not in self.files:
                raise DirectoryError("no such file", where=path)
            data = memoryview(_read_once(self.root, path))
            self._opened[path] = OpenedFile(path, data, _sha256(data))
        return self._opened[path]

    def keep(self, opened: OpenedFile) -> None:
        """Use a file that was opened by an earlier inventory of the same directory, instead of opening it again."""
        self._opened[opened.path] = opened

    def bytes_of(self, path: str) -> bytes:
        """Return a file's bytes as one object."""
        return bytes(self.open(path).data)

    def __contains__(self, path: object) -> bool:
        return path in self.files


def scan(root: Path) -> Inventory:
    """List everything below ``root``, dotfiles and ``.git`` included, without following a link.

    Raises
    ------
    DirectoryError
        If ``root`` is no directory, cannot be listed, or holds more than a run directory may.
    """
    if root.is_symlink() or not root.is_dir():
        raise DirectoryError("not a directory", where=str(root))
    files: dict[str, int] = {}
    irregular: list[Irregular] = []
    pending: list[tuple[str, int]] = [("", 0)]
    seen = 0
    while pending:
        below, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise DirectoryError(f"directories nested deeper than {MAX_DEPTH}", where=below)
        entries = _list(root, below)
        if not entries and below:
            irregular.append(Irregular(below, "empty directory"))
        for entry in entries:
            seen += 1
            if seen > MAX_ENTRIES:
                raise DirectoryError(f"more than {MAX_ENTRIES} entries", where=str(root))
            path = f"{below}/{entry.name}" if below else entry.name
            if not _is_text(path):
                irregular.append(Irregular(ascii(path)[1:-1], "name that is not UTF-8"))
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                pending.append((path, depth + 1))
            elif stat.S_ISREG(status.st_mode):
                files[path] = status.st_size
            else:
                irregular.append(Irregular(path, _kind(status.st_mode)))
    return Inventory(root, dict(sorted(files.items())), tuple(sorted(irregular, key=lambda item: item.path)))


def is_inside(path: str) -> bool:
    """Say whether a path in a manifest or trace is relative, plain, and stays inside the directory."""
    if not path or path.startswith("/") or "\\" in path or "\0" in path or ":" in path.split("/", maxsplit=1)[0]:
        return False
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and str(PurePosixPath(path)) == path


def _list(root: Path, below: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / below) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DirectoryError("the directory cannot be listed", where=str(root / below), why=error.strerror) from None


def _read_once(root: Path, path: str) -> bytes | mmap.mmap:
    # O_NONBLOCK: a fifo that took the file's place must not hang the verifier.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(root / path, flags)
    except OSError as error:
        raise DirectoryError("the file cannot be opened", where=path, why=error.strerror) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DirectoryError("no longer a regular file", where=path)
        if status.st_size > _MAP_ABOVE:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read()


def _sha256(data: memoryview) -> str:
    hasher = hashlib.sha256()
    for start in range(0, len(data), _CHUNK):
        hasher.update(data[start : start + _CHUNK])
    return hasher.hexdigest()


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return name
    return "device"
