import math
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.compare.draws import draws_between
from auditor.compare.generator_state import WORDS, MersenneTwister, Pcg64, Philox
from tests.unit.compare.generator_support import (
    CALLS,
    MAKERS,
    TWISTERS,
    next_numbers,
    numpy_generator,
    numpy_stream,
    python_stream,
    skip,
    state_of,
    torch_stream,
)

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, before=st.integers(0, 1300), data=st.data())
def test_so_many_raw_draws_lead_from_one_state_to_the_other(
    kind: str, seed: int, before: int, data: st.DataObject
) -> None:
    stream, other = MAKERS[kind](seed), MAKERS[kind](seed)
    for each in (stream, other):
        skip(kind, each.generator, before)
    first = state_of(stream)
    for name in data.draw(st.lists(st.sampled_from(sorted(CALLS[kind])), max_size=8)):
        CALLS[kind][name](stream.generator)
    second = state_of(stream)
    draws = draws_between(first, second)
    assert draws is not None
    assert draws >= 0
    assert draws_between(second, first) == -draws
    assert draws_between(second, second) == 0
    skip(kind, other.generator, draws)
    assert next_numbers(kind, other.generator) == next_numbers(kind, stream.generator)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("draws", [0, 1, 623, 624, 625, 1248, 100_000])
def test_block_borders_and_long_ways_are_counted(kind: str, draws: int) -> None:
    stream = MAKERS[kind](7)
    first = state_of(stream)
    skip(kind, stream.generator, draws)
    assert draws_between(first, state_of(stream)) == draws
    assert draws_between(state_of(stream), first) == -draws


def test_known_calls_take_the_draws_they_are_known_to_take() -> None:
    stream = torch_stream(1)
    expected = 0
    start = state_of(stream)
    for call, draws in [("rand", 5), ("rand64", 4), ("randint", 3), ("one randn", 4), ("one randn", 0), ("randn", 66)]:
        CALLS["torch"][call](stream.generator)
        expected += draws
        assert draws_between(start, state_of(stream)) == expected


@pytest.mark.parametrize("kind", MAKERS)
def test_other_seeds_lie_on_no_common_sequence(kind: str) -> None:
    assert draws_between(state_of(MAKERS[kind](1)), state_of(MAKERS[kind](2))) is None


@pytest.mark.parametrize("kind", MAKERS)
def test_a_stream_seeded_anew_with_its_seed_stands_at_the_start_again(kind: str) -> None:
    stream = MAKERS[kind](3)
    stream.seed(11)
    start = state_of(stream)
    skip(kind, stream.generator, 1000)
    later = state_of(stream)
    stream.seed(11)
    assert draws_between(later, state_of(stream)) == -1000
    assert draws_between(start, state_of(stream)) == 0
    stream.seed(12)
    assert draws_between(start, state_of(stream)) is None


@pytest.mark.parametrize("kind", TWISTERS)
def test_the_limit_is_the_last_distance_found(kind: str) -> None:
    stream = MAKERS[kind](5)
    first = state_of(stream)
    for draws in (700, 5000, 300_000):
        other = MAKERS[kind](5)
        skip(kind, other.generator, draws)
        second = state_of(other)
        assert draws_between(first, second, limit=draws) == draws
        assert draws_between(first, second, limit=draws - 1) is None
        assert draws_between(second, first, limit=draws) == -draws
        assert draws_between(second, first, limit=draws - 1) is None
    assert draws_between(first, first, limit=0) == 0


def test_the_default_limit_reaches_sixteen_million_draws() -> None:
    stream = numpy_stream(5)
    first = state_of(stream)
    stream.generator._bit_generator.random_raw(1 << 24)
    assert draws_between(first, state_of(stream)) == 1 << 24
    assert draws_between(state_of(stream), first) == -(1 << 24)


def test_the_end_of_a_block_is_the_start_of_the_next() -> None:
    bits = np.random.MT19937(3)
    bits.random_raw(bits.state["state"]["pos"] + 1)
    end = bits.state["state"]
    bits.random_raw(WORDS - end["pos"])
    end = bits.state["state"]
    bits.random_raw(1)
    following = bits.state["state"]["key"]
    assert end["pos"] == WORDS
    at_end = MersenneTwister(end["key"].tobytes(), WORDS)
    at_start = MersenneTwister(following.tobytes(), 0)
    assert draws_between(at_end, at_start) == draws_between(at_start, at_end) == 0
    assert draws_between(at_end, MersenneTwister(following.tobytes(), 1)) == 1
    assert draws_between(MersenneTwister(following.tobytes(), 5), at_end) == -5


def test_torch_after_seeding_is_at_the_place_where_its_block_is_used_up() -> None:
    fresh = torch_stream(9)
    state = state_of(fresh)
    assert draws_between(state, state_of(numpy_stream(9))) == 0
    torch.rand(WORDS, generator=fresh.generator)
    assert draws_between(state, state_of(fresh)) == WORDS


def test_a_cached_normal_is_no_part_of_the_place() -> None:
    for stream, other, draw in [
        (torch_stream(2), torch_stream(2), lambda g: torch.randn(1, generator=g)),
        (python_stream(2), python_stream(2), lambda g: g.gauss(0, 1)),
        (numpy_stream(2), numpy_stream(2), lambda g: g.randn()),
    ]:
        draw(stream.generator)
        one = state_of(stream)
        draw(stream.generator)
        assert (len(one.normals), len(state_of(stream).normals)) == (1, 0)
        assert draws_between(one, state_of(stream)) == 0
        draw(other.generator)
        assert draws_between(state_of(other), state_of(stream)) == 0


@pytest.mark.parametrize("variant", ["PCG64", "PCG64DXSM"])
@settings(deadline=None)
@given(draws=st.integers(-(2**127), 2**127 - 1), seed=SEEDS)
def test_pcg_distances_are_exact_however_long(variant: str, draws: int, seed: int) -> None:
    kind = getattr(np.random, variant)
    stream = numpy_generator(kind, seed)
    first = state_of(stream)
    stream.generator.bit_generator.advance(draws)
    assert draws_between(first, state_of(stream), limit=0) == draws


def test_pcgs_of_another_increment_or_variant_share_no_sequence() -> None:
    one = Pcg64("PCG64", 5, 7)
    assert draws_between(one, Pcg64("PCG64", 5, 9)) is None
    assert draws_between(one, Pcg64("PCG64DXSM", 5, 7)) is None
    assert draws_between(one, Pcg64("PCG64", 5, 7, half=3)) == 0


@settings(deadline=None)
@given(first=st.integers(0, 2**64 - 1), second=st.integers(0, 2**64 - 1), seed=st.integers(0, 2**64 - 1))
def test_device_generators_of_one_seed_differ_by_their_offsets(first: int, second: int, seed: int) -> None:
    assert draws_between(Philox(seed, first), Philox(seed, second)) == second - first
    assert draws_between(Philox(seed, first), Philox(seed ^ 1, second)) is None


def test_generators_of_different_kinds_share_no_sequence() -> None:
    states = [state_of(MAKERS[kind](1)) for kind in ("torch", "PCG64")] + [Philox(1, 0)]
    for one in states:
        for other in states:
            assert (draws_between(one, other) == 0) == (one is other)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, WORDS * 32 - 1), position=st.integers(0, WORDS), other=SEEDS)
def test_states_of_almost_only_zeros_are_compared_like_any_other(place: int, position: int, other: int) -> None:
    words = np.zeros(WORDS, dtype=np.uint32)
    words[place // 32] = 1 << place % 32
    bits = np.random.MT19937(other)
    zeros = MersenneTwister(words.tobytes(), position)
    bits.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": position}}
    bits.random_raw(2000)
    after = bits.state["state"]
    if words[1:].any() or words[0] >> 31:
        assert draws_between(zeros, MersenneTwister(after["key"].tobytes(), after["pos"])) == 2000
    assert draws_between(zeros, state_of(python_stream(other)), limit=10_000) is None


@settings(deadline=None)
@given(period=st.sampled_from([1, 2, 3, 4, 7]), data=st.data())
def test_blocks_of_one_pattern_again_and_again_are_compared_in_bounded_work(period: int, data: st.DataObject) -> None:
    pattern = data.draw(st.binary(min_size=period, max_size=period).filter(any))
    words = (pattern * math.ceil(4 * WORDS / period))[: 4 * WORDS]
    place = data.draw(st.integers(0, WORDS))
    other = data.draw(st.integers(0, WORDS))
    first, second = MersenneTwister(words, place), MersenneTwister(words, other)
    assert draws_between(first, second, limit=5000) == other - place


def words_that_draw(outputs: bytes) -> bytes:
    """The block that gives these draws: MT19937's tempering undone."""
    words = np.frombuffer(outputs, dtype="<u4").copy()
    words ^= words >> 18
    words ^= (words << 15) & 0xEFC60000
    low = words.copy()
    for _ in range(4):
        low = words ^ ((low << 7) & 0x9D2C5680)
    high = low.copy()
    for _ in range(2):
        high = low ^ (high >> 11)
    return high.tobytes()


def test_draws_that_agree_across_the_borders_of_words_are_no_common_sequence() -> None:
    first = state_of(numpy_stream(1))
    outputs = np.random.RandomState(1)._bit_generator.random_raw(2 * WORDS).astype("<u4").tobytes()
    for shift, expected in [(0, 0), (1, None), (4, 1), (6, None)]:
        block = words_that_draw(outputs[shift : shift + 4 * WORDS])
        assert draws_between(first, MersenneTwister(block, 0), limit=2000) == expected


def test_python_and_torch_of_one_seed_are_told_apart_though_both_are_twisters() -> None:
    assert draws_between(state_of(python_stream(4)), state_of(torch_stream(4)), limit=100_000) is None


def test_torch_state_put_into_another_generator_is_at_the_same_place() -> None:
    stream = torch_stream(4)
    torch.rand(1000, generator=stream.generator)
    words = struct.unpack("<624I", state_of(stream).words)
    other = random.Random()
    other.setstate((3, (*words, state_of(stream).position), None))
    copied = python_stream(0)
    copied.generator.setstate(other.getstate())
    assert draws_between(state_of(stream), state_of(copied)) == 0
