"""Interventions on averages, teachers, BatchNorm, queues and policies in real cells: bit for bit as done by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from auditor.evidence.run_view import Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from tests.support.programs import ROOT, memaudit, run

PROGRAM = ROOT / "tests" / "support" / "followed.py"
AT, HORIZON, EPOCHS = 8, 10, 3  # six steps a pass: the fork lies inside the second, the horizon at the end
CHANGES = (
    *("ema=reset", "ema=freeze", "ema=decay,value=0.5", "swa=reset"),
    *("teacher=resync", "teacher=freeze", "teacher=decay,value=0.5", "teacher=lag,steps=2"),
    *("bn=reset", "bn=freeze", "bn=recalibrate,batches=3"),
    *("queue=flush", "queue=truncate,length=5", "queue=age,entries=3"),
    *("augment=off", "augment=stage,value=3"),
)
ROUNDED = {"teacher=lag,steps=2"}
"""Computed another way than by hand, and equal but for rounding."""


def steps_of(trace: Path) -> dict[int, Step]:
    return {step.step: step for step in resolve_steps(read_trace(trace.read_bytes()).events)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record the training, the same changed by hand, and a study with an arm for each change."""
    path = tmp_path_factory.mktemp("followed")
    for words in (["--out", "run"], ["--out", "hand", "--at", AT, "--by-hand", *CHANGES]):
        answer = run(sys.executable, PROGRAM, "--epochs", EPOCHS, *words, cwd=path)
        assert answer.returncode == 0, answer.stderr
    arms = [word for change in (*CHANGES, "queue=shuffle", "augment=rekey") for word in ("--do", change)]
    answer = memaudit(
        *("replay", "run", "--at", AT, *arms, "--horizon", HORIZON, "--seeds", 1, "--out", "study"),
        *("--trust-code", "--json"),
        cwd=path,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return path


@pytest.fixture(scope="module")
def cells(here: Path) -> dict[str, Path]:
    found = {}
    for path in (here / "study" / "cells").iterdir():
        cell = json.loads((path / "cell.json").read_text())
        if cell["unit"] == 0 and not cell["repeat"]:
            found[cell["arm"]] = path
    return found


def receipt_of(cell: Path) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads((cell / "result.json").read_text())["receipts"][0]
    return receipt


@pytest.mark.parametrize("change", [change for change in CHANGES if change not in ROUNDED])
def test_an_arm_is_bit_for_bit_the_training_that_was_changed_by_hand(
    here: Path, cells: dict[str, Path], change: str
) -> None:
    arm, hand = steps_of(cells[change] / "trace.jsonl"), steps_of(here / "hand" / change / "trace.jsonl")
    carry = steps_of(cells["carry"] / "trace.jsonl")
    parted = False
    for step in range(AT + 1, AT + HORIZON + 1):
        assert arm[step].sources == hand[step].sources, f"step {step}"
        assert arm[step].batch == hand[step].batch
        assert arm[step].ids == hand[step].ids
        parted |= arm[step].sources != carry[step].sources
    assert parted
    receipt = receipt_of(cells[change])
    assert receipt["applied"], receipt["reason"]
    lasting = any(word in change for word in ("freeze", "decay", "lag", "augment"))
    assert (receipt["steps_changed"] is not None) == lasting


def test_a_lagging_teacher_is_the_one_that_lags_by_hand(here: Path, cells: dict[str, Path]) -> None:
    outcomes = json.loads((cells["teacher=lag,steps=2"] / "result.json").read_text())["horizons"][str(HORIZON)]
    carry = json.loads((cells["carry"] / "result.json").read_text())["horizons"][str(HORIZON)]
    hand = json.loads((here / "hand" / "teachers.json").read_text())["teacher=lag,steps=2"]
    assert outcomes[""]["teacher"] == pytest.approx(hand, rel=1e-6)
    assert abs(outcomes[""]["teacher"] - carry[""]["teacher"]) > 1e-4
    assert receipt_of(cells["teacher=lag,steps=2"])["steps_changed"] == HORIZON


def test_lasting_interventions_say_after_how_many_steps_they_changed_something(cells: dict[str, Path]) -> None:
    found = {change: receipt_of(cells[change])["steps_changed"] for change in CHANGES}
    assert found["ema=freeze"] == found["teacher=freeze"] == found["bn=freeze"] == HORIZON
    assert found["ema=decay,value=0.5"] == found["teacher=decay,value=0.5"] == HORIZON
    assert found["augment=off"] == 0  # the program does not switch it on again
    assert found["ema=reset"] is None


def test_the_receipt_of_a_recalibration_names_the_probe_and_its_inputs(here: Path, cells: dict[str, Path]) -> None:
    result = json.loads((cells["bn=recalibrate,batches=3"] / "result.json").read_text())
    probes = result["probes"]
    arguments = result["receipts"][0]["arguments"]
    (name,) = probes
    assert arguments == {"batches": 3, "probe": name, "inputs": probes[name]["inputs"]}


def test_a_shuffled_queue_keeps_its_entries_and_a_policy_that_draws_nothing_is_not_rekeyed(
    cells: dict[str, Path],
) -> None:
    receipt = receipt_of(cells["queue=shuffle"])
    assert receipt["applied"]
    assert receipt["norm_before"] == pytest.approx(receipt["norm_after"])
    assert receipt["digest_before"] != receipt["digest_after"]
    receipt = receipt_of(cells["augment=rekey"])
    assert not receipt["applied"]
    assert "augment has no generator among its attributes" in receipt["reason"]
