"""``memaudit record`` on real trainings, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from auditor.artifact.resources import validator
from tests.support.programs import TRAIN, memaudit, recorded, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("finished"), "--anchor-every", "4")


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (path / "trace.jsonl").read_text().splitlines()]


def test_a_recorded_run_verifies(finished: Path) -> None:
    answer = memaudit("verify", finished, "--json", cwd=finished.parent)
    assert answer.returncode == 0, answer.stdout
    assert json.loads(answer.stdout)["verdict"] == "passed"


def test_step_lines_stay_under_600_bytes(finished: Path) -> None:
    lines = (finished / "trace.jsonl").read_bytes().splitlines()
    sizes = [len(line) for line in lines if json.loads(line)["event"] == "step"]
    assert len(sizes) == 18
    assert max(sizes) < 600


def test_everything_written_follows_its_schema(finished: Path) -> None:
    for event in events(finished):
        validator("trace-event").validate(event)
    validator("environment").validate(json.loads((finished / "environment.json").read_text()))
    validator("probes").validate(json.loads((finished / "probe" / "probes.json").read_text()))
    values = list(finished.glob("anchors/*/values.json"))
    assert len(values) >= 6
    for path in values:
        validator("anchor-values").validate(json.loads(path.read_text()))
    validator("envelope").validate(json.loads((finished / "manifest.json").read_text()))
    census = memaudit("inspect", finished, "--json", cwd=finished.parent)
    validator("census").validate(json.loads(census.stdout))
    verification = memaudit("verify", finished, "--json", cwd=finished.parent)
    validator("verify").validate(json.loads(verification.stdout))


def test_order_files_hold_the_ids_as_consumed(finished: Path) -> None:
    files = sorted(finished.glob("order/*.npy"))
    orders = [np.load(path, allow_pickle=False) for path in files]
    assert [sorted(order.tolist()) for order in orders] == [list(range(42))] * 3
    assert orders[0].tolist() != orders[1].tolist()


def test_equal_runs_leave_equal_bytes(tmp_path: Path, finished: Path) -> None:
    again = recorded(tmp_path, "--anchor-every", "4")
    names = sorted(p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file())
    assert sorted(p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file()) == names
    clocks_and_folders = {"manifest.json", "environment.json", "trace.jsonl"}
    for name in set(names) - clocks_and_folders:
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name
    varying = {"prev", "environment", "keyid", "sig", "public_key", "head"}
    stripped = [[{k: v for k, v in e.items() if k not in varying} for e in events(p)] for p in (finished, again)]
    assert stripped[0] == stripped[1]


def test_the_command_seed_takes_precedence_and_seeds_before_the_first_line(tmp_path: Path) -> None:
    script = tmp_path / "early.py"
    script.write_text(
        "import random, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), torch.rand(1).item())\n"
        "import auditor\n"
        "with auditor.record('own', seed=1) as run:\n"
        "    print(random.random(), numpy.random.rand(), torch.rand(1).item())\n"
    )
    first = memaudit("record", "--out", "a", "--seed", "7", "--", sys.executable, script, cwd=tmp_path)
    second = memaudit("record", "--out", "b", "--seed", "7", "--", sys.executable, script, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    before, inside = first.stdout.splitlines()
    assert before == inside
    assert events(tmp_path / "a")[0]["seed"] == "7"
    assert not (tmp_path / "own").exists()


def test_a_sitecustomize_of_the_users_own_still_runs(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sitecustomize.py").write_text("print('mine')\n")
    script = tmp_path / "show.py"
    script.write_text(
        "import sys, os; print(os.environ.get('PYTHONPATH')); print([p for p in sys.path if 'adapters' in p])"
    )
    answer = memaudit(
        "record", "--seed", "1", "--", sys.executable, script, cwd=tmp_path, PYTHONPATH=str(tmp_path / "mine")
    )
    # One "mine" is that of memaudit's own process, which may be flushed last.
    assert sorted(answer.stdout.splitlines()) == sorted(["mine", "mine", str(tmp_path / "mine"), "[]"])
    assert answer.returncode == 3
    assert "nothing was recorded" in answer.stderr


def test_the_word_python_means_the_one_memaudit_is_installed_in(tmp_path: Path) -> None:
    """CI had another Python first on its PATH, one without torch."""
    other = tmp_path / "bin" / "python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 9\n")
    other.chmod(0o755)
    path = f"{other.parent}{os.pathsep}{os.environ['PATH']}"
    script = tmp_path / "which.py"
    script.write_text("import sys; print(sys.executable)")
    plain = memaudit("record", "--out", "run", "--", "python", script, cwd=tmp_path, PATH=path)
    assert plain.stdout.strip() == sys.executable
    assert f"memaudit: python is {sys.executable} here, where memaudit is installed" in plain.stderr
    assert memaudit("record", "--out", "run", "--", other, script, cwd=tmp_path, PATH=path).returncode == 9


def test_the_status_is_the_commands_own(tmp_path: Path) -> None:
    answer = memaudit("record", "--", sys.executable, "-c", "raise SystemExit(17)", cwd=tmp_path)
    assert answer.returncode == 17


def test_a_failing_training_ends_the_trace_with_its_error(tmp_path: Path) -> None:
    answer = memaudit("record", "--out", "run", "--", sys.executable, TRAIN, "--fail-at", "5", cwd=tmp_path)
    assert answer.returncode == 1
    assert "planted failure" in answer.stderr
    last = events(tmp_path / "run")[-1]
    assert last["event"] == "end"
    assert last["status"] == "failed"
    assert last["error"] == "RuntimeError: planted failure"
    assert memaudit("verify", "run", cwd=tmp_path).returncode in (0, 4)


def test_a_killed_training_is_unfinished_and_never_passed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, TRAIN, "--epochs", "100000"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    trace = tmp_path / "run" / "trace.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (trace.exists() and b'"seal"' in trace.read_bytes()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answer = memaudit("verify", "run", "--json", cwd=tmp_path)
    assert answer.returncode == 4, answer.stdout
    verdict = json.loads(answer.stdout)
    assert verdict["verdict"] == "inconclusive"
    assert any("sealed" in claim["what"] for claim in verdict["claims"])


def test_a_loop_left_by_break_is_recorded(tmp_path: Path) -> None:
    path = recorded(tmp_path, "--break-at", "4", "--epochs", "1")
    passes = [event for event in events(path) if event["event"] == "pass"]
    assert [(event["complete"], event["samples"], event["last"]) for event in passes] == [(False, 32, 4)]
    assert memaudit("verify", path, cwd=tmp_path).returncode == 0


def test_a_run_directory_in_use_is_refused_before_the_training_starts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    answer = memaudit("record", "--out", "run", "--", sys.executable, TRAIN, cwd=tmp_path)
    assert answer.returncode == 2
    assert "not empty" in answer.stderr
    assert (tmp_path / "run" / "precious").read_text() == "x"


def test_a_recorder_that_cannot_write_stops_loudly_and_never_the_training(tmp_path: Path) -> None:
    script = tmp_path / "full.py"
    script.write_text(TRAIN.read_text().replace("step += 1\n", "step += 1\n                plant(step)\n", 1))
    planted = (
        "import shutil, pathlib\n"
        "def plant(step):\n"
        "    if step == 4:\n"
        "        while (pathlib.Path(OUT) / 'anchors').exists():  # one may be being written\n"
        "            shutil.rmtree(pathlib.Path(OUT) / 'anchors', ignore_errors=True)\n"
        "        (pathlib.Path(OUT) / 'anchors').write_text('no directory any more')\n"
    )
    script.write_text(planted.replace("OUT", "'run'") + script.read_text())
    witness = run(sys.executable, script, "--witness", "on", cwd=tmp_path)
    assert witness.returncode == 0, witness.stderr
    assert "recording stopped at step" in witness.stderr
    assert len((tmp_path / "on").read_text().splitlines()) == 18
    assert memaudit("verify", "run", cwd=tmp_path).returncode in (1, 4)


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_what_cannot_be_captured_is_refused_by_name_before_any_step(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text(
        "import auditor\n"
        "class Odd:\n"
        "    def state_dict(self): return {'inner': {'thing': object()}}\n"
        "    def load_state_dict(self, state): pass\n"
        "with auditor.record('run') as run:\n"
        "    run.watch(odd=Odd())\n"
    )
    answer = run(sys.executable, script, cwd=tmp_path)
    assert answer.returncode == 1
    assert "inner.thing" in answer.stderr
    assert "without pickle" in answer.stderr


def test_a_recording_that_broke_off_is_not_called_recorded(tmp_path: Path) -> None:
    """An outcome that could not be measured ended the recording at step 0, and the command said "recorded run"."""
    (tmp_path / "train.py").write_text(
        "import torch, auditor\n"
        "with auditor.record('run', seed=0) as run:\n"
        "    model = torch.nn.Linear(2, 1)\n"
        "    run.watch(model=model)\n"
        "    run.outcome('broken', lambda: {}['python'])\n"
        "    for step in run.steps(3):\n"
        "        run.batch(content=torch.ones(1))\n"
        "        run.step()\n"
        "print('done')\n"
    )
    answer = memaudit("record", "--out", "run", "--", sys.executable, "train.py", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (0, "done\n")
    assert "recording stopped at step 0" in answer.stderr
    assert "the outcome broken cannot be measured" in answer.stderr
    assert "the recording was cut short, and is unfinished: run" in answer.stderr
    assert "recorded run" not in answer.stderr
