"""The program that is recorded and the modules imported from beside it: each file read once, hashed and kept.

What stands in ``source/`` are the bytes that were hashed, so that a later reader sees the text that ran
(docs/run-directory.md, "environment.json").
"""

from __future__ import annotations

import hashlib
import os
import shutil
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import auditor
from auditor.artifact.run_directory import MAX_SOURCE_BYTES, MAX_SOURCE_FILE_BYTES, MAX_SOURCE_FILES, can_keep_source


@dataclass(frozen=True)
class ProgramFiles:
    """The program of this process as it is on the disk now."""

    described: dict[str, Any]
    """The member ``program`` of environment.json."""
    kept: dict[str, bytes]
    """The text of its files by their path from the program's folder, those that are kept."""

    @property
    def identity(self) -> dict[str, Any]:
        """``{path, sha256, argv}``; path and hash are null in an interactive session."""
        return {name: self.described[name] for name in ("path", "sha256", "argv")}

    def write(self, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """Write the kept files below ``folder``, which appears whole or not at all; nothing kept, no folder.

        Returns the member ``program`` that holds now, and what there is to tell: where the disk refuses the text, none
        is kept, and the recording goes on with the hashes.
        """
        if not self.kept:
            return self.described, []
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have had this number
        try:
            for path, data in self.kept.items():
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # "x": where two names are one file, as on disks that don't tell case apart, neither is overwritten.
                with target.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(folder)
        except OSError as error:
            return {**self.described, "kept": []}, [f"the program's text is not kept, only its hashes: {error}"]
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.described, []


def read_program(*, keep: bool = True) -> ProgramFiles:
    """Read the program and the modules imported so far that lie beside it; without ``keep`` only hashes stay."""
    main = sys.modules.get("__main__")
    specification = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    path = None if file is None else Path(file).resolve()
    own = [(path.name, path)] if path is not None and path.is_file() else []
    # In order of their names: which of too many are kept does not depend on the order of imports.
    beside = sorted(_beside(path)) if path is not None else []
    hashes: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    total = 0
    for name, source in (*own, *beside):
        data = source.read_bytes()
        hashes[name] = hashlib.sha256(data).hexdigest()
        fits = len(data) <= MAX_SOURCE_FILE_BYTES and total + len(data) <= MAX_SOURCE_BYTES
        if keep and fits and len(kept) < MAX_SOURCE_FILES and can_keep_source(name):
            kept[name] = data
            total += len(data)
    described = {
        "path": _shown(own[0][1]) if own else None,
        "sha256": hashes.pop(own[0][0]) if own else None,
        "argv": _arguments(),
        "module": specification.name if specification is not None and specification.name != "__main__" else None,
        "modules": hashes,
        "kept": sorted(kept),
        "cwd": str(_started_in()),
    }
    return ProgramFiles(described, kept)


def _started_in() -> Path:
    """Return the directory the program was started in, as far as that is known: replay starts it there again."""
    return Path.cwd() if auditor.STARTED_IN is None else Path(auditor.STARTED_IN)


def _shown(path: Path) -> str:
    # Relative where it can be: the path then means something on another machine, and says less about this one.
    here = _started_in().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _beside(program: Path) -> Iterator[tuple[str, Path]]:
    """Yield each module imported so far that lies beside the program: its path from there, and its file."""
    places = (sys.prefix, sys.base_prefix, site.getusersitepackages(), *site.getsitepackages())
    installed = {Path(place).resolve() for place in places}
    found: set[Path] = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "auditor":
            continue  # memaudit's own version stands elsewhere
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        if path in found or path == program or any(path.is_relative_to(other) for other in installed):
            continue
        if path.is_relative_to(program.parent) and path.is_file():
            found.add(path)
            yield path.relative_to(program.parent).as_posix(), path


def _arguments() -> list[str]:
    """Return the arguments the program was started with, whatever it has done to ``sys.argv`` since."""
    words, script = sys.orig_argv, sys.argv[0] if sys.argv else ""
    return list(words[words.index(script) + 1 :]) if script in words else list(sys.argv[1:])
