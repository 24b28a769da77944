import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.digest import array_digest, digest_text
from auditor.artifact.windows import multiset, window_batches, window_multisets


@given(st.integers(0, 10**6))
def test_windows_are_the_narrowest_that_are_no_more_than_64(batches: int) -> None:
    width = window_batches(batches)
    assert width >= 16
    assert width & (width - 1) == 0
    assert -(-batches // width) <= 64
    assert width == 16 or -(-batches // (width // 2)) > 64


@given(st.lists(st.integers(0, 5), max_size=1200))
def test_every_window_is_the_multiset_of_its_batches(per_batch: list[int]) -> None:
    ids = np.random.default_rng(0).integers(0, 50, sum(per_batch))
    width, found = window_multisets(ids, per_batch)
    batches = np.split(ids, np.cumsum(per_batch)[:-1]) if per_batch else []
    expected = [
        digest_text(array_digest("ids", np.sort(np.concatenate(batches[start : start + width]))))
        for start in range(0, len(batches), width)
    ]
    assert found == expected


def test_the_order_inside_a_window_does_not_matter_and_between_windows_does() -> None:
    ids = np.arange(64)
    per_batch = [2] * 32
    shuffled = np.concatenate([np.random.default_rng(1).permutation(ids[:32]), ids[32:]])
    assert window_multisets(ids, per_batch) == window_multisets(shuffled, per_batch)
    swapped = ids.copy()
    swapped[[0, 63]] = swapped[[63, 0]]
    assert window_multisets(ids, per_batch)[1] != window_multisets(swapped, per_batch)[1]
    assert window_multisets(ids, [4] * 16) == (16, [multiset(ids)])


def test_batches_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="3 ids in batches of 4"):
        window_multisets(np.arange(3), [2, 2])
