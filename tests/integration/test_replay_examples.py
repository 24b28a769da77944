"""Every training under examples/ is replayed by the real command: one fitting arm, two units, gate and nulls passed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.estimates import arms_of, gate_of, replayed
from tests.support.programs import ROOT, memaudit


@dataclass(frozen=True)
class Example:
    words: tuple[str, ...]
    """Arguments that make it short."""
    at: int
    """Inside a pass, or a loop of steps."""
    arm: str
    outcome: str
    """One that is estimated."""


EXAMPLES = {
    "averages": Example(("--quick", "--amp"), 24, "scaler=hold+ema=reset", "nll"),
    "digits": Example(("--epochs", "2"), 24, "teacher=resync", "nll"),
    "distillation": Example(("--quick",), 7, "queue=flush", "nll"),
    "gan": Example(("--quick",), 22, "optimizer[discriminator_adam]=reset", "energy_distance"),
    "language_model": Example(("--quick",), 30, "optimizer.exp_avg=reset", "bits_per_character"),
    "lbfgs": Example(("--quick",), 5, "optimizer=reset", "nll"),
    "momentum_contrast": Example(("--quick",), 22, "queue[model]=flush", "linear_probe_accuracy"),
}
HORIZON = 3


def test_no_example_is_left_out() -> None:
    assert sorted(EXAMPLES) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def study(folder: Path, name: str) -> dict[str, Any]:
    """Record an example and replay it; return what the study estimates."""
    example = EXAMPLES[name]
    program = ROOT / "examples" / f"{name}.py"
    answer = memaudit("record", "--out", "run", "--", sys.executable, program, *example.words, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    words = ("--at", example.at, "--do", example.arm, "--horizon", HORIZON, "--jobs", 1)
    return replayed(folder / "run", *words)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Two at a time: each is mostly imports, one after the other."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(study, tmp_path_factory.mktemp(name), name) for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_replayed(studies: dict[str, Future[dict[str, Any]]], name: str) -> None:
    estimate, example = studies[name].result(), EXAMPLES[name]
    assert estimate["verdict"] == "complete"
    assert gate_of(estimate)["steps"] >= HORIZON
    assert arms_of(estimate)[example.arm]["receipts"]["applied"] == 2
    assert any(row["outcome"] == example.outcome for row in estimate["estimates"])
