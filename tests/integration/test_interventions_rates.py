"""Rates, clocks, buffers and weights changed in real cells, against the same training changed by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_replay import cells
from tests.support.programs import memaudit

# The schedule steps after the step is recorded, and the loop sets the decay at its top: what holds must hold there too.
PROGRAM = """
import torch
import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    curvature = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    run.watch(model=model, optimizer=optimizer, scheduler=schedule)
    for axis in range(3):
        run.outcome(f"theta_{axis}", lambda axis=axis: model.theta[axis])
    for step in run.steps(30):
        optimizer.param_groups[0]["weight_decay"] = 0.01 * (step % 3)
        optimizer.zero_grad()
        loss = 0.5 * (curvature * model.theta.square()).sum()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
        schedule.step()
"""
FORK, HORIZON = 12, 10


class ByHand:
    """The same heavy ball in plain tensor arithmetic, float64."""

    def __init__(self) -> None:
        self.curvature = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
        self.theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        self.buffer = torch.zeros(3, dtype=torch.float64)
        self.rate, self.momentum, self.factor = 0.1, 0.9, 0.9
        self.decay: float | None = None

    def run(self, first: int, last: int) -> ByHand:
        for step in range(first, last):
            decay = 0.01 * (step % 3) if self.decay is None else self.decay
            gradient = self.curvature * self.theta + decay * self.theta
            self.buffer = self.momentum * self.buffer + gradient
            self.theta = self.theta - self.rate * self.buffer
            self.rate *= self.factor
        return self


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rates")
    (path / "train.py").write_text(PROGRAM)
    assert memaudit("record", "--out", "run", "--", sys.executable, "train.py", cwd=path).returncode == 0
    do = [word for arm in [*ARMS, "params=jitter"] for word in ("--do", arm)]
    answer = memaudit(
        *("replay", "run", "--at", FORK, *do, "--horizon", HORIZON, "--seeds", 2, "--out", "study"),
        *("--trust-code", "--json"),
        cwd=path,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(answer.stdout)["forks"][0]["gate"]["verdict"] == "passed"
    return path / "study"


def result(study: Path, arm: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cells(study)[arm, 0, 0] / "result.json").read_text())
    return found


def scale(hand: ByHand) -> None:
    hand.buffer = 0.5 * hand.buffer


def half_life(hand: ByHand) -> None:
    hand.momentum = 2.0 ** (-1 / 3)


def held_decay(hand: ByHand) -> None:
    hand.decay = 0.25


def held_rate(hand: ByHand) -> None:
    hand.rate, hand.factor = hand.rate * 0.5, 1.0


def rate_once(hand: ByHand) -> None:
    hand.rate *= 0.5


def hold(hand: ByHand) -> None:
    hand.factor = 1.0


def reset(hand: ByHand) -> None:
    hand.rate = 0.1


# Each arm: the same by hand, and after how many later steps something was put back. The schedule moves on once before
# the first of them is recorded, and that was before the fork.
ARMS: dict[str, tuple[Callable[[ByHand], None], int | None]] = {
    "optimizer.momentum_buffer=scale,factor=0.5": (scale, None),
    "hyper.momentum=set,half_life=3": (half_life, 0),
    "hyper.weight_decay=set,value=0.25": (held_decay, HORIZON),
    "hyper.lr=set,factor=0.5": (held_rate, HORIZON - 1),
    "hyper.lr=set,factor=0.5,hold=no": (rate_once, 0),
    "scheduler=hold": (hold, HORIZON - 1),
    "scheduler=reset": (reset, None),
}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_ends_where_the_same_training_changed_by_hand_does(study: Path, arm: str) -> None:
    change, steps_changed = ARMS[arm]
    hand, control = (ByHand().run(0, FORK) for _ in range(2))
    change(hand)
    hand.run(FORK, FORK + HORIZON)
    control.run(FORK, FORK + HORIZON)
    found, carried = result(study, arm), result(study, "carry")
    for axis in range(3):
        values = [each["horizons"][str(HORIZON)][""][f"theta_{axis}"] for each in (found, carried)]
        assert values == pytest.approx([hand.theta[axis].item(), control.theta[axis].item()], rel=1e-12)
        assert values[0] != values[1]
    (receipt,) = found["receipts"]
    assert (receipt["applied"], receipt["steps_changed"], receipt["at"]) == (True, steps_changed, FORK)


def test_one_ulp_of_jitter_is_felt_and_small(study: Path) -> None:
    outcomes = [result(study, arm)["horizons"][str(HORIZON)][""] for arm in ("params=jitter", "carry")]
    differences = [abs(outcomes[0][name] - outcomes[1][name]) for name in outcomes[0]]
    assert any(differences)
    assert all(each < 1e-14 for each in differences)
