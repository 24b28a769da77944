import hashlib
import random

import pytest
import torch

from auditor.recorder.reseeding import Reseeding
from auditor.state.streams import GeneratorStream, PythonStream


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def test_a_stream_that_goes_on_is_not_warned_about() -> None:
    found = Reseeding()
    for step in range(2000):
        assert not found.see("torch", digest(step), 7, f"step {step}", starts_pass=step % 3 == 0)
    assert found.warnings("torch") == found.warnings("never seen") == []
    assert found.first_seed("torch") == 7
    assert found.first_seed("never seen") is None


def test_a_torch_generator_that_is_seeded_again_says_so_itself() -> None:
    own = torch.Generator().manual_seed(1)
    stream, found = GeneratorStream("noise", own), Reseeding()

    def see(step: int) -> bool:
        return found.see(stream.name, stream.digest(), stream.initial_seed(), f"step {step}", starts_pass=False)

    assert not see(1)
    torch.rand(1, generator=own)
    assert not see(2)
    own.manual_seed(5)
    assert see(3)
    assert found.warnings("noise") == ["seeded again in the middle: with 5 where 1 was, seen at step 3"]
    own.manual_seed(6)
    assert not see(4), "it is known"
    assert found.warnings("noise")[0].endswith("seen at step 3, the first of 2 times")
    assert found.first_seed("noise") == 1


@pytest.mark.parametrize("late", [False, True], ids=["before_the_pass", "at_its_first_draw"])
def test_a_sampler_may_seed_its_generator_for_each_pass(late: bool) -> None:
    found = Reseeding()
    for epoch in range(3):
        seed = 100 + epoch - (late and epoch > 0)
        found.see("sampler", digest(2 * epoch), seed, f"the start of pass {epoch}", starts_pass=True)
        found.see("sampler", digest(2 * epoch + 1), 100 + epoch, f"step {epoch}", starts_pass=False)
    assert found.warnings("sampler") == []
    found.see("sampler", digest(9), 100 + epoch, "step 8", starts_pass=False)
    found.see("sampler", digest(10), 7, "step 9", starts_pass=False)
    assert found.warnings("sampler") == [
        "seeded again in the middle: with 7 where 102 was, seen at step 9, the first of 3 times"
    ]


def test_the_same_seed_for_every_pass_shows_in_the_state() -> None:
    stream, found = PythonStream("own", random.Random(0)), Reseeding()
    told = []
    for epoch in range(1, 4):
        stream.seed(0)
        told.append(found.see("own", stream.digest(), None, f"the start of pass {epoch}", starts_pass=True))
        stream.generator.random()
        found.see("own", stream.digest(), None, f"step {epoch}", starts_pass=False)
    assert told == [False, True, False]
    assert found.warnings("own") == [
        "at the start of pass 2 it stood again where it stood at the start of pass 1, the first of 2 times: the same "
        "numbers are drawn again"
    ]


def test_a_stream_that_nobody_draws_from_repeats_nothing() -> None:
    found = Reseeding()
    for epoch in range(5):
        found.see("python", digest(0), None, f"pass {epoch}", starts_pass=True)
        found.see("python", digest(0), None, "a step", starts_pass=False)
    assert found.warnings("python") == []


def test_memory_is_bounded_and_the_first_pass_is_never_forgotten() -> None:
    found = Reseeding()
    for epoch in range(1000):
        found.see("torch", digest(epoch), 0, f"pass {epoch}", starts_pass=True)
    assert len(found._seen["torch"].starts) == 256
    assert found.see("torch", digest(0), 0, "pass 1000", starts_pass=True)
    assert "pass 1000 it stood again where it stood at pass 0" in found.warnings("torch")[0]
