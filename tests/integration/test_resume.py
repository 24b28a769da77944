"""Recordings that go on after a cut: from an anchor, or from where the program's own checkpoint stands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from auditor.evidence.run_view import RunView
from tests.support.continuation import record
from tests.support.programs import memaudit, run

# Ten batches a pass; a checkpoint of its own after each step. `mode`: how the rest of the pass is found again.
PROGRAM = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset
import auditor

mode, die_at = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
data = TensorDataset(torch.arange(40.0).unsqueeze(1))
with auditor.record("run", seed=0, resume="program") as recorded:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    recorded.watch(model=model, optimizer=optimizer)
    step, skip = 0, 0
    if os.path.exists("checkpoint.pt"):
        saved = torch.load("checkpoint.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        if mode != "silent":
            recorded.resumed(step)
        skip = step % 10
    while step < 20:
        torch.manual_seed(step // 10 if mode == "skip" else 77 + step)
        loader = DataLoader(data, batch_size=4, shuffle=True)
        if mode == "skip" and skip:
            batches = list(loader)[skip:]  # its own way of going on: the same order, what was consumed left out
            order = torch.cat([batch[0].flatten().long() for batch in batches]).tolist()
            loader = DataLoader(data, batch_size=4, sampler=order)
        skip = 0
        for (batch,) in recorded.batches(loader):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            recorded.step()
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, "checkpoint.pt")
            if step == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
"""


def resumed_passes(cwd: Path) -> list[dict[str, object]]:
    return [event["resumed"] for event in RunView.open(cwd / "run").passes() if "resumed" in event]


@pytest.mark.parametrize(
    ("mode", "repeated"),
    [("skip", 0), ("anew", 24)],
    ids=["skips what was consumed", "begins the pass anew"],
)
def test_a_program_with_checkpoints_of_its_own_is_told_what_it_repeated(
    tmp_path: Path, mode: str, repeated: int
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run(sys.executable, "program.py", mode, "16", cwd=tmp_path).returncode == -9
    (tmp_path / "program.py").read_text()
    again = run(sys.executable, "program.py", mode, "0", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "other arguments than before the cut" in again.stderr
    (told,) = resumed_passes(tmp_path)
    assert (told["position"], told["repeated"]) == (6, repeated)
    answer = memaudit("verify", "run", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout
    findings = {finding["code"]: finding["message"] for finding in json.loads(answer.stdout)["findings"]}
    assert f"{repeated} samples were repeated" in findings["MA823"]


def test_a_pass_that_the_program_left_is_over_and_an_evaluation_takes_nobodys_place(tmp_path: Path) -> None:
    """Passes of four of six batches, a checkpoint after each; an evaluation first, before and after the cut."""
    program = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, TensorDataset
import auditor
data, held_out = TensorDataset(torch.arange(24.0).unsqueeze(1)), TensorDataset(torch.arange(8.0).unsqueeze(1))
with auditor.record("run", seed=0, resume="program") as recorded:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    recorded.watch(model=model, optimizer=optimizer)
    done = 0
    if os.path.exists("done"):
        done = int(open("done").read())
        recorded.resumed(4 * done)
    for _ in recorded.batches(DataLoader(held_out, 4)):
        pass
    for epoch in range(done, 3):
        for place, (batch,) in enumerate(recorded.batches(DataLoader(data, 4, shuffle=True))):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            recorded.step()
            if os.environ.get("DIE") and epoch == 1 and place == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if place == 3:
                break
        open("done", "w").write(str(epoch + 1))
"""
    (tmp_path / "program.py").write_text(program)
    assert run(sys.executable, "program.py", cwd=tmp_path, DIE="1").returncode == -9
    again = run(sys.executable, "program.py", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert resumed_passes(tmp_path) == []
    assert memaudit("verify", "run", cwd=tmp_path).returncode == 0


def test_a_program_that_does_not_say_where_it_goes_on_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run(sys.executable, "program.py", "silent", "6", cwd=tmp_path).returncode == -9
    again = run(sys.executable, "program.py", "silent", "0", cwd=tmp_path)
    assert again.returncode != 0
    assert "call run.resumed(step) before the loop" in again.stderr
    assert memaudit("verify", "run", cwd=tmp_path).returncode == 4


def test_a_finished_run_cannot_go_on(tmp_path: Path) -> None:
    assert record(tmp_path, "plain", "--epochs", "1").returncode == 0
    before = (tmp_path / "run" / "trace.jsonl").read_bytes()
    again = record(tmp_path, "plain", "--epochs", "1", "--resume")
    assert again.returncode != 0
    assert "closed already" in again.stderr or "finished" in again.stderr
    assert (tmp_path / "run" / "trace.jsonl").read_bytes() == before


def test_another_programs_or_seeds_run_does_not_go_on(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run(sys.executable, "program.py", "skip", "6", cwd=tmp_path).returncode == -9
    before = (tmp_path / "run" / "trace.jsonl").read_bytes()
    again = run(sys.executable, "program.py", "skip", "0", cwd=tmp_path, MEMAUDIT_SEED="5")
    assert again.returncode != 0
    assert "its seed is another one" in again.stderr
    (tmp_path / "program.py").write_text(PROGRAM + "\n# changed\n")
    again = run(sys.executable, "program.py", "skip", "0", cwd=tmp_path)
    assert again.returncode != 0
    assert "its program is another one" in again.stderr
    assert (tmp_path / "run" / "trace.jsonl").read_bytes() == before


def test_the_command_goes_on_with_a_run(tmp_path: Path) -> None:
    """Killed by itself in the middle of the second pass; `memaudit record --resume` ends on the bits of a whole run."""
    body = (Path(__file__).parents[1] / "support" / "train.py").read_text()
    counts = "                step += 1\n"
    dies = "                import os; os.environ.get('DIE') == str(step) and os.kill(os.getpid(), 9)\n"
    (tmp_path / "train.py").write_text(body.replace(counts, counts + dies))
    words = ("--seed", "3", "--anchor-every", "2", "--", sys.executable, "train.py")
    assert memaudit("record", "--out", "whole", *words, cwd=tmp_path).returncode == 0
    assert memaudit("record", "--out", "cut", *words, cwd=tmp_path, DIE="9").returncode == 137
    answer = memaudit("record", "--out", "cut", "--resume", *words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"going on after step [68] of [89], from anchors/step-00000[68]", answer.stderr), answer.stderr
    whole, cut = (list(RunView.open(tmp_path / name).steps()) for name in ("whole", "cut"))
    assert [(step.sources, step.streams, step.ids) for step in whole] == [
        (step.sources, step.streams, step.ids) for step in cut
    ]
    assert memaudit("verify", "cut", cwd=tmp_path).returncode == 0
