"""Run a recorded program as ``__main__`` inside this process: ``python -m auditor.adapters.program SCRIPT [ARG …]``.

Replay starts programs this way in processes that have torch loaded already. The recorder inside the program finds its
cell in the environment (``MEMAUDIT_CELL``).
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from auditor.recorder.cell import CellFinished
from auditor.recorder.settings import SEED
from auditor.state.streams import seed_everything


def run(arguments: list[str]) -> int:
    """Run ``arguments[0]`` with the rest as its arguments; return its exit status."""
    script = arguments[0]
    # As the interpreter does for `python SCRIPT ARG …`.
    sys.argv = list(arguments)
    sys.path[0] = str(Path(script).resolve().parent)
    seed = os.environ.get(SEED)
    if seed is not None:
        seed_everything(int(seed))
    try:
        runpy.run_path(script, run_name="__main__")
    except CellFinished:
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    # run_path restores sys.argv's module, so everything it needs is read before.
    sys.exit(run(sys.argv[1:]))
