"""Imported by Python before the first line of a program that runs under ``memaudit record``.

It seeds what ``--seed`` asks for: Python's stream now, NumPy's and torch's when they are imported. It imports neither
itself, and hides nothing: another ``sitecustomize`` further down the path is imported too.
"""

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def _step_aside() -> None:
    """Leave the path as it would be without this module, and import the next sitecustomize if there is one."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != here]
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)
    this = sys.modules.pop("sitecustomize")
    specification = importlib.util.find_spec("sitecustomize")
    if specification is None or specification.loader is None:
        sys.modules["sitecustomize"] = this
        return
    following = importlib.util.module_from_spec(specification)
    sys.modules["sitecustomize"] = following
    specification.loader.exec_module(following)


class _SeedingLoader(Loader):
    """Executes a package with its own loader, then seeds its global stream."""

    def __init__(self, inner: Loader, seeder: Callable[[Any], object]) -> None:
        self._inner = inner
        self._seeder = seeder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the package's own loader."""
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the package, seed its stream, and leave no trace in it."""
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        self._seeder(module)


class _SeedOnImport(MetaPathFinder):
    """Finds each of a few packages once, for the loader that seeds."""

    def __init__(self, seeders: dict[str, Callable[[Any], object]]) -> None:
        self._seeders = seeders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the package's own spec with the loader that seeds, or None for all other modules."""
        seeder = self._seeders.pop(fullname, None)
        if seeder is None:
            return None
        specification = importlib.util.find_spec(fullname)
        if specification is not None and specification.loader is not None:
            specification.loader = _SeedingLoader(specification.loader, seeder)
        return specification


def _seed(value: int) -> None:
    random.seed(value)
    seeders: dict[str, Callable[[Any], object]] = {
        "numpy": lambda numpy: numpy.random.seed(value & 0xFFFFFFFF),
        "torch": lambda torch: torch.manual_seed(value),
    }
    sys.meta_path.insert(0, _SeedOnImport(seeders))


_step_aside()
if os.environ.get("MEMAUDIT_SEED"):
    _seed(int(os.environ["MEMAUDIT_SEED"]))
