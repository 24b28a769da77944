"""Running the real ``memaudit record`` and ``memaudit replay``, and reading what a study of one fork says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.programs import memaudit


def recorded_text(folder: Path, text: str, *words: object) -> Path:
    """Record a program given by its text; ``words`` are options of the command."""
    (folder / "train.py").write_text(text)
    answer = memaudit("record", "--out", "run", *words, "--", sys.executable, "train.py", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert "recording stopped" not in answer.stderr, answer.stderr
    return folder / "run"


def replayed(run: Path, *words: object, out: str = "study", seeds: int = 2) -> dict[str, Any]:
    """Replay a run into a directory beside it; the gate and every null passed."""
    answer = memaudit(
        *("replay", run, *words, "--seeds", seeds, "--out", run.parent / out, "--trust-code", "--json"), cwd=run.parent
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    estimate: dict[str, Any] = json.loads(answer.stdout)
    assert gate_of(estimate)["verdict"] == "passed"
    assert estimate["verdict"] == "complete"
    return estimate


def gate_of(estimate: dict[str, Any]) -> dict[str, Any]:
    """Return the fidelity gate of a study's only fork."""
    gate: dict[str, Any] = _fork(estimate)["gate"]
    return gate


def nulls_of(estimate: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nulls of a study's only fork."""
    nulls: list[dict[str, Any]] = _fork(estimate)["nulls"]
    return nulls


def arms_of(estimate: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arms of a study's only fork, by name."""
    return {arm["name"]: arm for arm in _fork(estimate)["arms"]}


def receipt_of(estimate: dict[str, Any], arm: str) -> dict[str, Any]:
    """Return the receipt of an arm's only intervention in the first unit."""
    (receipt,) = arms_of(estimate)[arm]["receipts"]["examples"]
    return dict(receipt)


def row_of(estimate: dict[str, Any], arm: str, outcome: str, horizon: int) -> dict[str, Any]:
    """Return the row of a scalar that the program named itself."""
    (row,) = (
        row
        for row in estimate["estimates"]
        if (row["arm"], row["outcome"], row["horizon"], row["probe"]) == (arm, outcome, horizon, "")
    )
    return dict(row)


def _fork(estimate: dict[str, Any]) -> dict[str, Any]:
    """Return what is told fork by fork."""
    (fork,) = estimate["forks"]
    return dict(fork)
