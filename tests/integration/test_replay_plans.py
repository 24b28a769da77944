"""Plans through the real command: several runs and anchors, looks, what is said before anything runs, and the gate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.artifact.resources import validator
from tests.support.programs import TRAIN, memaudit, recorded

NOISY = """
import torch
import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run.watch(model=model, optimizer=optimizer)
    run.outcome("theta", lambda: model.theta[0])
    run.outcome("momentum", lambda: optimizer.state[model.theta].get("momentum_buffer", torch.zeros(1))[0])
    for step in run.steps(30):
        run.batch(content=torch.tensor([step]))
        optimizer.zero_grad()
        noise = torch.randn(1, dtype=torch.float64)
        (0.5 * 0.3 * model.theta.square() + noise * model.theta).sum().backward()
        optimizer.step()
        run.step()
"""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "noisy.py").write_text(NOISY)
    answer = memaudit("record", "--out", "run", "--", sys.executable, "noisy.py", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return folder / "run"


def planned(folder: Path, text: str, *words: object, status: int = 0) -> dict[str, Any]:
    (folder / "plan.yaml").write_text(text)
    command = ("replay", "--plan", "plan.yaml", "--out", "study", "--trust-code", "--json", *words)
    answer = memaudit(*command, cwd=folder)
    assert answer.returncode == status, answer.stdout + answer.stderr
    estimate: dict[str, Any] = json.loads(answer.stdout)
    validator("estimate").validate(estimate)
    return estimate


def row_of(estimate: dict[str, Any], arm: str, outcome: str, horizon: int, fork: int = 0) -> dict[str, Any]:
    key = (arm, outcome, horizon, fork)
    rows = estimate["estimates"]
    return next(row for row in rows if (row["arm"], row["outcome"], row["horizon"], row["fork"]) == key)


def test_one_plan_spans_runs_and_anchors_and_verifies(noisy: Path, tmp_path: Path) -> None:
    other = recorded(tmp_path)
    estimate = planned(
        tmp_path,
        f"""
format: plan-1
forks:
  - {{run: {noisy}, at: 10}}
  - {{run: {noisy}, at: 20}}
  - {{run: run, at: 8}}
arms:
  - do: [{{source: optimizer.momentum_buffer, do: reset}}]
horizons: [2, 5]
units: {{count: 3}}
family: fork
""",
    )
    assert [fork["at"] for fork in estimate["forks"]] == [10, 20, 8]
    assert [fork["verdict"] for fork in estimate["forks"]] == ["complete"] * 3
    assert tmp_path / estimate["forks"][2]["run"]["path"] == other
    # Nothing of the noise reaches θ through the momentum that was there: the reset's effect is known.
    matrix = np.array([[1 - 0.1 * 0.3, -0.1 * 0.9], [0.3, 0.9]])
    for fork in (0, 1):
        control = row_of(estimate, "optimizer.momentum_buffer=reset", "theta", 5, fork)
        assert control["differences"] == pytest.approx([control["differences"][0]] * 3), "one anchor, one momentum"
        ratio = np.linalg.matrix_power(matrix, 5)[0, 1] / np.linalg.matrix_power(matrix, 2)[0, 1]
        early = row_of(estimate, "optimizer.momentum_buffer=reset", "theta", 2, fork)
        assert control["estimate"] / early["estimate"] == pytest.approx(ratio)
    sentence = row_of(estimate, "optimizer.momentum_buffer=reset", "theta", 5, 1)["sentence"]
    assert "at step 20 of run" in sentence
    # What a program names itself is estimated where that program was replayed, and nowhere else.
    assert {row["outcome"] for row in estimate["estimates"] if row["fork"] == 2}.isdisjoint({"theta", "momentum"})
    answer = memaudit("verify", "study", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout
    answer = memaudit("report", "study", "-o", "report.html", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "step 20" in (tmp_path / "report.html").read_text()


def test_a_value_taken_from_another_forks_cell_is_found(noisy: Path, tmp_path: Path) -> None:
    text = f"""
format: plan-1
forks: [{{run: {noisy}, at: 10}}, {{run: {noisy}, at: 20}}]
arms: [{{do: [{{source: optimizer.momentum_buffer, do: reset}}]}}]
horizons: [5]
units: {{count: 2}}
"""
    planned(tmp_path, text)
    path = tmp_path / "study" / "estimate.json"
    estimate = json.loads(path.read_text())
    first, second = (row_of(estimate, "optimizer.momentum_buffer=reset", "theta", 5, fork) for fork in (0, 1))
    for name in ("control", "treated", "differences", "estimate"):
        first[name] = second[name]
    path.write_text(json.dumps(estimate, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")
    answer = memaudit("verify", "study", cwd=tmp_path)
    assert answer.returncode == 1
    assert "the value is not the one in its cell" in answer.stdout


def test_swapped_and_common_buffers_do_what_linear_algebra_says(noisy: Path, tmp_path: Path) -> None:
    estimate = planned(
        tmp_path,
        f"""
format: plan-1
forks: [{{run: {noisy}, at: 10}}]
arms:
  - name: swap
    do: [{{source: optimizer.momentum_buffer, do: swap, after: 4}}]
  - name: common
    do:
      - {{source: params, do: jitter, how: gaussian, sigma: 0.1}}
      - {{source: optimizer, do: common, after: 4}}
  - name: at the fork
    do: [{{source: optimizer.momentum_buffer, do: swap}}]
horizons: [4, 9]
units: {{count: 4}}
""",
    )
    matrix = np.linalg.matrix_power(np.array([[1 - 0.1 * 0.3, -0.1 * 0.9], [0.3, 0.9]]), 5)
    carried = row_of(estimate, "common", "momentum", 4)["control"]
    # Unit i goes on with the buffer of unit i + 1: z differs by (0, m_j - m_i), and A carries that to horizon 9.
    expected = [matrix[0, 1] * (carried[(unit + 1) % 4] - carried[unit]) for unit in range(4)]
    assert row_of(estimate, "swap", "theta", 9)["differences"] == pytest.approx(expected, rel=1e-9)
    # The weights were moved at the fork; four steps later the buffers are the control's, and θ alone differs.
    apart = row_of(estimate, "common", "theta", 4)["differences"]
    expected = [matrix[0, 0] * each for each in apart]
    assert row_of(estimate, "common", "theta", 9)["differences"] == pytest.approx(expected, rel=1e-9)
    assert row_of(estimate, "at the fork", "theta", 9)["verdict"] == "not applied"
    arms = {arm["name"]: arm for arm in estimate["forks"][0]["arms"]}
    (receipt,) = arms["swap"]["receipts"]["examples"]
    assert (receipt["applied"], receipt["at"], receipt["changed"]) == (True, 14, 1.0)
    assert memaudit("verify", "study", cwd=tmp_path).returncode == 0


def test_a_swap_between_units_needs_two(noisy: Path, tmp_path: Path) -> None:
    words = ("--at", 10, "--do", "optimizer=swap,after=2", "--horizon", 5, "--seeds", 1, "--trust-code")
    answer = memaudit("replay", noisy, *words, "--out", tmp_path / "study", cwd=tmp_path)
    assert answer.returncode == 2
    assert "there is only one" in answer.stderr
    assert not (tmp_path / "study").exists()


def test_a_study_stops_at_the_look_that_settles_everything(noisy: Path, tmp_path: Path) -> None:
    text = f"""
format: plan-1
forks: [{{run: {noisy}, at: 10}}]
arms: [{{do: [{{source: params, do: jitter, how: gaussian, sigma: 0.1}}]}}]
horizons: [3]
units: {{count: 16}}
looks: [8, 16]
margins: {{theta: 10, momentum: 10}}
"""
    estimate = planned(tmp_path, text)
    assert estimate["look"] == {"number": 1, "looks": 2, "units": 8, "of": 16, "level": 0.975}
    assert {row["verdict"] for row in estimate["estimates"] if row["units"]} == {"equivalent"}
    assert {row["level"] for row in estimate["estimates"]} == {0.975}
    units = {json.loads(path.read_text())["unit"] for path in tmp_path.glob("study/cells/*/cell.json")}
    assert units == {None, *range(8)}
    estimate = planned(tmp_path, text.replace("10, momentum: 10", "1e-9, momentum: 1e-9"), "--out", "long")
    assert estimate["look"]["number"] == 2
    assert estimate["look"]["units"] == 16


def test_what_will_be_done_is_said_before_anything_runs(noisy: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"""
format: plan-1
forks: [{{run: {noisy}, at: 10}}, {{run: {noisy}, at: 20}}]
arms: [{{do: [{{source: optimizer, do: reset}}]}}]
horizons: [5]
units: {{count: 6}}
executor: {{timeout: 60, memory: 2 GiB}}
""")
    answer = memaudit("replay", "--plan", "plan.yaml", "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for text in (
        "after step 10",
        "after step 20",
        "cells     38",
        "CPU time",
        "at most 60 s a cell and 2,048 MiB a cell",
        "disk",
        "6 units detect a difference of 1.43 standard deviations",
        "plan      ",
    ):
        assert text in answer.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.yaml"]


def test_the_gate_tells_another_numerics_class_from_other_data(tmp_path: Path) -> None:
    script = """
import numpy, torch
import auditor

torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    data = torch.from_numpy(numpy.load("data.npy"))
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model=model, optimizer=optimizer)
    run.outcome("norm", lambda: model[0].weight.norm())
    for step in run.steps(12):
        batch = data[step * 32 : step * 32 + 32]
        run.batch(ids=range(step * 32, step * 32 + 32), content=batch)
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
"""
    (tmp_path / "train.py").write_text(script)
    data = np.random.default_rng(0).standard_normal((384, 64)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    answer = memaudit("record", "--out", "run", "--", sys.executable, "train.py", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    words = ("--at", 4, "--do", "params=jitter", "--horizon", 6, "--seeds", 2, "--trust-code", "--json")
    answer = memaudit("replay", "run", *words, "--out", "plain", cwd=tmp_path, ATEN_CPU_CAPABILITY="default")
    assert answer.returncode == 4, answer.stderr
    gate = json.loads(answer.stdout)["forks"][0]["gate"]
    assert gate["numerics"] == "different"
    assert gate["causes"][0]["class"] == "numerics"
    data[5 * 32] += 1.0
    np.save(tmp_path / "data.npy", data)
    answer = memaudit("replay", "run", *words, "--out", "other", cwd=tmp_path)
    assert answer.returncode == 4, answer.stderr
    gate = json.loads(answer.stdout)["forks"][0]["gate"]
    assert gate["numerics"] == "same"
    assert gate["first"] == {"step": 6, "source": "batch"}
    classes = {cause["class"] for cause in gate["causes"]}
    assert "data" in classes
    assert classes.isdisjoint({"numerics", "program", "nondeterminism"})
    assert gate["steps"] <= 5


def test_an_intervention_that_lasts_and_never_finds_anything_to_change_is_not_applied(
    noisy: Path, tmp_path: Path
) -> None:
    answer = memaudit(
        *("replay", noisy, "--at", 10, "--do", "hyper.lr=set,value=0.1", "--horizon", 3, "--seeds", 2),
        *("--out", tmp_path / "study", "--trust-code", "--json"),
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    estimate = json.loads(answer.stdout)
    assert {row["verdict"] for row in estimate["estimates"]} == {"not applied"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--plan", "plan.yaml", "--at", 3), "--at cannot stand beside --plan"),
        (("--plan", "plan.yaml", "--seeds", 3), "--seeds cannot stand beside --plan"),
        (("--at", 3, "--memory", "lots"), "no amount of memory"),
        (("--plan", "plan.yaml"), "plan.yaml:4"),
    ],
)
def test_a_contradiction_is_a_usage_error(noisy: Path, tmp_path: Path, words: tuple[object, ...], text: str) -> None:
    (tmp_path / "plan.yaml").write_text(f"format: plan-1\nforks: [{{run: {noisy}, at: 3}}]\nhorizons: [2]\nunit: 3\n")
    answer = memaudit("replay", noisy, *words, cwd=tmp_path)
    assert answer.returncode == 2
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(("line", "near"), [("margins: {thet: 1}", "theta"), ("outcomes: [momentun]", "momentum")])
def test_a_name_that_nothing_measures_is_refused_before_any_arm_runs(
    noisy: Path, tmp_path: Path, line: str, near: str
) -> None:
    (tmp_path / "plan.yaml").write_text(
        f"format: plan-1\nforks: [{{run: {noisy}, at: 3}}]\nhorizons: [2]\nunits: {{count: 2}}\n"
        f"arms: [{{do: [{{source: optimizer, do: reset}}]}}]\n{line}\n"
    )
    answer = memaudit("replay", "--plan", "plan.yaml", "--out", "study", "--trust-code", cwd=tmp_path)
    assert answer.returncode == 2, answer.stdout
    assert f"did you mean {near}?" in answer.stderr
    arms = {json.loads(path.read_text())["arm"] for path in tmp_path.glob("study/cells/*/cell.json")}
    assert arms == {"gate", "carry"}


def test_cells_in_the_commands_own_process_give_the_same_numbers(tmp_path: Path) -> None:
    """A seeded recording has a hash seed, and the command begins anew with it."""
    answer = memaudit(
        "record", "--out", "run", "--seed", 4, "--", sys.executable, TRAIN, cwd=tmp_path, OMP_NUM_THREADS="1"
    )
    assert answer.returncode == 0, answer.stderr
    rows, refused = [], []
    for words in (("--in-process", "--out", "one"), ("--reach", "restore", "--out", "two")):
        options = ("--at", 8, "--do", "optimizer=reset", "--horizon", 3, "--seeds", 3, "--trust-code", "--json")
        answer = memaudit("replay", "run", *options, *words, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        estimate = json.loads(answer.stdout)
        assert estimate["forks"][0]["reach"]["way"] == "restore"
        rows.append(estimate["estimates"])
        refused.append([each["reason"] for each in estimate["forks"][0]["reach"]["refused"]])
    assert rows[0] == rows[1]
    assert refused == [["the cells run in this process, one after the other"], []]
