"""Averages, teachers and BatchNorm through the real command: effects that a formula gives, computed here with NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.integration.test_replay import cells, steps_of
from tests.support.estimates import receipt_of, recorded_text, replayed, row_of

Array = npt.NDArray[np.float64]

# Weights that move by a rule of their own, and four followers that no gradient reaches.
FOLLOWED = """
import copy

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    curvature = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    swa = AveragedModel(model)
    teacher = copy.deepcopy(model).requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model=model, ema=ema, swa=swa, teacher=teacher, optimizer=optimizer)
    followers = {"theta": model, "ema": ema.module, "swa": swa.module, "teacher": teacher}
    for name, follower in followers.items():
        for axis in range(3):
            run.outcome(f"{name}_{axis}", lambda follower=follower, axis=axis: follower.theta[axis])
    for step in run.steps(40):
        optimizer.zero_grad()
        loss = 0.5 * (curvature * model.theta.square()).sum()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        swa.update_parameters(model)
        with torch.no_grad():
            teacher.theta.lerp_(model.theta, 0.2)
        run.step(loss=loss)
"""
FORK, HORIZONS = 15, (1, 3, 10)
START = np.array([1.0, -2.0, 0.5])
SHRINK = 1 - 0.1 * np.array([1.0, 0.3, 0.05])


def theta(step: int) -> Array:
    """Gradient descent on a quadratic: each axis shrinks by its own factor."""
    values: Array = START * SHRINK**step
    return values


def swa(first: int, last: int) -> Array:
    values: Array = np.mean([theta(step) for step in range(first, last + 1)], axis=0)
    return values


def faded(value: Array, keep: float, first: int, last: int) -> Array:
    """An average that held ``value`` before step ``first`` and keeps ``keep`` of itself at each step up to ``last``."""
    new = sum((keep ** (last - step) * theta(step) for step in range(first, last + 1)), np.zeros(3))
    values: Array = keep ** (last - first + 1) * value + (1 - keep) * new
    return values


EMA = faded(theta(1), 0.9, 2, FORK)  # torch's copies the weights at its first update
TEACHER = faded(START, 0.8, 1, FORK)


def lagging(last: int) -> Array:
    return faded(START, 0.8, 1, max(FORK, last - 3))


# Each arm: the follower and where it stands at step T. What a reset does to it is in closed form too, below.
FOLLOWERS: dict[str, tuple[str, Any]] = {
    "ema=reset": ("ema", lambda last: faded(theta(FORK), 0.9, FORK + 1, last)),
    "ema=freeze": ("ema", lambda last: EMA),
    "ema=decay,value=0.5": ("ema", lambda last: faded(EMA, 0.5, FORK + 1, last)),
    "ema=decay,half_life=4": ("ema", lambda last: faded(EMA, 2**-0.25, FORK + 1, last)),
    "swa=reset": ("swa", lambda last: swa(FORK, last)),
    "swa=freeze": ("swa", lambda last: swa(1, FORK)),
    "teacher=resync": ("teacher", lambda last: faded(theta(FORK), 0.8, FORK + 1, last)),
    "teacher=freeze": ("teacher", lambda last: TEACHER),
    "teacher=decay,value=0.5": ("teacher", lambda last: faded(TEACHER, 0.5, FORK + 1, last)),
    "teacher=lag,steps=3": ("teacher", lagging),
}
CARRIED = {
    "ema": lambda last: faded(EMA, 0.9, FORK + 1, last),
    "swa": lambda last: swa(1, last),
    "teacher": lambda last: faded(TEACHER, 0.8, FORK + 1, last),
}


def arms(names: Any) -> list[object]:
    return [word for name in names for word in ("--do", name)]


def horizons(numbers: tuple[int, ...]) -> list[object]:
    return [word for number in numbers for word in ("--horizon", number)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = recorded_text(tmp_path_factory.mktemp("followed"), FOLLOWED)
    return run, replayed(run, "--at", FORK, *arms(FOLLOWERS), *horizons(HORIZONS))


@pytest.mark.parametrize("arm", FOLLOWERS)
def test_a_follower_stands_where_the_formula_says_at_each_horizon_of_one_rollout(
    followed: tuple[Path, dict[str, Any]], arm: str
) -> None:
    _, estimate = followed
    name, formula = FOLLOWERS[arm]
    for horizon in HORIZONS:
        for axis in range(3):
            row = row_of(estimate, arm, f"{name}_{axis}", horizon)
            assert row["treated"] == pytest.approx([formula(FORK + horizon)[axis]] * 2, rel=1e-9)
            assert row["control"] == pytest.approx([CARRIED[name](FORK + horizon)[axis]] * 2, rel=1e-9)
    assert receipt_of(estimate, arm)["applied"] is True


@pytest.mark.parametrize(
    ("arm", "keep", "gap"),
    [("ema=reset", 0.9, theta(FORK) - EMA), ("teacher=resync", 0.8, theta(FORK) - TEACHER)],
    ids=["ema", "teacher"],
)
def test_the_effect_of_a_reset_fades_as_the_decay_to_the_power_of_the_steps(
    followed: tuple[Path, dict[str, Any]], arm: str, keep: float, gap: Array
) -> None:
    _, estimate = followed
    for horizon in HORIZONS:
        found = [row_of(estimate, arm, f"{arm.partition('=')[0]}_{axis}", horizon)["estimate"] for axis in range(3)]
        assert found == pytest.approx(list(keep**horizon * gap), rel=1e-9)


def test_what_nothing_learns_from_leaves_the_weights_bit_for_bit(followed: tuple[Path, dict[str, Any]]) -> None:
    run, estimate = followed
    found = cells(run.parent / "study")
    for arm in FOLLOWERS:
        for unit in (0, 1):
            treated, control = (steps_of(found[name, unit, 0]) for name in (arm, "carry"))
            assert [step.sources["params"] for step in treated] == [step.sources["params"] for step in control]
        for horizon in HORIZONS:
            for axis in range(3):
                assert row_of(estimate, arm, f"theta_{axis}", horizon)["differences"] == [0.0, 0.0]


# BatchNorm on batches that a formula gives: in training it normalises by the batch's own statistics.
NORMED = """
import torch

import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2, momentum=0.2), torch.nn.Linear(2, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run.watch(model=model, optimizer=optimizer)
    places = torch.arange(16, dtype=torch.float64).reshape(8, 2)
    run.probe(model, torch.cos(torch.arange(24, dtype=torch.float64)).reshape(12, 2), name="calibration")
    for axis in range(2):
        run.outcome(f"mean_{axis}", lambda axis=axis: model[0].running_mean[axis])
        run.outcome(f"var_{axis}", lambda axis=axis: model[0].running_var[axis])
    run.outcome("weight", lambda: model[1].weight.sum())
    for step in run.steps(30):
        inputs = torch.sin(places + 3.0 * step)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
"""
NORM_FORK, NORM_HORIZONS = 12, (1, 4, 9)
PLACES = np.arange(16.0).reshape(8, 2)
PROBE = np.cos(np.arange(24.0)).reshape(12, 2)


def statistics(inputs: Array) -> Array:
    """The mean and the unbiased variance of a batch, ``[2, features]``."""
    return np.stack([inputs.mean(axis=0), inputs.var(axis=0, ddof=1)])


def running(value: Array, share: float, first: int, last: int) -> Array:
    """Running statistics that stood at ``value`` before step ``first``, and take over ``share`` of each batch's."""
    for step in range(first, last + 1):
        value = (1 - share) * value + share * statistics(np.sin(PLACES + 3.0 * (step - 1)))
    return value


NEW = np.stack([np.zeros(2), np.ones(2)])
AT_FORK = running(NEW, 0.2, 1, NORM_FORK)
RECALIBRATED = np.mean([statistics(part) for part in np.array_split(PROBE, 3)], axis=0)
ONCE = "bn=recalibrate,batches=3"
NORMS: dict[str, Any] = {
    "bn=reset": lambda last: running(NEW, 0.2, NORM_FORK + 1, last),
    "bn=freeze": lambda last: AT_FORK,
    ONCE: lambda last: running(RECALIBRATED, 0.2, NORM_FORK + 1, last),
    "hyper.bn_momentum=set,value=0.5": lambda last: running(AT_FORK, 0.5, NORM_FORK + 1, last),
    "hyper.bn_momentum=set,half_life=2": lambda last: running(AT_FORK, 1 - 2**-0.5, NORM_FORK + 1, last),
}
TWICE = f"{ONCE}+{ONCE}"


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = recorded_text(tmp_path_factory.mktemp("normed"), NORMED)
    return run, replayed(run, "--at", NORM_FORK, *arms([*NORMS, TWICE]), *horizons(NORM_HORIZONS))


@pytest.mark.parametrize("arm", NORMS)
def test_running_statistics_stand_where_the_formula_says_and_the_weights_bit_for_bit(
    normed: tuple[Path, dict[str, Any]], arm: str
) -> None:
    run, estimate = normed
    for horizon in NORM_HORIZONS:
        expected, carried = NORMS[arm](NORM_FORK + horizon), running(NEW, 0.2, 1, NORM_FORK + horizon)
        for place, name in enumerate(("mean", "var")):
            for axis in range(2):
                row = row_of(estimate, arm, f"{name}_{axis}", horizon)
                assert row["treated"] == pytest.approx([expected[place, axis]] * 2, rel=1e-9)
                assert row["control"] == pytest.approx([carried[place, axis]] * 2, rel=1e-9)
        assert row_of(estimate, arm, "weight", horizon)["differences"] == [0.0, 0.0]
    found = cells(run.parent / "study")
    treated, control = (steps_of(found[name, 0, 0]) for name in (arm, "carry"))
    assert [step.sources["params"] for step in treated] == [step.sources["params"] for step in control]


@pytest.mark.parametrize(("arm", "new"), [("bn=reset", NEW), (ONCE, RECALIBRATED)], ids=["reset", "recalibrated"])
def test_the_gap_in_the_running_statistics_fades_as_one_minus_the_momentum_to_the_power_of_the_steps(
    normed: tuple[Path, dict[str, Any]], arm: str, new: Array
) -> None:
    _, estimate = normed
    for horizon in NORM_HORIZONS:
        gap = 0.8**horizon * (new - AT_FORK)
        for place, name in enumerate(("mean", "var")):
            found = [row_of(estimate, arm, f"{name}_{axis}", horizon)["estimate"] for axis in range(2)]
            assert found == pytest.approx(list(gap[place]), rel=1e-9)


def test_recalibrating_twice_on_the_same_samples_is_recalibrating_once(normed: tuple[Path, dict[str, Any]]) -> None:
    run, _ = normed
    found = cells(run.parent / "study")
    once, twice = (steps_of(found[name, 0, 0]) for name in (ONCE, TWICE))
    assert [step.sources for step in once] == [step.sources for step in twice]
