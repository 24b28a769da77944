"""Changes that cannot have an effect, through the real command, have none in any bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.evidence.run_view import Step
from tests.integration.test_replay import cells, steps_of
from tests.support.estimates import receipt_of, recorded_text, replayed, row_of

PROGRAM = """
import torch
from torch.utils.data import DataLoader, TensorDataset

import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    inputs = torch.sin(torch.arange(48, dtype=torch.float64)).reshape(24, 2)
    inputs[8:12] = inputs[4:8]  # the second batch of a pass and the third hold the same, under other ids
    loader = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=4, shuffle=SHUFFLE)
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(2, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    run.watch(model=model, optimizer=optimizer)
    run.outcome("first", lambda: model[1].weight[0, 0])
    run.outcome("second", lambda: model[1].weight[0, 1])
    for epoch in run.epochs(4):
        for batch, targets in run.batches(loader):
            optimizer.zero_grad()
            loss = (model(batch) - targets).square().mean()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
"""
RESET = "optimizer.momentum_buffer=reset"
HORIZON = 8


def program(*, momentum: float = 0.9, lr: float = 0.1, shuffle: bool = False) -> str:
    return PROGRAM.replace("MOMENTUM", str(momentum)).replace("LR", str(lr)).replace("SHUFFLE", str(shuffle))


def studied(run: Path, *arms: str, at: int = 6, out: str = "study") -> dict[str, Any]:
    do = [word for arm in arms for word in ("--do", arm)]
    return replayed(run, "--at", at, *do, *("--horizon", 1, "--horizon", HORIZON), out=out)


def steps_after(run: Path, arm: str, *, at: int = 6, unit: int = 0, out: str = "study") -> list[Step]:
    """Return a cell's steps after the fork, without their places in the trace."""
    return [replace(step, seq=0) for step in steps_of(cells(run.parent / out)[arm, unit, 0]) if step.step > at]


def differences(estimate: dict[str, Any], arm: str) -> set[float]:
    rows = [row_of(estimate, arm, name, horizon) for name in ("first", "second") for horizon in (1, HORIZON)]
    return {each for row in rows for each in row["differences"]}


def test_without_momentum_a_reset_is_not_applied_and_changes_no_bit(tmp_path: Path) -> None:
    run = recorded_text(tmp_path, program(momentum=0.0))
    estimate = studied(run, RESET)
    row = row_of(estimate, RESET, "first", HORIZON)
    assert (row["verdict"], row["p_value"]) == ("not applied", None)
    assert "keeps no momentum_buffer" in receipt_of(estimate, RESET)["reason"]
    assert steps_after(run, RESET) == steps_after(run, "carry")


def test_at_a_rate_of_zero_a_reset_is_applied_and_the_weights_stay_bit_for_bit(tmp_path: Path) -> None:
    run = recorded_text(tmp_path, program(lr=0.0))
    estimate = studied(run, RESET)
    assert receipt_of(estimate, RESET)["applied"] is True
    assert differences(estimate, RESET) == {0.0}
    treated, control = (steps_after(run, arm) for arm in (RESET, "carry"))
    for one, two in zip(treated, control, strict=True):
        assert {name for name in one.sources if one.sources[name] != two.sources[name]} == {"optimizer.momentum_buffer"}


def test_swapping_two_batches_that_hold_the_same_changes_ids_and_no_other_bit(tmp_path: Path) -> None:
    run = recorded_text(tmp_path, program())
    arm = "order=swap,first=8-8,second=9-9"
    estimate = studied(run, arm)
    assert receipt_of(estimate, arm)["applied"] is True
    assert differences(estimate, arm) == {0.0}
    treated, control = (steps_after(run, name) for name in (arm, "carry"))
    for one, two in zip(treated, control, strict=True):
        assert (one.sources, one.streams, one.batch) == (two.sources, two.streams, two.batch)
        assert (one.ids != two.ids) == (one.step in (8, 9))
    other = "order=swap,first=7-7,second=8-8"  # batches that differ: the same test would see it
    assert 0.0 not in differences(studied(run, other, out="other"), other)


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_the_control_again_and_from_another_anchor_is_the_control_byte_for_byte(tmp_path: Path, shuffle: bool) -> None:
    at, came = 9, []
    for name, words in (("sparse", []), ("dense", ["--anchor-every", 3])):
        (tmp_path / name).mkdir()
        run = recorded_text(tmp_path / name, program(shuffle=shuffle), *words)
        estimate = studied(run, RESET, at=at)
        assert 0.0 not in differences(estimate, RESET)
        found = cells(run.parent / "study")
        first, again = (found["carry", 0, repeat] for repeat in (0, 1))
        for file in ("result.json", "trace.jsonl"):
            assert (first / file).read_bytes() == (again / file).read_bytes()
        both = [(arm, unit) for arm in ("carry", RESET) for unit in (0, 1)]
        results = [(found[arm, unit, 0] / "result.json").read_bytes() for arm, unit in both]
        came.append((results, [steps_after(run, arm, at=at, unit=unit) for arm, unit in both]))
    # One came back to the start of its pass, the other to the fork itself.
    assert came[0] == came[1]
