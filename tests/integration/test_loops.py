"""Programs with loops of every kind, each named after what once went wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from auditor.evidence.run_view import RunView
from auditor.evidence.verify import verify
from tests.support.continuation import enterable, go_on, start
from tests.support.programs import run

HEAD = """
import os, random, signal, sys, threading
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler
import auditor

torch.set_num_threads(1)

class Data(Dataset):
    def __init__(self, size=24, seed=0):
        self.inputs = torch.randn(size, 5, generator=torch.Generator().manual_seed(seed))
        self.targets = (self.inputs[:, 0] > 0).long()
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        return self.inputs[index] + 0.1 * torch.randn(5) + 0.1 * random.random(), self.targets[index]

class Training:
    def __init__(self, recorded):
        self.recorded = recorded
        self.model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        recorded.watch(model=self.model, optimizer=self.optimizer)
    def step(self, batch):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        self.recorded.step(loss=loss)
    def evaluate(self, loader):
        self.model.eval()
        with torch.no_grad():
            for batch in self.recorded.batches(loader):
                self.model(batch[0])
        self.model.train()
    def say(self):
        print(sum(value.double().sum().item() for value in self.model.state_dict().values()), random.random())

with auditor.record("run", seed=0, anchor_every=3) as recorded:
    training = Training(recorded)
    train, held_out = DataLoader(Data(), 4, shuffle=True), DataLoader(Data(8, 1), 4)
"""

CONTINUED = {
    "an evaluation before the first epoch took the anchor's place": """
    training.evaluate(held_out)
    for epoch in recorded.epochs(3):
        for batch in recorded.batches(train):
            training.step(batch)
        training.evaluate(held_out)
    training.say()
""",
    "where one of two passes was over the other one never came": """
    other = DataLoader(Data(40, 2), 4, shuffle=True)
    for epoch in recorded.epochs(3):
        for batch, _ in zip(recorded.batches(train), recorded.batches(other)):
            training.step(batch)
    training.say()
""",
    "a second loop over epochs was taken for the first": """
    for epoch in recorded.epochs(2):
        for batch in recorded.batches(train):
            training.step(batch)
    for epoch in recorded.epochs(2):
        for batch in recorded.batches(held_out):
            training.step(batch)
    training.say()
""",
    "a warm-up loop left by break never ended": """
    batches = iter(train)
    for index in recorded.steps(9):
        recorded.batch(content=(batch := next(batches)))
        training.step(batch)
        if index == 4:
            break
    for epoch in recorded.epochs(2):
        for batch in recorded.batches(train):
            training.step(batch)
    training.say()
""",
    "loops over steps inside epochs": """
    for epoch in recorded.epochs(3):
        for index in recorded.steps(5):
            batch = next(iter(train))
            recorded.batch(content=batch)
            training.step(batch)
            if epoch == 1 and index == 3:
                break
    training.say()
""",
}

RECORDED = {
    "the script was edited while it ran": """
    open(__file__, "a").write("# changed")
    for batch in recorded.batches(train):
        training.step(batch)
    training.say()
""",
    "the program went to another directory": """
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    for batch in recorded.batches(train):
        training.step(batch)
    training.say()
""",
    "a child process ended the run": """
    for place, batch in enumerate(recorded.batches(train)):
        training.step(batch)
        if place == 2:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
    training.say()
""",
    "a pass left lying about was ended by a loader worker": """
    class Holder: pass
    holder = Holder()
    holder.itself = holder
    holder.batches = recorded.batches(train)
    training.step(next(holder.batches))
    del holder
    class Collecting(Data):
        def __getitem__(self, index):
            import gc
            gc.collect()
            return super().__getitem__(index)
    for batch in recorded.batches(DataLoader(Collecting(), 4, num_workers=1)):
        training.step(batch)
    training.say()
""",
    "the batch sampler was a property": """
    class Own(DataLoader):
        def _set(self, value):
            self.__dict__["kept"] = value
        batch_sampler = property(lambda self: self.__dict__["kept"], _set)
    for batch in recorded.batches(Own(Data(), 4, shuffle=True)):
        training.step(batch)
    training.say()
""",
    "the data set had no length to ask for": """
    class Endless(Data):
        def __len__(self):
            raise RuntimeError("ask somebody else")
    for batch in recorded.batches(DataLoader(Endless(), batch_sampler=[[0, 1], [2, 3], [4, 5]])):
        training.step(batch)
    training.say()
""",
    "the program ended itself well": """
    for place, batch in enumerate(recorded.batches(train)):
        training.step(batch)
        if place == 3:
            training.say()
            sys.exit(0)
""",
    "a pass was walked after the end": """
    for batch in recorded.batches(train):
        training.step(batch)
for batch in recorded.batches(train):
    training.model(batch[0])
training.say()
""",
    "another thread drew ahead": """
    import queue
    drawn = queue.Queue(maxsize=2)
    def draw():
        for batch in recorded.batches(train):
            drawn.put(batch)
        drawn.put(None)
    thread = threading.Thread(target=draw)
    thread.start()
    while (batch := drawn.get()) is not None:
        recorded.step()
    thread.join()
""",
}


def same(tmp_path: Path, body: str) -> str:
    """Run a program unrecorded and recorded; both must print the same and end alike. Return what recording told."""
    (tmp_path / "program.py").write_text(HEAD + body)
    (tmp_path / "off").mkdir()
    off = start(tmp_path / "off", [str(tmp_path / "program.py")], MEMAUDIT="off")
    (tmp_path / "program.py").write_text(HEAD + body)
    on = start(tmp_path, ["program.py"])
    assert (on.returncode, on.stdout) == (off.returncode, off.stdout), off.stderr + on.stderr
    assert on.returncode == 0, on.stderr
    return on.stderr


@pytest.mark.parametrize("body", CONTINUED.values(), ids=CONTINUED.keys())
def test_it_is_recorded_and_goes_on_from_its_anchors(tmp_path: Path, body: str) -> None:
    assert "recording stopped" not in same(tmp_path, body)
    assert verify(tmp_path / "run").exit_status == 0
    anchors = [anchor for anchor in enterable(tmp_path / "run") if anchor["step"]]
    assert len(anchors) >= 3
    for anchor in (anchors[len(anchors) // 3], anchors[-1]):
        assert go_on(tmp_path, ["program.py"], anchor) is None, anchor


@pytest.mark.parametrize("body", RECORDED.values(), ids=RECORDED.keys())
def test_it_is_recorded_and_verifies(tmp_path: Path, body: str) -> None:
    told = same(tmp_path, body)
    assert "recording stopped" not in told
    answer = verify(tmp_path / "run")
    assert answer.exit_status == 0, answer.to_json()
    if "threading.Thread" in body:
        assert "another thread drew the batches" in told
        assert all(step.ids is None for step in RunView.open(tmp_path / "run").steps())


def test_a_sampler_that_came_to_hold_what_cannot_be_written_stops_the_recording_alone(tmp_path: Path) -> None:
    body = """
    class Keeping(Sampler):
        def __iter__(self):
            self.kept = iter(range(24))
            return self.kept
        def __len__(self):
            return 24
    sampler = Keeping()
    recorded.watch(sampler=sampler)
    for epoch in recorded.epochs(2):
        for batch in recorded.batches(DataLoader(Data(), 4, sampler=sampler)):
            training.step(batch)
    training.say()
"""
    told = same(tmp_path, body)
    assert told.count("recording stopped") == 1
    assert verify(tmp_path / "run").exit_status == 4


@pytest.mark.parametrize("seconds", [0.12, 0.2, 0.31])
def test_an_interrupt_never_leaves_a_record_that_contradicts_itself(tmp_path: Path, seconds: float) -> None:
    body = f"""
    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, {seconds})
    for epoch in recorded.epochs(1000):
        for batch in recorded.batches(train):
            training.step(batch)
"""
    (tmp_path / "program.py").write_text(HEAD + body)
    process = run(sys.executable, "program.py", cwd=tmp_path)
    assert process.returncode == -2 or "KeyboardInterrupt" in process.stderr
    assert verify(tmp_path / "run").exit_status in (0, 4)
