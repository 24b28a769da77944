"""The small training as a program that misbehaves in cells: what it does there stands in a file beside it.

``Program.tell`` writes that file. Every cell notes its process in ``begun``, one line an attempt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.evidence.run_view import RunView
from auditor.replay.cells import Cell
from auditor.replay.executors.worker import Launch
from auditor.replay.program import launch_of
from tests.support.programs import TRAIN, memaudit

_MISBEHAVE = """
import json as _json, os as _os, subprocess as _subprocess, sys as _sys, time as _time
from pathlib import Path as _Path

def _misbehave():
    if "MEMAUDIT_CELL" not in _os.environ:
        return
    here = _Path(__file__).parent
    cell = _json.loads((_Path(_os.environ["MEMAUDIT_CELL"]) / "cell.json").read_text())
    with (here / "begun").open("a") as begun:
        begun.write(f"{cell['arm']}/{cell['unit']} {_os.getpid()}\\n")
    told = _json.loads((here / "told.json").read_text()) if (here / "told.json").exists() else {}
    if told.get("cell") not in ([cell["arm"], cell["unit"]], [cell["arm"], "every"]) or cell["repeat"]:
        return
    sleep = [_sys.executable, "-c", "import time; time.sleep(600)"]
    what = told["what"]
    if what == "hang":
        child = _subprocess.Popen(sleep)
        (here / "child").write_text(str(child.pid))
        _time.sleep(600)
    elif what == "eat":
        kept = []
        for _ in range(150):
            kept.append(bytearray(b"x") * (20 * 2**20))
            _time.sleep(0.01)
        _time.sleep(600)
    elif what == "die":
        _os.kill(_os.getpid(), 9)
    elif what == "die once":
        told_file = here / "told.json"
        told_file.unlink()
        _os.kill(_os.getpid(), 9)
    elif what == "raise":
        raise ValueError("planted")
    elif what == "leave":
        _sys.exit(3)
    elif what == "debug":
        breakpoint()
    else:
        raise AssertionError(what)

_misbehave()
"""


ARM = "optimizer.momentum_buffer=reset"


class Program:
    """A recorded training that can be told to misbehave, and cells of it that were run once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "program.py"
        self.script.write_text(_MISBEHAVE + TRAIN.read_text())
        answer = memaudit("record", "--out", "run", "--", "python", self.script, cwd=folder)
        assert answer.returncode == 0, answer.stderr
        self.run = folder / "run"

    def replay(self, *words: object, seeds: int = 3, out: str = "study", **environment: str) -> Any:
        return memaudit(*self.words(*words, seeds=seeds, out=out), cwd=self.folder, **environment)

    @staticmethod
    def words(*words: object, seeds: int = 3, out: str = "study") -> list[object]:
        fixed = f"replay run --at 8 --do {ARM} --horizon 3 --jobs 2 --reach restore --trust-code".split()
        return [*fixed, "--seeds", seeds, "--out", out, *words]

    def launch(self) -> Launch:
        return launch_of(RunView.open(self.run))

    def tell(self, arm: str, unit: int | str, what: str) -> None:
        (self.folder / "begun").unlink(missing_ok=True)
        (self.folder / "told.json").write_text(json.dumps({"cell": [arm, unit], "what": what}))

    def forget(self) -> None:
        (self.folder / "begun").unlink(missing_ok=True)
        (self.folder / "told.json").unlink(missing_ok=True)

    def begun(self) -> list[str]:
        path = self.folder / "begun"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def cells_of(study: Path) -> list[Cell]:
    """The cells of a study that has run, in the order of their hashes."""
    found = []
    for path in sorted((study / "cells").glob("*/cell.json")):
        description = json.loads(path.read_text())
        found.append(Cell(description["arm"], description["unit"], description["repeat"], description))
    return found
