"""Effects that are known in closed form, through the real command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.estimates import gate_of, recorded_text, replayed, row_of
from tests.support.programs import memaudit

QUADRATIC = """
import torch
import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    curvature = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.watch(model=model, optimizer=optimizer)
    for axis in range(3):
        run.outcome(f"theta_{axis}", lambda axis=axis: model.theta[axis])
    for step in run.steps(60):
        run.batch(ids=[step % 7], content=torch.tensor([step]))
        optimizer.zero_grad()
        loss = 0.5 * (curvature * model.theta.square()).sum()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
"""


FORK, HORIZONS = 25, (1, 4, 12, 30)
CURVATURE, START = np.array([1.0, 0.3, 0.05]), np.array([1.0, -2.0, 0.5])
AXES = range(3)


def power(axis: int, steps: int, momentum: float = 0.9) -> npt.NDArray[np.float64]:
    """Heavy ball on one axis of the quadratic: (θ, m) moves by this matrix in so many steps."""
    curvature = CURVATURE[axis]
    matrix = np.array([[1 - 0.1 * curvature, -0.1 * momentum], [curvature, momentum]])
    return np.linalg.matrix_power(matrix, steps)


@pytest.mark.parametrize("anchor_every", [None, 10])
def test_resetting_heavy_ball_on_a_quadratic_does_what_linear_algebra_says_at_each_horizon_of_one_rollout(
    tmp_path: Path, anchor_every: int | None
) -> None:
    every = [] if anchor_every is None else ["--anchor-every", anchor_every]
    run = recorded_text(tmp_path, QUADRATIC, *every)
    assert memaudit("verify", "run", cwd=tmp_path).returncode == 0
    reset, halved = "optimizer.momentum_buffer=reset", "optimizer.momentum_buffer=scale,factor=0.5"
    held = "hyper.momentum=set,value=0.5"
    arms = [word for arm in (reset, halved, held) for word in ("--do", arm)]
    horizons = [word for horizon in HORIZONS for word in ("--horizon", horizon)]
    estimate = replayed(run, "--at", FORK, *arms, *horizons, seeds=3)
    assert gate_of(estimate)["steps"] == max(HORIZONS) + (FORK - 20 if anchor_every else FORK)
    for horizon in HORIZONS:
        for axis in AXES:
            at_fork = power(axis, FORK) @ [START[axis], 0.0]
            # z = (θ, m) moves by A; the reset subtracts (0, m_k), so θ at T differs by the θ-row of A^(T-k) (0, -m_k).
            effect = (power(axis, horizon) @ [0.0, -at_fork[1]])[0]
            other = (power(axis, horizon, momentum=0.5) @ at_fork)[0] - (power(axis, horizon) @ at_fork)[0]
            for arm, expected in ((reset, effect), (halved, 0.5 * effect), (held, other)):
                row = row_of(estimate, arm, f"theta_{axis}", horizon)
                assert row["differences"] == pytest.approx([expected] * 3, rel=1e-9, abs=1e-15)
                assert row["estimate"] == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_resetting_adam_as_a_whole_differs_from_zeroing_its_moments(tmp_path: Path) -> None:
    adam = QUADRATIC.replace(
        "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)", "torch.optim.Adam(model.parameters(), lr=0.01)"
    )
    run = recorded_text(tmp_path, adam)
    arms = "optimizer=reset", "optimizer=reset,how=zero"
    estimate = replayed(run, "--at", FORK, "--do", arms[0], "--do", arms[1], "--horizon", 1)
    rows = [row_of(estimate, arm, "theta_0", 1) for arm in arms]
    cleared, zeroed = ((row["treated"][0], row["control"][0]) for row in rows)
    assert cleared[1] == zeroed[1]
    # A new Adam's first step is lr long (bias correction starts anew); with zeroed moments and the count kept, step 26
    # is lr * (1-b1)/(1-b1^26) / sqrt((1-b2)/(1-b2^26)) long.
    ratio = ((1 - 0.9) / (1 - 0.9**26)) / np.sqrt((1 - 0.999) / (1 - 0.999**26))
    difference = cleared[0] - zeroed[0]
    assert difference == pytest.approx(0.01 * (ratio - 1.0), rel=1e-4)


# Least squares on four batches that come in a fixed order: swapping two of them is felt by what does not commute.
LEAST_SQUARES = """
import torch
from torch.utils.data import DataLoader, TensorDataset

import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    inputs = torch.sin(torch.arange(24, dtype=torch.float64)).reshape(12, 2)
    targets = torch.cos(torch.arange(12, dtype=torch.float64))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=3)
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    run.watch(model=model, optimizer=optimizer)
    for axis in range(2):
        run.outcome(f"theta_{axis}", lambda axis=axis: model.theta[axis])
    for epoch in run.epochs(4):
        for batch, answers in run.batches(loader):
            optimizer.zero_grad()
            loss = 0.5 * (batch @ model.theta - answers).square().mean()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
"""


def test_a_swap_of_two_batches_is_felt_by_their_commutator_and_fades_with_the_later_steps(tmp_path: Path) -> None:
    inputs, targets = np.sin(np.arange(24.0)).reshape(4, 3, 2), np.cos(np.arange(12.0)).reshape(4, 3)
    hessians = [batch.T @ batch / 3 for batch in inputs]
    slopes = [batch.T @ answers / 3 for batch, answers in zip(inputs, targets, strict=True)]
    at = 4  # the first pass is over; steps 5 and 6 take the first two batches
    theta = np.array([1.0, -2.0])
    for step in range(at):
        theta = theta - 0.2 * (hessians[step] @ theta - slopes[step])
    arm = "order=swap,first=5-5,second=6-6"
    estimate = replayed(
        recorded_text(tmp_path, LEAST_SQUARES), "--at", at, "--do", arm, *("--horizon", 2, "--horizon", 4)
    )
    a, b = (hessians[place] @ theta - slopes[place] for place in (0, 1))
    # First A, then B: θ - η a - η b + η² B a; the other way round η² A b.
    effect = 0.2**2 * (hessians[0] @ b - hessians[1] @ a)
    later = (np.eye(2) - 0.2 * hessians[3]) @ (np.eye(2) - 0.2 * hessians[2]) @ effect
    for horizon, expected in ((2, effect), (4, later)):
        found = [row_of(estimate, arm, f"theta_{axis}", horizon)["estimate"] for axis in range(2)]
        assert found == pytest.approx(list(expected), rel=1e-9)
