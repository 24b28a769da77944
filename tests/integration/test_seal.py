"""Real trainings killed at any moment: unfinished, never contradicted; closed by `memaudit seal`, they hold."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.artifact.resources import validator
from tests.support.programs import TRAIN, memaudit, recorded


def killed(cwd: Path, pause: float, *words: str) -> Path:
    """Start a training that would take hours, and kill it ``pause`` seconds after its first line."""
    arguments = [sys.executable, str(TRAIN), "--epochs", "100000", "--anchor-every", "3", *words]
    process = subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trace = cwd / "run" / "trace.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (trace.exists() and b'"seal"' in trace.read_bytes()):
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return cwd / "run"


@pytest.mark.parametrize("case", range(6))
def test_a_killed_training_is_closed_and_holds(tmp_path: Path, case: int) -> None:
    workers = ("--workers", "2", "--persistent") if case % 3 == 2 else ()
    run = killed(tmp_path, random.Random(case).random() ** 2, *workers)
    before = memaudit("verify", run, "--json", cwd=tmp_path)
    assert before.returncode == 4, before.stdout
    answer = memaudit("seal", run, "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    validator("seal").validate(document)
    assert document["status"] == "interrupted"
    after = memaudit("verify", run, "--json", cwd=tmp_path)
    assert after.returncode == 0, after.stdout
    verdict = json.loads(after.stdout)
    assert verdict["summary"]["steps"] == document["steps"] == json.loads(before.stdout)["summary"]["steps"]
    assert {finding["level"] for finding in verdict["findings"] if finding["code"] == "MA822"} == {"warning"}
    assert not [path for path in run.rglob("*") if path.name.endswith((".part", ".tmp"))]


def test_seal_says_what_it_did_and_does_it_once(tmp_path: Path) -> None:
    run = killed(tmp_path, 0.3)
    answer = memaudit("seal", run, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert any("ended the trace: interrupted after step" in line for line in lines)
    assert lines[-1] == f"next: memaudit verify {run}"
    again = memaudit("seal", run, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "closed" in again.stderr


def test_another_users_run_is_not_closed(tmp_path: Path) -> None:
    run = killed(tmp_path, 0.1)
    stranger = {"MEMAUDIT_HOME": str(tmp_path / "stranger")}
    without = memaudit("seal", run, cwd=tmp_path, **stranger)
    assert without.returncode == 2
    assert memaudit("key", "new", "--out", "other.pem", cwd=tmp_path, **stranger).returncode == 0
    other = memaudit("seal", run, "--key", "other.pem", cwd=tmp_path, **stranger)
    assert other.returncode == 2
    assert "another key" in other.stderr
    assert not (run / "manifest.json").exists()


def test_a_run_cut_back_to_a_seal_needs_its_own_key_and_is_never_a_whole_one(tmp_path: Path) -> None:
    run = recorded(tmp_path, "--epochs", "4")
    (run / "manifest.json").unlink()
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    (run / "trace.jsonl").write_bytes(b"".join(lines[:-3]))
    assert memaudit("seal", run, cwd=tmp_path).returncode == 0
    verdict = json.loads(memaudit("verify", run, "--json", cwd=tmp_path).stdout)
    assert "MA822" in {finding["code"] for finding in verdict["findings"]}


def test_a_training_that_goes_on_cannot_be_closed(tmp_path: Path) -> None:
    arguments = [sys.executable, str(TRAIN), "--epochs", "100000"]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        trace = tmp_path / "run" / "trace.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (trace.exists() and b'"step"' in trace.read_bytes()):
            time.sleep(0.01)
        answer = memaudit("seal", "run", cwd=tmp_path)
        assert answer.returncode == 2
        assert "still being recorded" in answer.stderr
        assert process.poll() is None
        process.kill()


def test_the_page_says_that_it_was_interrupted(tmp_path: Path) -> None:
    run = killed(tmp_path, 0.2)
    assert memaudit("seal", run, cwd=tmp_path).returncode == 0
    assert memaudit("report", run, "-o", "page.html", cwd=tmp_path).returncode == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "interrupted: it did not end by itself, and was closed later" in page
    assert "MA822" in page
