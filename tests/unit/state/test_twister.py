import random
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auditor.state.streams import NumpyStream, PythonStream
from auditor.state.twister import NumpyTwister, PythonTwister

PYTHON: list[Callable[[random.Random], object]] = [
    lambda rng: rng.random(),
    lambda rng: rng.gauss(0, 1),
    lambda rng: rng.seed(3),
    lambda rng: rng.getrandbits(70),
    lambda rng: rng.getstate(),
    lambda rng: rng.shuffle([]),
    lambda rng: rng.setstate(random.Random(9).getstate()),
]
NUMPY: list[Callable[[np.random.RandomState], object]] = [
    lambda rng: rng.random_sample(),
    lambda rng: rng.standard_normal(),
    lambda rng: rng.seed(3),
    lambda rng: rng.binomial(10, 0.3),
    lambda rng: rng.get_state(),
    lambda rng: rng.shuffle([]),
    lambda rng: rng.set_state(np.random.RandomState(9).get_state()),
    lambda rng: rng.set_state({**rng.get_state(legacy=False), "has_gauss": 1, "gauss": 0.5}),
]


@given(st.lists(st.sampled_from(PYTHON), max_size=12))
def test_pythons_memory_tells_its_states_apart(calls: list[Callable[[random.Random], object]]) -> None:
    rng = random.Random(1)
    memory = PythonTwister(rng)
    met = {rng.getstate(): memory.read()}
    for call in calls:
        call(rng)
        assert met.setdefault(rng.getstate(), memory.read()) == memory.read()
    assert len(set(met.values())) == len(met)
    for state, held in met.items():
        memory.write(held)
        assert rng.getstate() == state


@given(st.lists(st.sampled_from(NUMPY), max_size=12))
def test_numpys_memory_changes_with_its_state(calls: list[Callable[[np.random.RandomState], object]]) -> None:
    rng = np.random.RandomState(1)
    memory = NumpyTwister(rng)
    before, held = str(rng.get_state(legacy=False)), (memory.own(), memory.words())
    for call in calls:
        call(rng)
        after, now = str(rng.get_state(legacy=False)), (memory.own(), memory.words())
        assert after == before or now != held
        before, held = after, now


def test_numpys_words_come_back() -> None:
    rng = np.random.RandomState(1)
    memory = NumpyTwister(rng)
    words, drawn = memory.words(), rng.random_sample(700)
    memory.set_words(words)
    assert np.array_equal(rng.random_sample(700), drawn)


@given(st.lists(st.tuples(st.sampled_from(PYTHON), st.sampled_from(NUMPY)), max_size=12))
def test_a_remembered_digest_is_never_an_old_one(calls: list[tuple[Callable, Callable]]) -> None:
    python, numpy = PythonStream("a", random.Random(1)), NumpyStream("b", np.random.RandomState(1))
    for one, two in calls:
        one(python.generator)
        two(numpy.generator)
        for stream in (python, numpy):
            assert stream.digest() == stream.read().digest() == stream.digest()


def test_another_bit_generator_in_place_of_numpys_is_seen() -> None:
    stream = NumpyStream("numpy", np.random.RandomState(np.random.PCG64(1)))
    before = stream.digest()
    stream.generator.standard_normal()
    assert stream.digest() == stream.read().digest() != before
    stream.seed(4)
    once = stream.digest()
    stream.generator.random_sample()
    stream.seed(4)
    assert stream.digest() == once


def test_a_class_of_ones_own_is_asked_for_its_state() -> None:
    class Counting(random.Random):
        count = 0

        def getstate(self) -> tuple:
            return (*super().getstate()[:2], float(self.count))

    stream = PythonStream("own", Counting(1))
    before = stream.digest()
    stream.generator.count = 3
    assert stream.digest() != before
