"""Whatever stops a recording, the training goes on; whatever stops the training, its record can be gone on with."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.evidence.run_view import RunView, Step
from auditor.evidence.verify import verify
from tests.support.continuation import ZOO, record
from tests.support.programs import memaudit

WORDS = ("--anchor-every", "2", "--epochs", "12")


def killed(cwd: Path, case: str, written: int, *words: str) -> bool:
    """Start a training that goes on where it was cut; kill it once its trace has grown; say whether it was killed."""
    trace = cwd / "run" / "trace.jsonl"
    before = trace.stat().st_size if trace.exists() else 0
    process = subprocess.Popen(
        [sys.executable, ZOO, "--case", case, "--resume", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if trace.exists() and trace.stat().st_size > before + written:
            break
        time.sleep(0.001)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode != 0


def kill_and_go_on(cwd: Path, case: str, kills: int, seed: int) -> None:
    """Kill one training again and again, and compare what it comes to with one that was left alone."""
    dice = random.Random(seed)
    whole = cwd / "whole"
    whole.mkdir()
    assert record(whole, case, *WORDS).returncode == 0
    done = 0
    while done < kills:
        attempt = cwd / f"attempt-{done}"
        attempt.mkdir()
        while done < kills and killed(attempt, case, dice.randrange(20_000), *WORDS):
            done += 1
            trace = attempt / "run" / "trace.jsonl"
            if not trace.exists() or b'"seal"' not in trace.read_bytes():
                break  # killed before there was anything to go on with
            verification = verify(attempt / "run")
            assert verification.exit_status == 4, verification.to_json()
            assert any("sealed" in claim.what for claim in verification.claims)
        else:
            if done == kills:
                last = record(attempt, case, "--resume", *WORDS)
                assert last.returncode == 0, last.stderr
            answer = verify(attempt / "run")
            assert answer.exit_status == 0, answer.to_json()
            assert digests(attempt / "run") == digests(whole / "run")


def digests(run: Path) -> list[tuple[object, ...]]:
    """Return all that the trace says of each step of the run's history."""

    def told(step: Step) -> tuple[object, ...]:
        return (step.step, step.ids, step.batch, step.loss, step.sources, step.streams)

    return [told(step) for step in RunView.open(run).steps()]


@pytest.mark.parametrize(("case", "seed"), [("plain-own", 1), ("persistent", 2)])
def test_a_training_killed_ten_times_ends_as_if_it_had_not_been(tmp_path: Path, case: str, seed: int) -> None:
    kill_and_go_on(tmp_path, case, 10, seed)


def test_a_full_disk_stops_the_recording_and_not_the_training(tmp_path: Path) -> None:
    on = record(tmp_path, "plain", "--disk", "12000", "--witness", "on")
    off = record(tmp_path, "plain", "--witness", "off", MEMAUDIT="off")
    assert on.returncode == off.returncode == 0, on.stderr
    assert on.stdout == off.stdout == "done\n"
    assert (tmp_path / "on").read_text() == (tmp_path / "off").read_text()
    assert re.search(r"recording stopped at step \d, the training goes on: .*File too large", on.stderr), on.stderr
    assert verify(tmp_path / "run").exit_status == 4


def test_a_folder_that_cannot_be_written_stops_the_recording_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "make = pathlib.Path.mkdir\n"
        "def mkdir(self, *args, **kwargs):\n"
        "    if 'step-000008' in self.name:\n"
        "        raise PermissionError(13, 'Permission denied', str(self))\n"
        "    make(self, *args, **kwargs)\n"
        "pathlib.Path.mkdir = mkdir\n"
    )
    process = record(tmp_path, "plain", PYTHONPATH=str(tmp_path))
    assert (process.returncode, process.stdout) == (0, "done\n")
    assert re.search(r"recording stopped at step (8|9|1\d), the training goes on: .*Permission denied", process.stderr)
    assert verify(tmp_path / "run").exit_status == 4


def test_only_the_newest_anchors_are_kept(tmp_path: Path) -> None:
    process = record(tmp_path, "plain", "--anchor-every", "3", "--keep-anchors", "2")
    assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "run" / "anchors").iterdir())) == 2
    answer = memaudit("verify", "run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert [anchor.step for anchor in RunView.open(tmp_path / "run").anchors] == [
        24,
        24,
    ]  # inside the last pass, and at the end
