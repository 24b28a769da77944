"""Each defect that a review found, by the name of what went wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.programs import TRAIN, memaudit, run

HEAD = """
import torch
from torch.utils.data import DataLoader, TensorDataset
import auditor

torch.set_num_threads(1)
torch.manual_seed(5)
data = TensorDataset(torch.arange(8.0).unsqueeze(1))
def loader(seed=1, **options):
    return DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(seed), **options)
"""
CONSUMED = """
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def train(run, batch):
    model(batch).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    run.step()
"""


def outputs(tmp_path: Path, body: str) -> list[str]:
    """What the program prints unrecorded; recorded, it must print the same and leave a run that verifies."""
    (tmp_path / "program.py").write_text(HEAD + CONSUMED + body)
    off = run(sys.executable, "program.py", cwd=tmp_path, MEMAUDIT="off")
    on = run(sys.executable, "program.py", cwd=tmp_path)
    assert off.returncode == on.returncode == 0, off.stderr + on.stderr
    assert on.stdout == off.stdout
    assert "recording stopped" not in on.stderr
    answer = memaudit("verify", "run", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout
    return on.stdout.splitlines()


def ids(tmp_path: Path) -> list[list[int]]:
    import numpy as np

    return [np.load(path).tolist() for path in sorted((tmp_path / "run" / "order").glob("*.npy"))]


def test_two_loaders_walked_side_by_side_gave_each_others_batches(tmp_path: Path) -> None:
    body = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for epoch in run.epochs(2):
        for (a,), (b,) in zip(run.batches(loader(1)), run.batches(loader(2))):
            print(a.flatten().tolist(), b.flatten().tolist())
            train(run, a + b)
"""
    assert len(outputs(tmp_path, body)) == 8


def test_a_pass_inside_a_pass_ended_the_training(tmp_path: Path) -> None:
    body = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for (a,) in run.batches(loader(1)):
        inner = [b.flatten().tolist() for (b,) in run.batches(loader(2))]
        print(a.flatten().tolist(), inner)
        train(run, a)
"""
    assert len(outputs(tmp_path, body)) == 4


def test_walking_the_same_loader_by_hand_corrupted_the_ids(tmp_path: Path) -> None:
    body = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    both = loader(1)
    for (a,) in run.batches(both):
        print(*(int(value) for value in a))
        next(iter(both))
        train(run, a)
"""
    consumed = [int(word) for line in outputs(tmp_path, body) for word in line.split()]
    assert ids(tmp_path) == [consumed]


def test_a_loader_that_gives_batches_twice_ended_the_training(tmp_path: Path) -> None:
    body = """
class Twice(DataLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch
            yield batch
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for (a,) in run.batches(Twice(data, batch_size=2)):
        print(a.flatten().tolist())
        train(run, a)
"""
    assert len(outputs(tmp_path, body)) == 8


def test_loaders_were_kept_alive(tmp_path: Path) -> None:
    body = """
import gc, weakref
seen = []
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for epoch in run.epochs(3):
        fresh = loader(epoch)
        seen.append(weakref.ref(fresh))
        for (a,) in run.batches(fresh):
            train(run, a)
        del fresh
    gc.collect()
    print([reference() is None for reference in seen])
"""
    assert outputs(tmp_path, body) == ["[True, True, True]"]


def test_passes_without_a_step_ended_the_recording(tmp_path: Path) -> None:
    body = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for _ in range(4):
        for (a,) in run.batches(loader(1)):
            pass
    for (a,) in run.batches(loader(1)):
        train(run, a)
"""
    outputs(tmp_path, body)


def test_buffers_added_after_watch_were_missed(tmp_path: Path) -> None:
    body = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    for (a,) in run.batches(loader(1)):
        train(run, a)
        model.register_buffer("late", torch.ones(1))
"""
    outputs(tmp_path, body)
    census = json.loads(memaudit("inspect", "run", "--json", cwd=tmp_path).stdout)
    assert "buffers" in [source["name"] for source in census["sources"]]


def test_a_module_that_counts_its_forwards_trained_differently(tmp_path: Path) -> None:
    body = """
class Counting(torch.nn.Linear):
    calls = 0
    def __init__(self):
        super().__init__(1, 1)
        self.calls = 0
    def forward(self, batch):
        self.calls += 1
        return super().forward(batch) * self.calls
model = Counting()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    run.probe(model, torch.ones(2, 1))
    for epoch in run.epochs(2):
        for (a,) in run.batches(loader(1)):
            train(run, a)
print(model.calls, model.weight.item())
"""
    outputs(tmp_path, body)


def test_a_probe_on_a_model_that_is_not_watched_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        HEAD + CONSUMED + "with auditor.record('run', seed=0) as run:\n"
        "    run.watch(model=model, optimizer=optimizer)\n"
        "    run.probe(torch.nn.Linear(1, 1), torch.ones(2, 1))\n"
        "    for (a,) in run.batches(loader(1)):\n"
        "        train(run, a)\n"
    )
    answer = run(sys.executable, "program.py", cwd=tmp_path)
    assert answer.returncode == 1
    assert "is not watched" in answer.stderr


REPLAYED = """
with auditor.record("run", seed=0) as run:
    run.watch(model=model, optimizer=optimizer)
    run.outcome("weight", lambda: model.weight)
    for epoch in run.epochs(3):
        BODY
"""


def replayed(tmp_path: Path, body: str, *words: object, head: str = HEAD, seed: str = "0") -> list[Path]:
    (tmp_path / "program.py").write_text(head + CONSUMED + REPLAYED.replace("BODY", body))
    answer = memaudit("record", "--out", "run", "--seed", seed, "--", sys.executable, "program.py", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    answer = memaudit("replay", "run", *words, "--seeds", 3, "--trust-code", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return list((tmp_path / "run-study" / "cells").iterdir())


def batches_by_unit(cells: list[Path], after: int) -> dict[int, list[str]]:
    found = {}
    for path in cells:
        cell = json.loads((path / "cell.json").read_text())
        if cell["arm"] == "carry" and not cell["repeat"]:
            events = [json.loads(line) for line in (path / "trace.jsonl").read_text().splitlines()]
            found[cell["unit"]] = [e["batch"] for e in events if e["event"] == "step" and e["step"] > after]
    return found


def test_persistent_workers_were_not_rekeyed(tmp_path: Path) -> None:
    head = HEAD.replace(
        "data = TensorDataset(torch.arange(8.0).unsqueeze(1))",
        "class Noisy(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, index): return (torch.rand(1),)\n"
        "data = Noisy()",
    )
    body = (
        "if epoch == 0: kept = DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)\n"
        "        for (a,) in run.batches(kept):\n            train(run, a)"
    )
    cells = replayed(tmp_path, body, "--at", 2, "--do", "optimizer=reset", "--horizon", 6, head=head)
    units = batches_by_unit(cells, after=2)
    assert len({tuple(batches) for batches in units.values()}) == 3


def test_a_loader_first_walked_after_the_fork_was_not_rekeyed(tmp_path: Path) -> None:
    body = "for (a,) in run.batches(loader(epoch)):\n            train(run, a)"
    cells = replayed(tmp_path, body, "--at", 2, "--do", "optimizer=reset", "--horizon", 6)
    units = batches_by_unit(cells, after=4)
    assert len({tuple(batches) for batches in units.values()}) == 3


def test_a_horizon_at_a_break_was_not_measured(tmp_path: Path) -> None:
    body = (
        "for place, (a,) in enumerate(run.batches(loader(1))):\n"
        "            train(run, a)\n"
        "            if place == 1: break"
    )
    replayed(tmp_path, body, "--at", 1, "--do", "optimizer=reset", "--horizon", 1, "--horizon", 3)
    for path in (tmp_path / "run-study" / "cells").iterdir():
        assert sorted(json.loads((path / "result.json").read_text())["horizons"]) == ["1", "3"]


def test_the_recorded_hash_seed_was_not_replayed(tmp_path: Path) -> None:
    head = HEAD + "names = {'alpha', 'beta', 'gamma', 'delta', 'epsilon'}\n"
    body = "for (a,) in run.batches(loader(1)):\n            train(run, a * [name for name in names].index('beta'))"
    replayed(tmp_path, body, "--at", 5, "--do", "optimizer=reset", "--horizon", 3, head=head, seed="3")


def test_a_changed_module_beside_the_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SCALE = 1.0\n")
    body = "for (a,) in run.batches(loader(1)):\n            train(run, a * SCALE)"
    words = ("--at", 5, "--do", "optimizer=reset", "--horizon", 3)
    replayed(tmp_path, body, *words, head=HEAD + "from helper import SCALE\n")
    (tmp_path / "helper.py").write_text("SCALE = -3.0\n")
    answer = memaudit("replay", "run", *words, "--out", "other", "--trust-code", cwd=tmp_path)
    assert answer.returncode == 2
    assert "helper.py" in answer.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--do", "optimizer=rest"), "optimizer=reset, optimizer=scale"),
        (("--do", "optimizer=reset,how=foo"), "it is one of clear, zero"),
        (("--do", "optimizer.momentum_bufer=reset"), "did you mean optimizer.momentum_buffer?"),
        (("--do", "optimizer=reset", "--do", "optimizer=reset,how=clear"), "two arms are the same"),
        (("--do", "optimizer=reset", "--out", "run/study"), "cannot lie inside its run"),
        (("--do", "optimizer=reset", "--out", "file"), "is a file"),
        (("--do", "optimizer=reset", "--horizon", "400"), "horizon of at most"),
    ],
)
def test_wrong_input_is_refused_before_any_cell_runs(recorded_once: Path, words: tuple[str, ...], said: str) -> None:
    (recorded_once / "file").write_text("x")
    answer = memaudit("replay", "run", "--at", 8, "--horizon", 3, "--trust-code", *words, cwd=recorded_once)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (recorded_once / "run-study" / "cells").exists()


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    assert memaudit("record", "--out", "run", "--", sys.executable, TRAIN, cwd=folder).returncode == 0
    return folder


def test_a_setting_that_is_no_number_is_named(tmp_path: Path) -> None:
    answer = run(sys.executable, TRAIN, cwd=tmp_path, MEMAUDIT_SEED="abc")
    assert answer.returncode == 1
    assert "MEMAUDIT_SEED" in answer.stderr.splitlines()[-2] + answer.stderr.splitlines()[-3]


def test_a_second_recording_in_one_program_goes_beside_the_first(tmp_path: Path) -> None:
    body = (
        "for name in ('a', 'b'):\n"
        "    with auditor.record(name, seed=0) as run:\n"
        "        run.watch(model=model, optimizer=optimizer)\n"
        "        for epoch in run.epochs(2):\n"
        "            for (a,) in run.batches(loader(1)):\n"
        "                train(run, a)\n"
    )
    (tmp_path / "program.py").write_text(HEAD + CONSUMED + body)
    answer = memaudit("record", "--out", "run", "--", sys.executable, "program.py", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert memaudit("verify", "run", cwd=tmp_path).returncode == 0
    assert memaudit("verify", "run-2", cwd=tmp_path).returncode == 0
    answer = memaudit(
        *("replay", "run-2", "--at", 3, "--do", "optimizer=reset", "--horizon", 2, "--trust-code"), cwd=tmp_path
    )
    assert answer.returncode == 4
    assert "can be entered" in answer.stderr
