"""Going on from an anchor in a new process, and comparing every step with the training that was not interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from auditor.artifact.canonical import write_canonical
from auditor.compare.divergence import Divergence, first_divergence
from auditor.evidence.run_view import RunView, resolve_steps
from auditor.evidence.trace_reader import read_trace

ZOO = str(Path(__file__).parent / "zoo.py")


def record(cwd: Path, case: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one training of the zoo in a process of its own."""
    return start(cwd, [ZOO, "--case", case, *words], **environment)


def start(cwd: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with Python, in a process of its own."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def enterable(run: Path) -> list[dict[str, Any]]:
    """Return the anchors that a fresh process can come back to."""
    return [anchor.event for anchor in RunView.open(run).anchors if anchor.event["enter"] is not None]


def go_on(cwd: Path, command: list[str], anchor: dict[str, Any]) -> Divergence | None:
    """Continue from an anchor to the run's end with the recorded streams; return where the two part, if they do.

    Raises
    ------
    AssertionError
        If the continued training did not come to the end.
    """
    run = RunView.open(cwd / "run")
    last = max(event["step"] for event in run.trace.of("step"))
    in_a_loop = anchor["at"] == "step" or anchor["enter"] == "steps"
    cell = cwd / f"cell-{anchor['path'].replace('/', '-')}"
    cell.mkdir()
    description = {
        "anchor": {name: anchor[name] for name in ("path", "files", "step", "pass", "epoch", "position", "at")},
        "threads": run.environment["numerics"]["threads"],
        "interop_threads": run.environment["numerics"]["interop_threads"],
        "do": [],
        "key": None,
        "arm": "gate",
        "unit": None,
        "fork": {"at": anchor["step"], "where": "step" if in_a_loop else "pass"},
        "horizons": [last - anchor["step"]],
    }
    write_canonical(cell / "cell.json", description)
    process = start(cwd, command, MEMAUDIT_CELL=str(cell), MEMAUDIT_CELL_RUN=str(cwd / "run"))
    result = json.loads((cell / "result.json").read_text()) if (cell / "result.json").exists() else {}
    assert result.get("status") == "finished", process.stderr[-3000:] + json.dumps(result)[:3000]
    continued = list(resolve_steps(read_trace(memoryview((cell / "trace.jsonl").read_bytes())).events))
    recorded = [step for step in run.steps() if step.step > anchor["step"]]
    parted, equal = first_divergence(recorded, continued)
    assert parted is not None or equal == last - anchor["step"]
    return parted
