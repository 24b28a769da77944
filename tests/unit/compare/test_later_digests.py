import itertools
import platform
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.digest import digest_text, source_digest, tensor_digest
from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.draws import draws_between
from auditor.compare.generator_state import MersenneTwister, read_state
from auditor.compare.later_digests import (
    TRIED_DRAWS,
    _twister_steps,
    draws_to_digest,
    numpy_normal,
    python_normal,
    torch_normal,
)
from auditor.evidence.run_view import RunView
from auditor.state.streams import NumpyStream
from tests.support.programs import train
from tests.unit.compare.generator_support import (
    CALLS,
    MAKERS,
    TWISTERS,
    Stored,
    numpy_generator,
    numpy_stream,
    python_stream,
    skip,
    state_of,
    stored,
    text_of,
    torch_stream,
)

SEEDS = st.integers(0, 2**32 - 1)

# NumPy's sum of two squares is rounded twice where it was not compiled to fused multiply-adds.
ROUNDED_TWICE = platform.machine() in {"x86_64", "AMD64"}

# After these the stream stores nothing but its place that was not stored before.
PLAIN_CALLS = {
    "torch": ["rand", "rand64", "randint", "long randint", "randn", "dropout", "randperm", "bernoulli", "exponential"],
    "python": ["random", "randrange", "shuffle", "choices", "normalvariate"],
    "numpy": ["rand", "randint", "permutation", "choice"],
    "MT19937": ["random", "integers", "one integer", "normal", "permutation", "float32"],
    "PCG64": ["random", "normal"],
    "PCG64DXSM": ["random", "normal"],
}
# These make two numbers, hand out one and store the other; handed out, it is gone.
CACHING_CALLS = {
    "torch": lambda g: torch.randn(1, generator=g),
    "python": lambda g: g.gauss(0.0, 1.0),
    "numpy": lambda g: g.randn(),
    "PCG64": lambda g: g.integers(100, dtype=np.int32),
    "PCG64DXSM": lambda g: g.integers(100, dtype=np.int32),
}


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, before=st.integers(0, 1300), data=st.data())
def test_the_digest_after_real_calls_is_found_and_agrees_with_the_states(
    kind: str, seed: int, before: int, data: st.DataObject
) -> None:
    stream = MAKERS[kind](seed)
    skip(kind, stream.generator, before)
    anchor = stored(stream)
    for name in data.draw(st.lists(st.sampled_from(PLAIN_CALLS[kind]), max_size=6)):
        CALLS[kind][name](stream.generator)
    draws = draws_to_digest(*anchor, text_of(stream))
    assert draws is not None
    assert draws == draws_between(read_state(*anchor), state_of(stream))


@pytest.mark.parametrize("kind", MAKERS)
def test_every_draw_over_a_block_and_more_has_its_digest(kind: str) -> None:
    stream = MAKERS[kind](3)
    anchor = stored(stream)
    for draws in range(1300):
        if draws % 50 < 2 or draws % 624 in (0, 1, 623):
            assert draws_to_digest(*anchor, text_of(stream)) == draws
        skip(kind, stream.generator, 1)


def test_a_state_that_stands_at_the_start_of_a_block_goes_on_too() -> None:
    # No generator comes to position 0 by drawing, and each takes such a state.
    stream = numpy_stream(1)
    stream.generator.random_sample()
    raw: Any = stream.generator.get_state(legacy=False)
    raw["state"]["pos"] = 0
    stream.generator.set_state(raw)
    anchor = stored(stream)
    assert draws_to_digest(*anchor, text_of(stream)) == 0
    for draws in (623, 624, 625):
        stream.generator.set_state(raw)
        skip("numpy", stream.generator, draws)
        assert draws_to_digest(*anchor, text_of(stream)) == draws


@pytest.mark.parametrize("kind", MAKERS)
def test_the_limit_is_the_last_draw_tried(kind: str) -> None:
    stream = MAKERS[kind](3)
    anchor = stored(stream)
    start = text_of(stream)
    skip(kind, stream.generator, 40)
    assert draws_to_digest(*anchor, text_of(stream), limit=40) == 40
    assert draws_to_digest(*anchor, text_of(stream), limit=39) is None
    assert draws_to_digest(*anchor, start, limit=0) == 0
    assert draws_to_digest(*anchor, start, limit=-7) is None


@pytest.mark.parametrize("kind", MAKERS)
def test_the_default_limit_is_a_hundred_thousand_draws_and_other_seeds_are_not_found(kind: str) -> None:
    stream = MAKERS[kind](3)
    anchor = stored(stream)
    skip(kind, stream.generator, TRIED_DRAWS)
    assert draws_to_digest(*anchor, text_of(stream)) == TRIED_DRAWS
    skip(kind, stream.generator, 1)
    assert draws_to_digest(*anchor, text_of(stream)) is None
    assert draws_to_digest(*anchor, text_of(MAKERS[kind](4)), limit=2000) is None


def cached(kind: str, seed: int = 5) -> Any:
    stream = MAKERS[kind](seed)
    CACHING_CALLS[kind](stream.generator)
    return stream


@pytest.mark.parametrize("kind", CACHING_CALLS)
def test_what_waits_at_the_anchor_may_be_kept_or_handed_out(kind: str) -> None:
    stream = cached(kind)
    anchor = stored(stream)
    skip(kind, stream.generator, 700)
    assert draws_to_digest(*anchor, text_of(stream)) == 700
    CACHING_CALLS[kind](stream.generator)
    assert draws_to_digest(*anchor, text_of(stream)) == 700
    skip(kind, stream.generator, 3)
    assert draws_to_digest(*anchor, text_of(stream)) == 703

    stream = cached(kind)
    CACHING_CALLS[kind](stream.generator)
    assert draws_to_digest(*anchor, text_of(stream)) == 0


@pytest.mark.parametrize("kind", [kind for kind in CACHING_CALLS if kind != "numpy" or ROUNDED_TWICE])
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, before=st.integers(0, 1300), odd=st.booleans(), calls=st.integers(6, 8))
def test_what_the_last_draws_stored_is_made_again(kind: str, seed: int, before: int, odd: bool, calls: int) -> None:
    stream = MAKERS[kind](seed)
    if odd:
        CACHING_CALLS[kind](stream.generator)
    anchor = stored(stream)
    skip(kind, stream.generator, before)
    for _ in range(calls):
        CACHING_CALLS[kind](stream.generator)
    digest = text_of(stream)
    draws = draws_between(read_state(*anchor), state_of(stream))
    assert draws is not None
    assert draws >= before + 3
    assert draws_to_digest(*anchor, digest) == draws


@pytest.mark.parametrize("kind", ["torch", "python"])
@pytest.mark.parametrize("before", range(620, 625))
def test_a_normal_made_across_the_border_of_two_blocks_is_made_again(kind: str, before: int) -> None:
    stream = MAKERS[kind](5)
    anchor = stored(stream)
    skip(kind, stream.generator, before)
    CACHING_CALLS[kind](stream.generator)
    assert draws_to_digest(*anchor, text_of(stream), limit=2000) == before + 4


def last_four(state: Any) -> list[tuple[int, int, int, int]]:
    assert isinstance(state, MersenneTwister)
    return [last for _, _, last in itertools.islice(_twister_steps(state), 60) if last is not None]


@settings(deadline=None)
@given(seed=SEEDS)
def test_normals_are_made_as_torch_and_python_make_them(seed: int) -> None:
    for make, normal in ((torch_stream, torch_normal), (python_stream, python_normal)):
        stream = make(seed)
        four = last_four(state_of(stream))[0]
        stream.generator.gauss(0, 1) if make is python_stream else torch.randn(1, generator=stream.generator)
        assert state_of(stream).normals == (normal(*four),)


@pytest.mark.skipif(not ROUNDED_TWICE, reason="NumPy is compiled to fused multiply-adds here")
@settings(deadline=None)
@given(seed=SEEDS)
def test_normals_are_made_as_numpy_makes_them(seed: int) -> None:
    stream = numpy_stream(seed)
    four = last_four(state_of(stream))[::4]
    stream.generator.randn()
    assert state_of(stream).normals == (next(made for made in (numpy_normal(*each) for each in four) if made),)


def test_draws_that_numpy_throws_away_leave_no_normal() -> None:
    ones = 2**32 - 1
    assert numpy_normal(ones, ones, ones, ones) is None
    assert numpy_normal(2**31, 0, 2**31, 0) is None


def test_a_normal_stored_some_draws_before_is_not_found_and_said_so() -> None:
    stream = torch_stream(5)
    anchor = stored(stream)
    torch.randn(1, generator=stream.generator)
    assert draws_to_digest(*anchor, text_of(stream)) == 4
    torch.rand(1, generator=stream.generator)
    assert draws_to_digest(*anchor, text_of(stream)) is None


@pytest.mark.parametrize("kind", TWISTERS)
def test_states_before_the_anchor_are_not_found(kind: str) -> None:
    stream = MAKERS[kind](5)
    before = text_of(stream)
    skip(kind, stream.generator, 3)
    assert draws_to_digest(*stored(stream), before, limit=5000) is None


def device(seed: int, offset: int) -> tuple[Stored, str]:
    raw = struct.pack("<QQ", seed, offset)
    digest = source_digest({"state": tensor_digest("state", "uint8", (16,), raw)})
    return ({"state": StoredTensor("uint8", (16,), memoryview(raw))}, None), digest_text(digest)


def test_device_generators_are_walked_by_their_offset() -> None:
    anchor, start = device(2**64 - 1, 12)
    assert draws_to_digest(*anchor, start) == 0
    assert draws_to_digest(*anchor, device(2**64 - 1, 4012)[1]) == 4000
    assert draws_to_digest(*anchor, device(2**64 - 1, 8)[1]) is None
    assert draws_to_digest(*anchor, device(0, 16)[1], limit=50) is None
    end, _ = device(0, 2**64 - 2)
    assert draws_to_digest(*end, device(0, 2**64 - 1)[1]) == 1
    assert draws_to_digest(*end, device(0, 0)[1]) is None


def test_a_random_state_over_another_bit_generator_is_walked() -> None:
    generator = np.random.RandomState(np.random.PCG64(1))
    stream = NumpyStream("other", generator)
    generator.randn()
    anchor = stored(stream)
    generator.random_sample(9)
    assert draws_to_digest(*anchor, text_of(stream)) == 9


def test_small_pcg_states_are_written_as_numbers() -> None:
    stream = numpy_generator(np.random.PCG64, 1)
    bits: Any = stream.generator.bit_generator
    bits.state = {**bits.state, "state": {"state": 2**53, "inc": 1}}
    bits.advance(-5)
    anchor = stored(stream)
    for number in (2**53 - 1, 2**53):
        bits.state = {**bits.state, "state": {"state": number, "inc": 1}}
        bits.advance(-3)
        anchor = stored(stream)
        bits.advance(3)
        assert draws_to_digest(*anchor, text_of(stream)) == 3


@pytest.mark.parametrize("digest", ["", "x", "A" * 21, "A" * 23, "A" * 21 + "B", "é" * 22, "A" * 20 + "\n\n", "=" * 22])
def test_what_is_no_digest_is_not_found(digest: str) -> None:
    assert draws_to_digest(*stored(torch_stream(1)), digest, limit=3) is None


def test_another_spelling_of_a_digest_is_none() -> None:
    stream = torch_stream(1)
    text = text_of(stream)
    # The last of 22 characters has four bits that mean nothing and must be zero.
    other = chr(ord(text[-1]) + 1)
    assert draws_to_digest(*stored(stream), text, limit=0) == 0
    for wrong in (text[:-1] + other, text[:3] + "\n" + text[3:], text + "=="):
        assert draws_to_digest(*stored(stream), wrong, limit=0) is None


def test_bytes_given_are_left_as_they_are() -> None:
    stream = torch_stream(1)
    tensors, values = stored(stream)
    raw = bytearray(tensors["state"].data)
    draws_to_digest({"state": StoredTensor("uint8", (5056,), memoryview(raw))}, values, "A" * 22, limit=700)
    assert bytes(raw) == bytes(tensors["state"].data)


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    folder = tmp_path_factory.mktemp("real")
    answer = train("--anchor-every", "4", "--epochs", "4", "--own-generator", cwd=folder)
    assert answer.returncode == 0, answer.stderr
    return RunView.open(folder / "run")


def streams_of(anchor: Any) -> dict[str, Stored]:
    tensors, values = anchor.tensors(), anchor.values()["streams"]
    return {
        name: (
            {
                path.removeprefix(f"stream.{name}/"): item
                for path, item in tensors.items()
                if path.startswith(f"stream.{name}/")
            },
            rest,
        )
        for name, rest in values.items()
    }


def test_every_step_of_a_real_run_is_so_many_draws_after_its_anchor(real_run: RunView) -> None:
    anchors = {anchor.step: anchor for anchor in real_run.anchors}
    steps = list(real_run.steps())
    names = set(steps[-1].streams)
    assert {"torch", "python", "numpy"} < names
    assert len(anchors) > 4
    per_step: dict[str, set[int]] = {name: set() for name in names}
    for start in sorted(anchors):
        drawn = dict.fromkeys(names, 0)
        for step in steps[start : start + 4]:
            for name, (tensors, values) in streams_of(anchors[start]).items():
                if name == "numpy" and not ROUNDED_TWICE:
                    continue
                digest = step.streams[name]
                assert digest is not None
                draws = draws_to_digest(tensors, values, digest)
                assert draws is not None, (name, step.step)
                assert draws >= drawn[name]
                per_step[name].add(draws - drawn[name])
                drawn[name] = draws
    assert per_step["python"] == {2}


def test_anchors_of_a_real_run_lie_on_one_sequence(real_run: RunView) -> None:
    first, *later = (streams_of(anchor) for anchor in real_run.anchors)
    for name in ("torch", "python", "numpy"):
        start = read_state(*first[name])
        assert start is not None
        far = [draws_between(start, read_state(*streams[name])) for streams in later]
        assert far == sorted(far)
        assert far[-1] > 0
