"""What a worker does: run the recorded program for one cell, in a process of the cell's own."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """How the recorded program is started."""

    script: str
    """Its path."""
    argv: list[str]
    """Its arguments."""
    cwd: str
    """The directory it is started in."""
    environment: dict[str, str]
    """Variables to be set beside the present ones."""


def run_cell(directory: str, launch: Launch) -> int:
    """Run the program with ``directory`` (which holds cell.json) as its cell; return its exit status.

    Output goes to ``log.txt`` in the directory; what the cell measured is in ``result.json`` if it came that far.
    The process is spent afterwards: the program may have left anything behind in it.
    """
    with (Path(directory) / "log.txt").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name in [name for name in os.environ if name.startswith("MEMAUDIT")]:
        del os.environ[name]  # settings of whoever asked for the replay are not the recording's
    os.environ.update(launch.environment)
    os.environ["MEMAUDIT_CELL"] = directory
    os.chdir(launch.cwd)
    # A process of the fork server starts its own children that way too; the program's loader workers must not know.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = ["memaudit", launch.script, *launch.argv]
    try:
        runpy.run_module("auditor.adapters.program", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        raise  # somebody's who sits before this very process
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
