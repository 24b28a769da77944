"""Scratch: where a forked cell writes, so that files stay as they were.

Two things lead from a forked process to its parent's files: descriptors that were open, and the working directory. Both
are re-pointed in the child: open files to copies, and the working directory to a view of it in the scratch folder, of
real directories with copies of files that the program may write and links to the others. The program wrote its files
when it was recorded; so those are copied that changed since the recording began, and of older ones those that are
small, as an arm may come to write what the recording did not.

**What is not caught**: absolute paths, relative ones that lead out of the working directory (``../other``: they can be
read, and what is written goes to the original), large files that are older than the recording, and what lies deeper
than the view is made of.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from auditor.errors import MemauditError

LEVELS = 3
"""How many levels of directories are real ones, the working directory's own the first; below, directories are links."""
ENTRIES = 2_000
"""How many entries a view has; a directory that has more than what is left of them is a link."""
BESIDE = 20_000
"""How many entries the directories that lead to the working directory may have: a link is made to each, once."""
COPIED_BYTES = 256 * 2**20
"""How much is copied for each cell."""
OLDER_FILE_BYTES = 2**20
"""How large a file may be that is copied although it is older than the recording."""
OLDER_BYTES = 16 * 2**20
"""How much of those is copied for each cell, in the order of the view."""

_FLAGS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | getattr(os, "O_SYNC", 0)
_Inode = tuple[int, int]


class ScratchError(MemauditError):
    """Files that a forked cell could not be kept from."""


@dataclass(frozen=True)
class OpenFile:
    """A regular file that is open."""

    number: int
    flags: int
    position: int
    inode: _Inode
    size: int

    @property
    def is_writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


@dataclass(frozen=True)
class _Entry:
    """An entry of the view: a directory, a link to ``target``, or a copy of it."""

    kind: str
    path: str
    """From the root of what is laid."""
    target: str = ""
    inode: _Inode = (0, 0)
    size: int | None = None
    """Bytes of a regular file; None of anything else."""


class Scratch:
    """What each forked cell finds in place of the files; surveyed once, in the parent.

    Parameters
    ----------
    folder
        Where it lies; it is made. What stands above and beside the working directory is laid there once, of links.
    since
        When the recording began, in seconds of the epoch: files that changed later are copied; 0 for all.
    whole
        Directories that are links whatever they hold: the run's, the study's.
    own
        Descriptors that are not the program's.

    Raises
    ------
    ScratchError
        If the working directory has too many entries or what is to be copied is too large; ``why`` says it.
    """

    def __init__(self, folder: Path, *, since: float, whole: Collection[Path], own: Collection[int]) -> None:
        self._folder = folder
        try:
            self.cwd = Path.cwd()
            self.files = [file for file in _open_files() if file.number not in own]
            written = {file.inode for file in self.files if file.is_writable}
            self._entries = _with_older(_view(self.cwd, since, {path.resolve() for path in whole}, written))
            above = list(_ancestors(self.cwd))
            copied = {each.inode: each.size or 0 for each in self._entries if each.kind == "copy"}
        except OSError as error:
            raise _refused(f"the working directory cannot be looked through: {error}") from error
        copied |= {file.inode: file.size for file in self.files if file.is_writable}
        if sum(copied.values()) > COPIED_BYTES:
            raise _refused(
                f"{sum(copied.values()) / 2**20:,.0f} MiB of files that the program may write would have to be copied "
                f"for each cell, more than {COPIED_BYTES // 2**20}"
            )

        self._above = folder / "above"
        self._above.mkdir(parents=True)
        for entry in above:
            _lay(entry, self._above)
        self._above /= self.cwd.parent.relative_to("/")

    def _places(self, cell: str) -> tuple[Path, Path]:
        """Return the view of one cell, beside links to what lies beside the working directory, and its open files."""
        return self._above / f"{self.cwd.name}.{cell}", self._folder / f"open.{cell}"

    def enter(self, cell: str) -> None:
        """Make this process, a forked one, write into its own part of the folder, called ``cell``."""
        view, opened = self._places(cell)
        view.mkdir()
        opened.mkdir()
        for entry in self._entries:
            _lay(entry, view)
        copies = {entry.inode: view / entry.path for entry in self._entries if entry.kind == "copy"}
        for file in self.files:
            if file.is_writable and file.inode not in copies:
                copies[file.inode] = opened / str(file.number)
                shutil.copyfile(f"/proc/self/fd/{file.number}", copies[file.inode])
        for file in self.files:
            _repoint(file, copies.get(file.inode))
        os.chdir(view)
        if "PWD" in os.environ:
            os.environ["PWD"] = str(view)

    def remove(self, cell: str) -> None:
        """Remove what a cell wrote."""
        for place in self._places(cell):
            shutil.rmtree(place, ignore_errors=True)


def _lay(entry: _Entry, root: Path) -> None:
    place = root / entry.path
    if entry.kind == "directory":
        place.mkdir()
    elif entry.kind == "link":
        place.symlink_to(entry.target)
    else:
        shutil.copy2(entry.target, place)


def _refused(why: str) -> ScratchError:
    return ScratchError("what cells write cannot be kept from the files", where=str(Path.cwd()), why=why)


def _repoint(file: OpenFile, copy: Path | None) -> None:
    """Open a file anew under its number: a parent and its forked children have one position in common."""
    opened = os.open(f"/proc/self/fd/{file.number}" if copy is None else copy, file.flags & _FLAGS)
    os.lseek(opened, file.position, os.SEEK_SET)
    os.dup2(opened, file.number, inheritable=not file.flags & os.O_CLOEXEC)
    os.close(opened)


def _open_files() -> Iterator[OpenFile]:
    """Yield the regular files that this process has open, but not the three standard ones."""
    for path in sorted(Path("/proc/self/fd").iterdir(), key=lambda path: int(path.name)):
        with suppress(FileNotFoundError, ProcessLookupError):  # the listing's own
            number = int(path.name)
            found = path.stat()
            if number <= 2 or not stat.S_ISREG(found.st_mode):
                continue
            lines = Path(f"/proc/self/fdinfo/{number}").read_text("ascii", "replace").splitlines()
            told = dict(line.split(":", 1) for line in lines if ":" in line)
            flags = int(told["flags"], 8)
            if not flags & getattr(os, "O_PATH", 0):
                inode = (found.st_dev, found.st_ino)
                yield OpenFile(number, flags, int(told["pos"]), inode, found.st_size)


def _ancestors(cwd: Path) -> Iterator[_Entry]:
    """Yield what stands above and beside the working directory, so that ``..`` leads where it did."""
    count = 0
    for parent in reversed(cwd.parents):
        here, below = parent.relative_to("/"), cwd.relative_to(parent).parts[0]
        names = sorted(_names(parent))
        count += len(names)
        if count > BESIDE:
            raise _refused(f"there are more than {BESIDE} files beside the directories that lead here")
        if parent != cwd.parent:
            names = [name for name in names if name != below]
            yield _Entry("directory", str(here / below))
        yield from (_Entry("link", str(here / name), str(parent / name)) for name in names)


def _names(parent: Path) -> list[str]:
    try:
        return [path.name for path in parent.iterdir()]
    except PermissionError:
        return []  # the program cannot look into it either


def _view(cwd: Path, since: float, whole: Collection[Path], written: Collection[_Inode]) -> Iterator[_Entry]:
    """Yield the entries of the working directory: the upper levels first, each in the order of its names."""
    left = ENTRIES
    waiting = deque([(cwd, 1)])
    while waiting:
        directory, level = waiting.popleft()
        here = directory.relative_to(cwd)
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        if len(entries) > left:
            if directory == cwd:
                raise _refused(f"the working directory has more than {ENTRIES} entries")
            yield _Entry("link", str(here), str(directory))
            continue
        left -= len(entries)
        if directory != cwd:
            yield _Entry("directory", str(here))
        for entry in entries:
            path = str(here / entry.name)
            if entry.is_dir(follow_symlinks=False) and level < LEVELS and Path(entry.path) not in whole:
                waiting.append((Path(entry.path), level + 1))
            else:
                yield _leaf(entry, path, since, written)


def _leaf(entry: os.DirEntry[str], path: str, since: float, written: Collection[_Inode]) -> _Entry:
    if entry.is_symlink():
        target = Path(entry.path).readlink()
        if not target.is_absolute() and ".." not in target.parts:
            return _Entry("link", path, str(target))  # it leads to the same place of the view
    try:
        found = entry.stat()
    except OSError:
        return _Entry("link", path, entry.path)  # a link that leads nowhere
    inode = (found.st_dev, found.st_ino)
    changed = max(found.st_mtime, found.st_ctime) >= since
    if not stat.S_ISREG(found.st_mode):
        return _Entry("link", path, entry.path, inode)
    return _Entry("copy" if changed or inode in written else "link", path, entry.path, inode, found.st_size)


def _with_older(view: Iterable[_Entry]) -> list[_Entry]:
    """Return the view with copies of small files in place of links to them, as far as they may be copied."""
    left = OLDER_BYTES
    found = []
    for entry in view:
        small = entry.kind == "link" and entry.size is not None and entry.size <= min(OLDER_FILE_BYTES, left)
        left -= entry.size if small and entry.size is not None else 0
        found.append(replace(entry, kind="copy") if small else entry)
    return found
