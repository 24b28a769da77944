"""One stream re-keyed in real cells: what it feeds is drawn anew, and all that it does not feed stays bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from auditor.evidence.run_view import Step
from tests.integration.test_replay import cells, steps_of
from tests.support.programs import memaudit

PROGRAM = """
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

import auditor

workers, persistent, own = int(sys.argv[1]), sys.argv[2] == "persistent", sys.argv[3] == "own"
torch.set_num_threads(1)


class Noisy(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item(), np.random.random()])


with auditor.record("run", seed=3) as run:
    data = Noisy()
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(9) if own else None)
    loader = DataLoader(data, batch_size=4, sampler=sampler, num_workers=workers, persistent_workers=persistent)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run.watch(model=model, optimizer=optimizer)
    run.outcome("weight", lambda: model.weight.sum())
    for epoch in run.epochs(3):
        for batch in run.batches(loader):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
"""

Steps = dict[int, Step]


def replayed(path: Path, words: list[str], *replay: object) -> dict[str, tuple[Steps, list[dict[str, Any]]]]:
    """Record, replay for two units, and return the first unit's steps and receipts by arm."""
    (path / "train.py").write_text(PROGRAM)
    answer = memaudit("record", "--out", "run", "--", sys.executable, "train.py", *words, cwd=path)
    assert answer.returncode == 0, answer.stderr
    answer = memaudit("replay", "run", *replay, "--seeds", 2, "--out", "study", "--trust-code", "--json", cwd=path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(answer.stdout)["forks"][0]["gate"]["verdict"] == "passed"
    found = {}
    for (arm, unit, repeat), cell in cells(path / "study").items():
        if (unit, repeat) == (0, 0):
            steps = {step.step: step for step in steps_of(cell)}
            found[arm] = steps, json.loads((cell / "result.json").read_text())["receipts"]
    return found


def differing(one: Step, two: Step) -> set[str]:
    streams = {name for name in one.streams if one.streams[name] != two.streams[name]}
    return streams | {name for name in ("ids", "batch") if getattr(one, name) != getattr(two, name)}


# A pass has six batches; the fork lies inside the second one, at its third.
FORK, LAST = 9, 15


WORKERS = {"loader.worker0", "loader.worker1"}


@pytest.fixture(scope="module")
def with_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Steps, list[dict[str, Any]]]]:
    """Two workers, started anew in each pass; the sampler draws from a generator of its own."""
    names = ("stream.sampler", "stream.torch", "stream", "stream.loader.worker0")
    do = [word for name in names for word in ("--do", f"{name}=rekey")]
    path = tmp_path_factory.mktemp("workers")
    return replayed(path, ["2", "fresh", "own"], "--at", FORK, *do, "--horizon", LAST - FORK)


Arms = dict[str, tuple[Steps, list[dict[str, Any]]]]


def sampler_alone(arms: Arms, streams: set[str]) -> None:
    control, _ = arms["carry"]
    steps, (receipt,) = arms["stream.sampler=rekey"]
    assert receipt["applied"] is True
    assert receipt["reason"] == "the order of what is left of pass 2 is drawn anew"
    assert receipt["digest_before"].keys() == {"stream.sampler"}
    assert steps[FORK] == control[FORK]
    assert all(differing(steps[n], control[n]) == {"sampler", "ids", "batch"} for n in range(FORK + 1, LAST + 1))
    assert control[LAST].streams.keys() == {"python", "numpy", "torch", "sampler"} | streams


def test_the_samplers_stream_draws_the_order_anew_and_nothing_else(with_workers: Arms, tmp_path: Path) -> None:
    sampler_alone(with_workers, WORKERS)
    words = ["--at", FORK, "--do", "stream.sampler=rekey", "--horizon", LAST - FORK]
    sampler_alone(replayed(tmp_path, ["0", "fresh", "own"], *words), set())


def test_what_workers_draw_goes_on_until_they_are_started_anew(with_workers: Arms) -> None:
    control, _ = with_workers["carry"]
    steps, (receipt,) = with_workers["stream.torch=rekey"]
    assert receipt["reason"] == "the order of pass 2 stays: it does not come from this stream"
    assert all(differing(steps[n], control[n]) == {"torch"} for n in range(FORK + 1, 13))
    # The third pass: new workers take their seeds from torch's stream.
    assert differing(steps[LAST], control[LAST]) == {"torch", "batch"} | WORKERS


def test_all_streams_rekeyed_are_another_unit(with_workers: Arms) -> None:
    control, _ = with_workers["carry"]
    steps, (receipt,) = with_workers["stream=rekey"]
    streams = {"python", "numpy", "torch", "sampler"}
    assert receipt["digest_before"].keys() == {f"stream.{name}" for name in streams}
    assert differing(steps[LAST], control[LAST]) == streams | WORKERS | {"ids", "batch"}
    untouched, (refused,) = with_workers["stream.loader.worker0=rekey"]
    assert refused["applied"] is False
    assert "from the loader's base seed" in refused["reason"]
    assert untouched == control


def test_torchs_stream_draws_the_order_anew_where_the_sampler_has_none_of_its_own(tmp_path: Path) -> None:
    """A defect: a worker that had given no batch since the fork began with another seed."""
    at = FORK + 1
    do = f"stream.torch=rekey,at={at}"
    arms = replayed(tmp_path, ["2", "fresh", "shared"], *("--at", FORK, "--do", do, "--horizon", 12 - FORK))
    control, _ = arms["carry"]
    steps, (receipt,) = arms[do]
    assert (receipt["at"], receipt["applied"]) == (at, True)
    assert steps[at] == control[at]
    # Each worker goes on with its own stream, and its turn: the draws stay, the samples are others.
    assert all(differing(steps[n], control[n]) == {"torch", "ids", "batch"} for n in range(at + 1, 13))


def test_persistent_workers_of_two_units_draw_differently_after_a_fork_at_a_passs_start(tmp_path: Path) -> None:
    """A defect: workers to be started at the fork took their seeds from the streams of their recorded start."""
    do = "stream.torch=rekey"
    arms = replayed(tmp_path, ["2", "persistent", "own"], "--at", 6, "--do", do, "--horizon", 8)
    control, _ = arms["carry"]
    steps, (receipt,) = arms[do]
    assert receipt["reason"] is None
    # Workers are started right after the fork, with seeds from the re-keyed stream, and live on.
    assert all(differing(steps[n], control[n]) >= {"torch", "batch"} for n in range(7, 15))
    assert differing(steps[14], control[14]) == {"torch", "batch"} | WORKERS
    other = {step.step: step for step in steps_of(cells(tmp_path / "study")["carry", 1, 0])}
    assert differing(other[14], control[14]) >= WORKERS
