"""``memaudit replay``: exact before anything else."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from auditor.artifact.resources import validator
from auditor.evidence.run_view import Step
from tests.support.programs import TRAIN, memaudit, recorded

RESET = ("--do", "optimizer.momentum_buffer=reset")


def replay(run: Path, *words: object, out: str = "study", seeds: int = 2) -> dict[str, Any]:
    answer = memaudit(
        *("replay", run, *words, "--seeds", seeds, "--out", run.parent / out, "--trust-code", "--json"), cwd=run.parent
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    estimate: dict[str, Any] = json.loads(answer.stdout)
    return estimate


def cells(study: Path) -> dict[tuple[str, int | None, int], Path]:
    found = {}
    for path in (study / "cells").iterdir():
        cell = json.loads((path / "cell.json").read_text())
        found[cell["arm"], cell["unit"], cell["repeat"]] = path
    return found


def steps_of(cell: Path) -> list[Step]:
    from auditor.evidence.run_view import resolve_steps
    from auditor.evidence.trace_reader import read_trace

    return list(resolve_steps(read_trace((cell / "trace.jsonl").read_bytes()).events))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("shuffled"))


@pytest.fixture(scope="module")
def study(shuffled: Path) -> Path:
    replay(shuffled, "--at", 8, *RESET, "--do", "optimizer=reset,how=zero", "--horizon", 3, "--horizon", 9, seeds=6)
    return shuffled.parent / "study"


KINDS = {
    "shuffled": [],
    "own generator": ["--own-generator"],
    "with replacement": ["--order", "replacement"],
    "with replacement, own generator": ["--order", "replacement", "--own-generator"],
    "weighted": ["--order", "weighted"],
    "two workers": ["--workers", "2"],
    "persistent workers": ["--workers", "2", "--persistent", "--order", "replacement"],
    "anchors inside passes": ["--order", "replacement", "--own-generator", "--anchor-every", "4", "--drop-last"],
    "adam": ["--optimizer", "adam", "--drop-last"],
}


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS.keys())
def test_two_units_draw_different_batches_right_after_a_fork_that_reproduces_the_recording(
    tmp_path: Path, words: list[str]
) -> None:
    # A pass has 6 batches (5 where the last is dropped): the fork lies inside the second pass, ids are pending.
    run = recorded(tmp_path, *words)
    estimate = replay(run, "--at", 8, "--do", "optimizer=reset", "--horizon", 6)
    assert estimate["forks"][0]["gate"]["verdict"] == "passed"
    assert estimate["forks"][0]["gate"]["numerics"] == "same"
    assert estimate["forks"][0]["gate"]["steps"] >= 6
    assert estimate["forks"][0]["nulls"][0]["verdict"] == "passed"
    found = cells(tmp_path / "study")
    first, second = (next(step for step in steps_of(found["carry", unit, 0]) if step.step == 9) for unit in (0, 1))
    assert first.ids != second.ids
    assert first.batch != second.batch
    for name in ("python", "numpy", "torch"):
        assert first.streams[name] != second.streams[name]
    recorded_gate = next(step for step in steps_of(found["gate", None, 0]) if step.step == 9)
    assert recorded_gate.ids not in (first.ids, second.ids)
    # Arms of a unit share everything after the fork but the intervention.
    treated = {step.step: step for step in steps_of(found["optimizer=reset", 0, 0])}
    for step in steps_of(found["carry", 0, 0]):
        assert treated[step.step].ids == step.ids
        assert treated[step.step].streams == step.streams


def test_a_fork_at_a_passes_end_reproduces_too(tmp_path: Path) -> None:
    estimate = replay(recorded(tmp_path), "--at", 6, *RESET, "--horizon", 6)
    gate = estimate["forks"][0]["gate"]
    assert gate == {"verdict": "passed", "steps": 6, "numerics": "same", "first": None, "causes": []}


def test_a_fork_at_the_very_start_reproduces_too(tmp_path: Path) -> None:
    estimate = replay(recorded(tmp_path), "--at", 0, *RESET, "--horizon", 4)
    assert estimate["forks"][0]["gate"]["steps"] == 4
    # There is no momentum yet: nothing was reset, and that is not called "no effect".
    assert {row["verdict"] for row in estimate["estimates"]} == {"not applied"}
    assert estimate["forks"][0]["arms"][0]["receipts"]["not_applied"] == 2


def test_no_momentum_is_not_applied(tmp_path: Path) -> None:
    estimate = replay(recorded(tmp_path, "--optimizer", "plain"), "--at", 8, *RESET, "--horizon", 3)
    assert {row["verdict"] for row in estimate["estimates"]} == {"not applied"}
    reason = estimate["forks"][0]["arms"][0]["receipts"]["examples"][0]["reason"]
    assert "keeps no momentum_buffer" in reason


def test_clear_and_zero_differ_under_dampening_and_only_then(tmp_path: Path, study: Path) -> None:
    zero = "optimizer.momentum_buffer=reset,how=zero"
    run = recorded(tmp_path, "--optimizer", "dampened")
    replay(run, "--at", 8, *RESET, "--do", zero, "--horizon", 1)
    found = cells(tmp_path / "study")
    cleared, zeroed = (steps_of(found[arm, 0, 0])[-1].sources for arm in ("optimizer.momentum_buffer=reset", zero))
    assert cleared["params"] != zeroed["params"]
    undamped = cells(study)
    same = [
        steps_of(undamped[arm, 0, 0])[-1].sources
        for arm in ("optimizer.momentum_buffer=reset", "optimizer=reset,how=zero")
    ]
    assert same[0] == same[1]


def test_a_cut_changes_nothing_before_the_next_update(study: Path) -> None:
    found = cells(study)
    for arm in ("carry", "optimizer.momentum_buffer=reset"):
        before = [step for step in steps_of(found[arm, 0, 0]) if step.step <= 8]
        gate = [step for step in steps_of(found["gate", None, 0]) if step.step <= 8]
        assert before == gate


def test_the_estimate_is_what_scipy_gives_on_the_stored_differences(study: Path) -> None:
    estimate = json.loads((study / "estimate.json").read_text())
    validator("estimate").validate(estimate)
    found = cells(study)
    checked = 0
    for row in estimate["estimates"]:
        pair = [
            [json.loads((found[arm, unit, 0] / "result.json").read_text())["horizons"] for unit in row["units"]]
            for arm in (row["arm"], "carry")
        ]
        if row["estimand"] == "signed ATE":
            treated, control = ([h[str(row["horizon"])][row["probe"]][row["outcome"]] for h in arm] for arm in pair)
            assert row["differences"] == pytest.approx(np.subtract(treated, control), abs=1e-15)
            if row["interval"] is not None:
                low, high = stats.ttest_rel(treated, control).confidence_interval(0.95)
                assert row["interval"] == pytest.approx([low, high], rel=1e-9)
                checked += 1
        elif row["outcome"] == "tv":
            name = f"predictions/{row['probe']}-h{row['horizon']:06d}.npy"
            arms = [[np.load(found[arm, unit, 0] / name) for unit in row["units"]] for arm in (row["arm"], "carry")]
            distances = [np.abs(p - q).sum(axis=1).mean() / 2 for p, q in zip(*arms, strict=True)]
            assert row["differences"] == pytest.approx(distances)
            assert row["p_value"] is None
    assert checked >= 4
    assert {row["outcome"] for row in estimate["estimates"]} == {"nll", "accuracy", "tv", "disagreement", "weight_norm"}


def test_everything_a_study_writes_follows_its_schema_and_verifies(study: Path) -> None:
    validator("plan").validate(json.loads((study / "plan.json").read_text()))
    for path in cells(study).values():
        validator("cell").validate(json.loads((path / "cell.json").read_text()))
        validator("cell-result").validate(json.loads((path / "result.json").read_text()))
    answer = memaudit("verify", study, cwd=study.parent)
    assert answer.returncode == 0, answer.stdout


def test_a_study_killed_in_the_middle_goes_on_and_ends_with_the_identical_table(shuffled: Path, study: Path) -> None:
    words = [sys.executable, "-m", "auditor.cli.main", "replay", shuffled, "--at", "8", *RESET]
    words += ["--do", "optimizer=reset,how=zero", "--horizon", "3", "--horizon", "9", "--seeds", "6"]
    words += ["--out", "again", "--trust-code"]
    process = subprocess.Popen(
        [str(word) for word in words], cwd=shuffled.parent, start_new_session=True, stderr=subprocess.DEVNULL
    )
    again = shuffled.parent / "again"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(again.glob("cells/[0-9a-f]*"))) < 5:
        time.sleep(0.05)
    import os

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name for path in again.glob("cells/[0-9a-f]*")}
    assert 5 <= len(done) < 21
    stamps = {name: (again / "cells" / name / "result.json").stat().st_mtime_ns for name in done}
    answer = memaudit(*words[3:], cwd=shuffled.parent)
    assert answer.returncode == 0, answer.stderr
    assert (again / "estimate.json").read_bytes() == (study / "estimate.json").read_bytes()
    assert {name: (again / "cells" / name / "result.json").stat().st_mtime_ns for name in done} == stamps
    assert not list(again.glob("cells/.*"))


def test_the_plan_file_gives_the_same_cells_as_the_command_line(shuffled: Path, study: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"""
format: plan-1
forks: [{{run: {shuffled}, at: 8}}]
arms:
  - do: [{{source: optimizer.momentum_buffer, do: reset}}]
  - do: [{{source: optimizer, do: reset, how: zero}}]
horizons: [3, 9]
units: {{kind: fork, count: 6}}
"""
    )
    copied = tmp_path / "study"
    shutil.copytree(study / "cells", copied / "cells")
    shutil.copy(study / "plan.json", copied / "plan.json")
    answer = memaudit("replay", "--plan", plan, "--out", copied, "--trust-code", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert (copied / "estimate.json").read_bytes() == (study / "estimate.json").read_bytes()
    assert (copied / "plan.json").read_bytes() == (study / "plan.json").read_bytes()


def test_a_training_that_cannot_repeat_fails_the_gate_and_reports_nothing_else(tmp_path: Path) -> None:
    run = recorded(tmp_path, "--nondeterministic")
    answer = memaudit(
        "replay", run, "--at", 8, *RESET, "--horizon", 3, "--seeds", 2, "--trust-code", "--json", cwd=tmp_path
    )
    assert answer.returncode == 4, answer.stderr
    estimate = json.loads(answer.stdout)
    assert estimate["verdict"] == "gate failed"
    assert estimate["forks"][0]["gate"]["first"] == {"step": 7, "source": "optimizer.momentum_buffer"}
    assert estimate["estimates"] == []
    assert estimate["forks"][0]["nulls"][0]["verdict"] == "failed"
    (cause, *_) = estimate["forks"][0]["gate"]["causes"]
    assert cause["class"] == "nondeterminism"
    # Only the controls ran.
    assert {(arm, unit) for arm, unit, _ in cells(tmp_path / "run-study")} == {
        ("gate", None),
        ("carry", 0),
        ("carry", 1),
    }


def test_a_horizon_past_the_end_is_a_usage_error_with_the_last_step(shuffled: Path) -> None:
    answer = memaudit("replay", shuffled, "--at", 8, *RESET, "--horizon", 100, "--trust-code", cwd=shuffled.parent)
    assert answer.returncode == 2
    assert "last step, 18" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_horizon_at_the_very_end_is_measured(shuffled: Path) -> None:
    estimate = replay(shuffled, "--at", 16, *RESET, "--horizon", 2, out="end")
    assert estimate["forks"][0]["gate"]["verdict"] == "passed"
    assert estimate["estimates"]


def test_nothing_runs_without_consent(shuffled: Path, tmp_path: Path) -> None:
    answer = memaudit(
        "replay", shuffled, "--at", 8, *RESET, "--horizon", 3, "--out", tmp_path / "s", cwd=shuffled.parent
    )
    assert answer.returncode == 2
    assert "nobody consented" in answer.stderr
    assert str(TRAIN) in answer.stderr
    assert not (tmp_path / "s").exists()


def test_a_dry_run_says_what_would_run_and_runs_nothing(shuffled: Path, tmp_path: Path) -> None:
    answer = memaudit(
        *("replay", shuffled, "--at", 8, *RESET, "--horizon", 3, "--dry-run", "--out", tmp_path / "s"), cwd=tmp_path
    )
    assert answer.returncode == 0
    assert "cells     27: 10 units, the gate, carry once more, and the floor of 1 ulp" in answer.stdout
    assert "reach     " in answer.stdout
    assert "1.00 standard deviations" in answer.stdout
    assert not (tmp_path / "s").exists()


def test_a_changed_program_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    shutil.copy(TRAIN, script)
    answer = memaudit("record", "--out", "run", "--", sys.executable, script, cwd=tmp_path)
    assert answer.returncode == 0
    script.write_text(script.read_text() + "\n# changed\n")
    answer = memaudit("replay", "run", "--at", 8, *RESET, "--horizon", 3, "--trust-code", cwd=tmp_path)
    assert answer.returncode == 2
    assert "not the one that was recorded" in answer.stderr


def test_a_run_that_was_changed_is_refused(shuffled: Path, tmp_path: Path) -> None:
    shutil.copytree(shuffled, tmp_path / "run")
    target = tmp_path / "run" / "anchors" / "step-000006" / "tensors.safetensors"
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    answer = memaudit("replay", "run", "--at", 8, *RESET, "--horizon", 3, "--trust-code", cwd=tmp_path)
    assert answer.returncode == 2
    assert "does not verify" in answer.stderr


def test_another_plan_in_the_same_directory_is_refused(shuffled: Path, study: Path) -> None:
    answer = memaudit(
        *("replay", shuffled, "--at", 9, *RESET, "--horizon", 3, "--out", study, "--trust-code"), cwd=shuffled.parent
    )
    assert answer.returncode == 2
    assert "something else than this plan" in answer.stderr


def test_an_unknown_intervention_is_named_with_those_there_are(shuffled: Path, tmp_path: Path) -> None:
    answer = memaudit(
        *(
            "replay",
            shuffled,
            "--at",
            8,
            "--do",
            "params=explode",
            "--horizon",
            3,
            "--out",
            tmp_path / "s",
            "--trust-code",
        ),
        cwd=tmp_path,
    )
    assert answer.returncode != 0
    assert "explode" in answer.stderr
    assert "Traceback" not in answer.stderr
