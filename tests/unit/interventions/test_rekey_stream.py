"""Re-keying one stream: it starts where it should, and every other one goes on bit for bit."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.interventions.intervention import Branch
from auditor.state.census import Watched
from auditor.state.streams import Stream, derive_seed
from tests.support.intervene import intervene, watching


class Policy:
    """An augmentation that holds a generator of its own: part of its state, and a stream."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.level = 1


@pytest.fixture
def branch() -> Iterator[tuple[Watched, Branch, list[list[Stream]]]]:
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    model = nn.Linear(2, 2)
    watched = watching(model=model, augment=Policy(), noise=torch.Generator().manual_seed(5))
    redrawn: list[list[Stream]] = []

    def redraw(streams: list[Stream]) -> str:
        redrawn.append(streams)
        return "what was done"

    yield watched, Branch(watched, "0/3", streams=watched.streams, redraw=redraw), redrawn
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


Fixture = tuple[Watched, Branch, list[list[Stream]]]


def states(watched: Watched) -> dict[str, bytes]:
    return {stream.name: stream.read().digest() for stream in watched.streams()}


def fresh(name: str, seed: int) -> Any:
    """Draw three numbers as a new generator of that kind and seed does."""
    if name == "python":
        return [random.Random(seed).random() for _ in range(1)]
    if name == "numpy":
        return np.random.RandomState(seed & 0xFFFFFFFF).random(3).tolist()
    if name == "augment.rng":
        return np.random.default_rng(seed).random(3).tolist()
    return torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()


def drawn(watched: Watched, name: str) -> Any:
    if name == "python":
        return [random.random()]
    if name == "numpy":
        return np.random.random(3).tolist()
    if name == "augment.rng":
        return watched.objects["augment"].rng.random(3).tolist()
    return torch.rand(3, generator=watched.objects["noise"] if name == "noise" else None).tolist()


@pytest.mark.parametrize("name", ["python", "numpy", "torch", "noise", "augment.rng"])
def test_one_stream_starts_from_the_units_own_seed_and_the_others_go_on(branch: Fixture, name: str) -> None:
    watched, own, redrawn = branch
    before = states(watched)
    # A policy's state holds its generator: by nature it changes along.
    also = frozenset({"augment"} if name == "augment.rng" else ())
    _, receipt = intervene(watched, f"stream.{name}", "rekey", own, also)
    after = states(watched)
    assert {each for each in before if before[each] != after[each]} == {name}
    assert receipt["applied"] is True
    assert receipt["reason"] == "what was done"
    assert receipt["digest_before"].keys() == {f"stream.{name}"}
    assert [stream.name for stream in redrawn[0]] == [name]
    assert drawn(watched, name) == fresh(name, derive_seed("0/3/rekey", name))


def test_all_streams_are_rekeyed_as_each_alone(branch: Fixture) -> None:
    watched, own, _ = branch
    _, receipt = intervene(watched, "stream", "rekey", own, frozenset({"augment"}))
    names = [stream.name for stream in watched.streams()]
    assert receipt["digest_before"].keys() == {f"stream.{name}" for name in names}
    assert {"python", "numpy", "torch", "noise", "augment.rng"} <= set(names)
    for name in names:
        assert drawn(watched, name) == fresh(name, derive_seed("0/3/rekey", name))


def test_units_and_steps_differ(branch: Fixture) -> None:
    watched, _, _ = branch
    found = []
    for key, more in (("0/3", {}), ("0/4", {}), ("0/3", {"at": 9})):
        own = Branch(watched, key, streams=watched.streams)
        intervene(watched, "stream.torch", "rekey", own, **more)
        found.append(torch.rand(1).item())
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("loader", "there is no stream.loader at this step; there are: stream.python, stream.numpy, stream.torch"),
        ("loader.worker0", "begins anew with its worker, from the loader's base seed; re-key the stream that this is"),
    ],
)
def test_a_stream_that_is_not_there_is_not_applied(branch: Fixture, name: str, reason: str) -> None:
    watched, own, redrawn = branch
    before = states(watched)
    _, receipt = intervene(watched, f"stream.{name}", "rekey", own)
    assert reason in receipt["reason"]
    assert states(watched) == before
    assert not redrawn


def test_the_same_seed_again_is_not_applied(branch: Fixture) -> None:
    watched, own, _ = branch
    intervene(watched, "stream.torch", "rekey", own)
    _, receipt = intervene(watched, "stream.torch", "rekey", own)
    assert receipt["reason"] == "stream.torch already was as rekey makes it"
