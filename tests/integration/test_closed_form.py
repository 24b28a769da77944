"""Effects that are known in closed form, through the real command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("anchor_every", [None, 10])
def test_resetting_heavy_ball_on_a_quadratic_does_what_linear_algebra_says(
    tmp_path: Path, anchor_every: int | None
) -> None:
    (tmp_path / "quadratic.py").write_text(QUADRATIC)
    every = [] if anchor_every is None else ["--anchor-every", anchor_every]
    answer = memaudit("record", "--out", "run", *every, "--", sys.executable, "quadratic.py", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert memaudit("verify", "run", cwd=tmp_path).returncode == 0
    fork, horizon = 25, 12
    answer = memaudit(
        *("replay", "run", "--at", fork, "--do", "optimizer.momentum_buffer=reset", "--horizon", horizon),
        *("--seeds", 3, "--trust-code", "--json"),
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    estimate = json.loads(answer.stdout)
    assert estimate["gate"]["verdict"] == "passed"
    assert estimate["gate"]["steps"] == horizon + (fork - 20 if anchor_every else fork)
    rows = {row["outcome"]: row for row in estimate["estimates"] if row["horizon"] == horizon and row["probe"] == ""}
    for axis, (curvature, theta) in enumerate(zip([1.0, 0.3, 0.05], [1.0, -2.0, 0.5], strict=True)):
        # z = (θ, m) moves by A; the reset subtracts (0, m_k), so θ at T differs by the θ-row of A^(T-k) (0, -m_k).
        matrix = np.array([[1 - 0.1 * curvature, -0.1 * 0.9], [curvature, 0.9]])
        momentum = (np.linalg.matrix_power(matrix, fork) @ [theta, 0.0])[1]
        expected = (np.linalg.matrix_power(matrix, horizon) @ [0.0, -momentum])[0]
        assert rows[f"theta_{axis}"]["estimate"] == pytest.approx(expected, rel=1e-9)


def test_resetting_adam_as_a_whole_differs_from_zeroing_its_moments(tmp_path: Path) -> None:
    (tmp_path / "adam.py").write_text(
        QUADRATIC.replace(
            "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)", "torch.optim.Adam(model.parameters(), lr=0.01)"
        )
    )
    assert memaudit("record", "--out", "run", "--", sys.executable, "adam.py", cwd=tmp_path).returncode == 0
    answer = memaudit(
        *("replay", "run", "--at", 25, "--do", "optimizer=reset", "--do", "optimizer=reset,how=zero", "--horizon", 1),
        *("--seeds", 2, "--trust-code", "--json"),
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    moved = {}
    for row in json.loads(answer.stdout)["estimates"]:
        if row["outcome"] == "theta_0":
            moved[row["arm"]] = row["treated"][0], row["control"][0]
    cleared, zeroed = moved["optimizer=reset"], moved["optimizer=reset,how=zero"]
    assert cleared[1] == zeroed[1]
    # A new Adam's first step is lr long (bias correction starts anew); with zeroed moments and the count kept, step 26
    # is lr * (1-b1)/(1-b1^26) / sqrt((1-b2)/(1-b2^26)) long.
    ratio = ((1 - 0.9) / (1 - 0.9**26)) / np.sqrt((1 - 0.999) / (1 - 0.999**26))
    difference = cleared[0] - zeroed[0]
    assert difference == pytest.approx(0.01 * (ratio - 1.0), rel=1e-4)
