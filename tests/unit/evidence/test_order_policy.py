from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.evidence.order_policy import recognise

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(12, 200), st.integers(2, 8))
def test_permutations_of_the_same_ids_are_reshuffling(seed: int, size: int, passes: int) -> None:
    rng = np.random.default_rng(seed)
    found = recognise((rng.permutation(size) for _ in range(passes)), shuffled=True)
    assert (found.word, found.notes) == ("reshuffling", ())


@given(SEEDS, st.integers(60, 200), st.integers(2, 16), st.integers(2, 8))
def test_a_dropped_last_batch_is_still_reshuffling(seed: int, size: int, batch: int, passes: int) -> None:
    rng = np.random.default_rng(seed)
    kept = size - size % batch
    found = recognise([rng.permutation(size)[:kept] for _ in range(passes)], length=size, dropped=batch - 1)
    assert found.word == "reshuffling"


@given(SEEDS, st.integers(12, 100), st.integers(2, 8))
def test_whole_rounds_and_a_part_of_one_are_reshuffling(seed: int, size: int, passes: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = [np.concatenate([rng.permutation(size) for _ in range(3)])[: size * 5 // 2] for _ in range(passes)]
    assert recognise(drawn).word == "reshuffling"


@given(SEEDS, st.integers(12, 200), st.integers(2, 8))
def test_one_order_again_and_again_is_fixed_and_said_of_a_loader_that_shuffles(
    seed: int, size: int, passes: int
) -> None:
    order = np.random.default_rng(seed).permutation(size)
    assert recognise([order] * passes)[::2] == ("fixed", ())
    word, why, notes = recognise([order] * passes, shuffled=True)
    assert (word, len(notes)) == ("fixed", 1)
    assert why == f"the same order of {size} ids in each of {passes} passes"
    assert notes[0].startswith("pass 2 has the very order of pass 1")
    assert notes[0].endswith("the generator that shuffles is seeded anew")


@given(st.integers(1, 100), st.integers(1, 5), st.booleans())
def test_counting_up_is_sequential_even_in_one_pass(size: int, passes: int, shuffled: bool) -> None:
    found = recognise([np.arange(size, dtype=np.uint64)] * passes, shuffled=shuffled)
    assert (found.word, found.notes) == ("sequential", ())


@given(SEEDS, st.integers(50, 300), st.integers(1, 8))
def test_independent_draws_are_with_replacement(seed: int, size: int, passes: int) -> None:
    rng = np.random.default_rng(seed)
    found = recognise([rng.integers(0, size, size) for _ in range(passes)], length=size)
    assert found.word == "with replacement"


@given(SEEDS, st.integers(40, 200), st.integers(3, 8))
def test_random_halves_are_subsets(seed: int, size: int, passes: int) -> None:
    rng = np.random.default_rng(seed)
    assert recognise([rng.permutation(size)[: size // 2] for _ in range(passes)]).word == "subset"


@given(SEEDS, st.integers(2, 8), st.booleans())
def test_a_set_that_grows_or_shrinks_is_a_curriculum(seed: int, passes: int, shrinks: bool) -> None:
    rng = np.random.default_rng(seed)
    sets = [rng.permutation(20 * (stage + 1)) for stage in range(passes)]
    assert recognise(sets[::-1] if shrinks else sets).word == "curriculum"


@given(SEEDS, st.integers(2, 8), st.booleans())
def test_a_window_that_moves_over_the_difficulties_is_a_curriculum(seed: int, passes: int, back: bool) -> None:
    rng = np.random.default_rng(seed)
    windows = [20 * stage + rng.permutation(60)[:50] for stage in range(passes)]
    assert recognise(windows[::-1] if back else windows).word == "curriculum"


def test_passes_that_grow_are_a_curriculum_whatever_they_hold() -> None:
    rng = np.random.default_rng(0)
    assert recognise([rng.permutation(100)[:size] for size in (10, 20, 30)]).word == "curriculum"
    assert recognise([rng.permutation(100)[:size] for size in (10, 30, 20)]).word == "subset"


def test_an_oversampled_list_that_is_shuffled_is_reshuffling() -> None:
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.arange(20), np.repeat([3, 4], 8)])
    assert recognise([rng.permutation(ids) for _ in range(4)]).word == "reshuffling"
    assert recognise([rng.permutation(ids)]).word == "one pass"


def test_one_shuffled_pass_shows_no_policy() -> None:
    assert recognise([np.random.default_rng(0).permutation(50)]).word == "one pass"
    assert recognise([]).why == "no sample ids were recorded"
    assert recognise([np.zeros(0, np.int64)]).word == "other"


def test_an_order_that_comes_again_among_others_is_said() -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(30) for _ in range(4)]
    found = recognise([*orders, orders[1]])
    assert (found.word, found.notes) == ("reshuffling", ("pass 5 has the very order of pass 2",))
    assert recognise([np.array([0, 1]), np.array([1, 0]), np.array([1, 0])]).notes == (), "chance does as much"


def test_a_pass_that_repeats_samples_among_good_ones_is_named() -> None:
    rng = np.random.default_rng(0)
    good = [rng.permutation(100) for _ in range(4)]
    broken = good[2].copy()
    broken[50:60] = broken[:10]
    found = recognise([good[0], good[1], broken, good[3]])
    assert found == ("other", "ids come twice while others are missing, in pass 3 only", ())


def test_a_pass_that_was_left_early_does_not_count_against_the_others() -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(100)[:40], rng.permutation(100), rng.permutation(100)]
    assert recognise(orders, complete=[False, True, True]).word == "reshuffling"
    assert recognise(orders[:2], complete=[False, True]).word == "one pass"
    found = recognise([order[:40] for order in orders], complete=[False] * 3)
    assert found.word == "subset"
    assert found.why.endswith("every pass was left before its end")
    same = np.random.default_rng(1).permutation(100)
    assert recognise([same[:30], same[:50]], complete=[False, False]).word == "fixed"


@pytest.mark.parametrize("far", [10**15, -(10**15)], ids=["large", "negative"])
def test_ids_that_are_no_positions_are_counted_too(far: int) -> None:
    rng = np.random.default_rng(0)
    ids = far + 1000 * np.arange(50)
    assert recognise([rng.permutation(ids) for _ in range(3)]).word == "reshuffling"
    assert recognise([rng.permutation(ids)[:20] for _ in range(4)]).word == "subset"
    assert recognise([ids[: 10 * stage] for stage in (1, 2, 3)]).word == "curriculum"
    assert recognise([rng.choice(ids, 50) for _ in range(3)]).word == "with replacement"


def test_passes_are_taken_one_at_a_time() -> None:
    alive: list[int] = []

    def passes() -> Iterator[np.ndarray]:
        for stage in range(20):
            alive.append(stage)
            yield np.random.default_rng(stage).permutation(1000)

    assert recognise(passes()).word == "reshuffling"
    assert len(alive) == 20
