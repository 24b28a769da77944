import copy
import hashlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

import auditor
from auditor.errors import MemauditError
from auditor.recorder.keyed import KeyedDataset, draws_are_keyed, set_pass
from auditor.state.streams import Preserved, global_streams

Drawn = tuple[int, float, float, float, float]


class Augmented(Dataset[Drawn]):
    """Draws from every global stream, an odd number of Gaussians too."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Drawn:
        return index, random.gauss(0, 1), float(np.random.standard_normal()), torch.rand(1).item(), random.random()

    def __getitems__(self, indices: list[int]) -> list[Drawn]:
        raise AssertionError("a batch cannot be keyed by sample")


class Failing(Augmented):
    def __getitem__(self, index: int) -> Drawn:
        super().__getitem__(index)
        raise KeyError(index)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def as_tuples(samples: list[Drawn]) -> list[Drawn]:
    return samples


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


def digests() -> list[bytes]:
    return [stream.digest() for stream in global_streams()]


def test_a_samples_draws_do_not_depend_on_the_order() -> None:
    keyed = KeyedDataset(Augmented(), 3)
    forward = [keyed[index] for index in range(12)]
    torch.rand(3)
    backward = [keyed[index] for index in reversed(range(12))]
    assert forward == backward[::-1]
    assert keyed.__getitems__([5, 2]) == [forward[5], forward[2]]
    assert keyed[np.int64(4)] == keyed[torch.tensor(4)] == keyed[4] == forward[4]
    assert keyed[-1][1:] == forward[11][1:]


def test_another_seed_pass_or_sample_draws_other_numbers() -> None:
    keyed = KeyedDataset(Augmented(), 3)
    drawn = {keyed[index][1:] for index in range(12)}
    keyed.set_pass(1)
    assert keyed.current_pass == 1
    drawn |= {keyed[index][1:] for index in range(12)}
    drawn |= {KeyedDataset(Augmented(), 4)[index][1:] for index in range(12)}
    assert len(drawn) == 36
    assert len({number for each in drawn for number in each}) == 4 * 36


def test_the_key_is_what_the_documentation_says() -> None:
    keyed = KeyedDataset(Augmented(), -7)
    keyed.set_pass(2)
    drawn = keyed[5]
    key = hashlib.sha256(b"memaudit keyed draws 1\n-7\n2\n5").digest()
    random.seed(int.from_bytes(key[:8], "big"))
    np.random.seed(int.from_bytes(key[8:12], "big"))
    torch.manual_seed(int.from_bytes(key[12:20], "big"))
    assert drawn == Augmented()[5]


@given(st.lists(st.sampled_from(["python", "numpy", "binomial", "torch", "keyed", "other"]), max_size=20))
def test_the_programs_streams_go_on_as_if_nothing_had_been_drawn(calls: list[str]) -> None:
    keyed, other = KeyedDataset(Augmented(), 3), KeyedDataset([1, 2], 3)
    draws: dict[str, Any] = {
        "python": lambda: random.gauss(0, 1),
        "numpy": np.random.standard_normal,
        "binomial": lambda: np.random.binomial(10, 0.3),
        "torch": lambda: torch.randn(1),
    }
    with Preserved(global_streams()):
        expected = []
        for call in calls:
            draws.get(call, int)()
            expected.append(digests())
    first = keyed[3]
    with Preserved(global_streams()):
        for call, state in zip(calls, expected, strict=True):
            draws.get(call, int)()
            if call == "keyed":
                assert keyed[3] == first
            elif call == "other":
                assert other[1] == 2
            assert digests() == state


def test_a_sample_that_fails_leaves_the_streams_alone() -> None:
    keyed = KeyedDataset(Failing(), 0)
    np.random.standard_normal()
    before = digests()
    for _ in range(2):
        with pytest.raises(KeyError):
            keyed[1]
        assert digests() == before


@pytest.mark.parametrize(
    "options",
    [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}],
    ids=["no_workers", "workers", "persistent"],
)
def test_draws_are_the_same_whatever_the_workers_and_follow_the_pass(options: dict[str, Any]) -> None:
    keyed = KeyedDataset(Augmented(), 3)
    loader: DataLoader[Any] = DataLoader(keyed, batch_size=3, shuffle=True, collate_fn=as_tuples, **options)
    for number in (1, 2, 3):
        set_pass(loader, number)
        drawn = sorted(sample for batch in loader for sample in batch)
        assert drawn == [keyed[index] for index in range(12)]
        assert keyed.current_pass == number


def test_a_pass_reaches_data_sets_below_others_and_no_others() -> None:
    one, two, three = (KeyedDataset(Augmented(), seed) for seed in range(3))
    joined = ConcatDataset([Subset(one, [0, 1]), Subset(Subset(two, [0, 1]), [1])])
    set_pass(DataLoader(joined), 4)
    assert [each.current_pass for each in (one, two, three)] == [4, 4, 0]
    nested = KeyedDataset(three, 0)
    set_pass(DataLoader(nested), 5)
    assert (nested.current_pass, three.current_pass) == (5, 5)
    for plain in ([1, 2], DataLoader(Augmented()), DataLoader(Endless()), None):
        set_pass(plain, 6)


def test_it_looks_like_what_it_holds_and_copies_are_their_own() -> None:
    keyed = KeyedDataset(Augmented(), 3)
    assert len(keyed) == 12
    assert keyed.classes == ("a", "b")
    with pytest.raises(AttributeError):
        keyed.nothing_here  # noqa: B018
    keyed.set_pass(2)
    for copied in (pickle.loads(pickle.dumps(keyed)), copy.deepcopy(keyed)):  # noqa: S301
        assert copied[3] == keyed[3]
        copied.set_pass(9)
        assert keyed.current_pass == 2
        assert copied._pass.is_shared()
    assert auditor.KeyedDataset is KeyedDataset


def test_what_cannot_be_keyed_is_refused() -> None:
    with pytest.raises(MemauditError, match="the draws of a Endless cannot be keyed"):
        KeyedDataset(Endless(), 0)
    with pytest.raises(MemauditError, match="no whole number"):
        KeyedDataset(Augmented(), 0.5)  # type: ignore[arg-type]
    keyed = KeyedDataset(Augmented(), 0)
    for index in ([1, 2], "a", slice(3)):
        with pytest.raises(MemauditError, match="is asked for by a") as caught:
            keyed[index]  # type: ignore[index]
        assert "batch_sampler" in str(caught.value.next_step)


def test_numpys_own_bit_generator_has_to_be_in_place() -> None:
    keyed = KeyedDataset(Augmented(), 0)
    held = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        before = digests()
        with pytest.raises(MemauditError, match="draws from a PCG64"):
            keyed[0]
        assert digests() == before
    finally:
        np.random.set_bit_generator(held)
    assert keyed[0] == KeyedDataset(Augmented(), 0)[0]


def test_draws_are_keyed_only_where_every_sample_comes_through_a_keyed_data_set() -> None:
    keyed, plain = KeyedDataset(Augmented(), 3), Augmented()

    class Wrapped(Subset[Drawn]):
        """May draw on top of what it holds, for all one knows."""

    assert draws_are_keyed(keyed)
    assert draws_are_keyed(Subset(keyed, [1, 2]))
    assert draws_are_keyed(ConcatDataset([keyed, Subset(keyed, [1])]))
    assert not draws_are_keyed(plain)
    assert not draws_are_keyed(ConcatDataset([keyed, plain]))
    assert not draws_are_keyed(Wrapped(keyed, [1]))
