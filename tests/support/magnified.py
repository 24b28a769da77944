"""Cells that magnify, run in this process: recordings of tests/support/parting.py gone on with from an anchor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from auditor.artifact.canonical import write_canonical
from auditor.evidence.run_view import RunView
from auditor.recorder.cell import CellFinished
from auditor.recorder.recording import Recording
from auditor.state.streams import Preserved, global_streams
from tests.support import parting

Line = dict[str, Any]


@contextmanager
def own_process(**environment: str) -> Iterator[None]:
    """Have what a program changes in its process put back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, Preserved(global_streams()):
        for name, value in environment.items():
            patch.setenv(name, value)
        Recording.blocks = 0
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def record(path: Path, *words: str) -> Path:
    with own_process():
        parting.main(["--out", str(path), *words])
    return path


def cell(run: Path, directory: Path, *words: str, begin: int = 6, steps: int = 4, magnify: bool = True) -> Path:
    """Run a cell from the anchor at step ``begin``, a pass's start, in ``directory``."""
    view = RunView.open(run)
    anchor = next(each.event for each in view.anchors if each.step == begin)
    directory.mkdir()
    description = {
        "anchor": {name: anchor[name] for name in ("path", "files", "step", "pass", "epoch", "position", "at")},
        "threads": view.environment["numerics"]["threads"],
        "interop_threads": torch.get_num_interop_threads(),
        "do": [],
        "key": None,
        "arm": "gate",
        "unit": None,
        "fork": {"at": begin, "where": "pass"},
        "horizons": [steps],
    } | ({"magnify": True} if magnify else {})
    write_canonical(directory / "cell.json", description)
    with own_process(MEMAUDIT_CELL=str(directory), MEMAUDIT_CELL_RUN=str(run)), pytest.raises(CellFinished):
        parting.main(list(words))
    assert json.loads((directory / "result.json").read_text())["status"] == "finished"
    return directory


def lines_of(directory: Path) -> list[Line]:
    return [json.loads(line) for line in (directory / "magnified.jsonl").read_text().splitlines()]
