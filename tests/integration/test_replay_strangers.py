"""What strangers' programs, plans and hands do to a study, through the real command; tests are named after defects."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from auditor.artifact import strict_json
from auditor.artifact.canonical import write_canonical
from tests.support.programs import memaudit

PROGRAM = """
import os
import torch
import auditor

torch.set_num_threads(1)
os.chdir("data")
inputs = torch.load("inputs.pt")
with auditor.record("../run", seed=1) as run:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run.watch(model=model, optimizer=optimizer)
    run.probe(model, inputs[:8])
    for step in run.steps(12):
        ids = torch.randint(0, 32, (4,))
        run.batch(ids=ids.tolist(), content=inputs[ids])
        optimizer.zero_grad()
        loss = model(inputs[ids]).square().mean()
        loss.backward()
        optimizer.step()
        if "MEMAUDIT_CELL" in os.environ and os.path.exists("end") and step == 7:
            os._exit(0)
        run.step(loss=loss)
"""
PLAN = """format: plan-1
forks: [{run: run, at: 6}]
horizons: [2]
units: {seeds: [0, 1]}
reach: restore
arms:
  - do: [{source: optimizer, do: reset}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a program that goes into its data's directory before it records, and a study of it."""
    import torch

    folder = tmp_path_factory.mktemp("stranger")
    (folder / "data").mkdir()
    torch.save(torch.linspace(-1, 1, 128).reshape(32, 4), folder / "data" / "inputs.pt")
    (folder / "program.py").write_text(PROGRAM)
    answer = memaudit("record", "--out", folder / "run", "--", sys.executable, "program.py", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    status, said = replay(folder, PLAN, "study")
    assert status == 0, said
    (folder / "said.txt").write_text(said)
    return folder


def replay(folder: Path, plan: str, out: str, *words: str) -> tuple[int, str]:
    """Carry out a plan; return the exit status and all that was said."""
    (folder / "plan.yaml").write_text(plan)
    answer = memaudit("replay", "--plan", "plan.yaml", "--out", out, "--trust-code", *words, cwd=folder)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout + answer.stderr


def test_a_program_that_changes_its_directory_before_it_records_is_started_where_it_was(folder: Path) -> None:
    program = json.loads((folder / "run" / "environment.json").read_text())["program"]
    assert (program["path"], program["cwd"]) == ("program.py", str(folder))
    assert "fidelity gate   passed" in (folder / "said.txt").read_text()


def test_contrasts_that_nobody_measured_are_not_counted_as_tested(folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    assert "nothing could be tested" in said
    assert "no outcome of the plan could be measured" in said


def test_a_signed_study_whose_cell_was_edited_is_not_signed_again(folder: Path) -> None:
    path = next((folder / "study" / "cells").glob("*/result.json"))
    before = path.read_bytes()
    manifest = (folder / "study" / "manifest.json").read_bytes()
    write_canonical(path, {**strict_json.parse_canonical(before, "result"), "error": "none"})
    status, said = replay(folder, PLAN, "study")
    assert status == 2
    assert "the study was changed since it was signed" in said
    assert f"study/cells/{path.parent.name}/result.json" in said
    assert (folder / "study" / "manifest.json").read_bytes() == manifest
    path.write_bytes(before)
    assert replay(folder, PLAN, "study")[0] == 0


def test_one_fork_named_by_two_paths_is_not_counted_twice(folder: Path) -> None:
    forks = "forks: [{run: run, at: 6}, {run: data/../run, at: 6}]"
    status, said = replay(folder, PLAN.replace("forks: [{run: run, at: 6}]", forks), "twice")
    assert status == 2
    assert "two forks are the same" in said


def test_a_process_that_ends_in_the_middle_is_not_said_to_have_missed_its_recorder(folder: Path) -> None:
    (folder / "data" / "end").touch()
    try:
        status, said = replay(folder, PLAN, "ended")
    finally:
        (folder / "data" / "end").unlink()
    assert status == 4
    assert "ended in the middle of the training" in said
    assert "did it enter" not in said


def test_whole_numbers_written_with_a_point_are_whole_numbers(folder: Path) -> None:
    plan = PLAN.replace("at: 6", "at: 6.0").replace("[2]", "[2.0]").replace("[0, 1]", "[0.0, 1]")
    status, said = replay(folder, plan, "points", "--dry-run")
    assert status == 0
    assert "fork      after step 6; horizons 2" in said


@pytest.mark.parametrize(
    ("line", "number"),
    [("margins: {nll: .inf}", 8), ("seed: 99999999999999999999", 8), ("units: {count: true}", 4)],
    ids=["infinite", "too large", "no number"],
)
def test_a_value_that_cannot_be_is_refused_at_its_own_line(folder: Path, line: str, number: int) -> None:
    plan = PLAN.replace("units: {seeds: [0, 1]}", line) if number == 4 else PLAN + line + "\n"
    status, said = replay(folder, plan, "refused", "--dry-run")
    assert status == 2
    assert f"plan.yaml:{number}\n" in said
