"""Imported by Python before the first line of a program that runs under ``memaudit record``.

It seeds what ``--seed`` asks for: Python's stream now, NumPy's and torch's when they are imported. It imports neither
itself, and hides nothing: another ``sitecustomize`` further down the path is imported too.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder


def _step_aside():
    """Leave the path as it would be without this module, and import the next sitecustomize if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != here]
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)
    this = sys.modules.pop("sitecustomize", None)
    specification = importlib.util.find_spec("sitecustomize")
    if specification is None:
        sys.modules["sitecustomize"] = this
        return
    following = importlib.util.module_from_spec(specification)
    sys.modules["sitecustomize"] = following
    specification.loader.exec_module(following)


class _SeedOnImport(MetaPathFinder):
    """Seeds a package's global stream right after the package is imported."""

    def __init__(self, seeders):
        self._seeders = seeders

    def find_spec(self, name, path=None, target=None):
        if name not in self._seeders:
            return None
        seeder = self._seeders.pop(name)
        specification = importlib.util.find_spec(name)
        if specification is None or specification.loader is None:
            return specification
        execute = specification.loader.exec_module

        def exec_module(module):
            execute(module)
            seeder(module)

        specification.loader.exec_module = exec_module
        return specification


def _seed(value):
    import random

    random.seed(value)
    sys.meta_path.insert(
        0,
        _SeedOnImport(
            {
                "numpy": lambda numpy: numpy.random.seed(value & 0xFFFFFFFF),
                "torch": lambda torch: torch.manual_seed(value),
            }
        ),
    )


_step_aside()
if os.environ.get("MEMAUDIT_SEED"):
    _seed(int(os.environ["MEMAUDIT_SEED"]))
