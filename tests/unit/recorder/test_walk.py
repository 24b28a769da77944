"""The walk notes what was consumed, and the training draws what it draws without it."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from auditor.recorder.order import Walk, policy_of
from auditor.state.streams import Preserved, derive_seed, global_streams

SIZE = 22


class Noisy(Dataset[tuple[torch.Tensor, float]]):
    """Sample i is i, with an augmentation that draws from every stream."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple[int, float]:
        return int(index), random.random() + np.random.random() + torch.rand(1).item()


class Pairs(BatchSampler):
    """A batch sampler of one's own, which yields iterators."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(2)

    def __iter__(self) -> Iterator[Any]:
        for first in torch.randperm(SIZE // 2, generator=self.generator).tolist():
            yield iter([2 * first, 2 * first + 1])

    def __len__(self) -> int:
        return SIZE // 2


def own() -> torch.Generator:
    return torch.Generator().manual_seed(9)


WEIGHTS = torch.linspace(0.1, 1.0, SIZE)
LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "shuffled, drop_last": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "shuffled, own generator": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, generator=own()),
    "sampler's generator": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), generator=own())),
    "sequential": lambda: DataLoader(Noisy(), batch_size=4),
    "replacement": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), replacement=True, num_samples=30)),
    "more than once": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), num_samples=50)),
    "fewer": lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), num_samples=13)),
    "weighted": lambda: DataLoader(Noisy(), 4, sampler=WeightedRandomSampler(WEIGHTS, 30)),
    "weighted once": lambda: DataLoader(Noisy(), 4, sampler=WeightedRandomSampler(WEIGHTS, 20, replacement=False)),
    "subset": lambda: DataLoader(Noisy(), 4, sampler=SubsetRandomSampler([3, 1, 4, 1, 5, 9, 2, 6])),
    "subset of tensors": lambda: DataLoader(Noisy(), 4, sampler=SubsetRandomSampler(torch.arange(3, 17))),
    "no batches": lambda: DataLoader(Noisy(), batch_size=None, shuffle=True),
    "no batches, tensors": lambda: DataLoader(
        Noisy(), batch_size=None, sampler=SubsetRandomSampler(torch.arange(3, 17))
    ),
    "own batches": lambda: DataLoader(Noisy(), batch_sampler=Pairs()),
    "stock batches": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(Noisy(), generator=own()), 5, drop_last=False)
    ),
}
each_loader = pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with Preserved(global_streams()):
        reseed(0)
        yield


def reseed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def digests() -> list[bytes]:
    return [stream.digest() for stream in global_streams()]


def plainly(loader: DataLoader[Any], passes: int) -> tuple[list[Any], list[list[bytes]]]:
    batches, states = [], []
    for _ in range(passes):
        for batch in loader:
            batches.append([part.tolist() if torch.is_tensor(part) else part for part in batch])
            states.append(digests())
        states.append(digests())
    return batches, states


def ids_of(batch: Any) -> list[int]:
    return batch[0].tolist() if torch.is_tensor(batch[0]) else [batch[0]]


def drain(walk: Walk) -> Iterator[tuple[Any, list[int] | None]]:
    while True:
        try:
            yield walk.draw()
        except StopIteration:
            return


@each_loader
def test_a_walk_draws_what_the_plain_loader_draws(make: Callable[[], DataLoader[Any]]) -> None:
    expected = plainly(make(), passes=2)
    reseed(0)
    loader, batches, states = make(), [], []
    original = dict(loader.__dict__)
    for _ in range(2):
        walk = Walk(loader)
        for batch, ids in drain(walk):
            assert ids == ids_of(batch)
            batches.append([part.tolist() if torch.is_tensor(part) else part for part in batch])
            states.append(digests())
        states.append(digests())
        walk.close()
        assert {k: loader.__dict__[k] for k in original if k != "_iterator"} == {
            k: v for k, v in original.items() if k != "_iterator"
        }
    assert (batches, states) == expected


@each_loader
def test_delivered_is_what_was_consumed_not_what_was_drawn(make: Callable[[], DataLoader[Any]]) -> None:
    walk = Walk(make())
    consumed = []
    for _ in range(2):
        batch, _ = walk.draw()
        consumed += ids_of(batch)
    assert list(walk.delivered) == consumed


@each_loader
def test_skipping_draws_the_same_order_and_fetches_nothing(make: Callable[[], DataLoader[Any]]) -> None:
    walk = Walk(make())
    whole = [ids for _, ids in drain(walk)]
    reseed(0)
    again = Walk(make(), skip=2)
    again.fast_forward()
    assert list(again.delivered) == [*whole[0], *whole[1]]
    assert [ids for _, ids in drain(again)] == whole[2:]
    assert again.delivered == walk.delivered


def test_the_first_draw_is_announced_once_just_before_it() -> None:
    moments: list[bytes] = []
    loader = LOADERS["shuffled"]()
    walk = Walk(loader, before_first_draw=lambda: moments.append(torch.default_generator.get_state().numpy().tobytes()))
    assert moments == []
    after_iter = torch.default_generator.get_state().numpy().tobytes()
    list(drain(walk))
    assert moments == [after_iter]


def test_an_iterable_dataset_has_no_ids() -> None:
    class Numbers(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    walk = Walk(DataLoader(Numbers(), batch_size=2))
    assert [ids for _, ids in drain(walk)] == [None] * 3
    assert walk.policy["kind"] == "other"
    plain = Walk([torch.ones(1), torch.zeros(1)])
    assert [ids for _, ids in drain(plain)] == [None] * 2
    plain.close()


# Drawing the rest anew.


def rekeyed(key: str) -> Callable[[], None]:
    def rekey() -> None:
        torch.manual_seed(derive_seed(key, "torch"))

    return rekey


def rest_after(make: Callable[[], DataLoader[Any]], consumed: int, key: str) -> tuple[list[int], list[int], Walk]:
    """Return the ids before and after a redraw, checked against what was fetched."""
    reseed(0)
    walk = Walk(make())
    before = [index for _ in range(consumed) for index in walk.draw()[1]]
    rekeyed(key)()
    reason = walk.redraw()
    assert reason is None
    rest = []
    for batch, ids in drain(walk):
        assert ids == ids_of(batch)
        rest += ids
    walk.close()
    assert list(walk.delivered) == before + rest
    return before, rest, walk


@pytest.mark.parametrize("consumed", [1, 3, 5])
@pytest.mark.parametrize("name", ["shuffled", "no batches"])
def test_the_rest_is_a_permutation_of_exactly_the_remaining_ids(name: str, consumed: int) -> None:
    before, rest, _ = rest_after(LOADERS[name], consumed, "0/1")
    assert sorted(before + rest) == list(range(SIZE))


def test_ids_that_would_have_been_dropped_may_come() -> None:
    make = LOADERS["shuffled, drop_last"]
    reseed(0)
    dropped = set(range(SIZE)) - {index for _, ids in drain(Walk(make())) for index in ids}
    assert len(dropped) == 2
    seen = set()
    for unit in range(12):
        before, rest, _ = rest_after(make, 2, f"0/{unit}")
        assert len(rest) == 12
        assert len(set(before + rest)) == 20
        seen |= set(rest)
    assert dropped & seen


def test_with_replacement_the_rest_comes_anew_from_all() -> None:
    seen: Counter[int] = Counter()
    for unit in range(10):
        before, rest, _ = rest_after(LOADERS["replacement"], 3, f"0/{unit}")
        assert len(before + rest) == 30
        seen.update(set(rest) & set(before))
    assert seen, "ids that came before may come again"


def test_a_weighted_rest_has_the_right_count_and_ids() -> None:
    before, rest, _ = rest_after(LOADERS["weighted"], 3, "0/1")
    assert len(before + rest) == 30
    before, rest, _ = rest_after(LOADERS["weighted once"], 3, "0/1")
    assert len(before + rest) == 20 == len(set(before + rest))


@pytest.mark.parametrize(("name", "ids"), [("subset", [3, 1, 4, 1, 5, 9, 2, 6]), ("subset of tensors", range(3, 17))])
def test_the_rest_of_a_subset_is_of_the_subset_each_as_often_as_it_stands_there(name: str, ids: Any) -> None:
    before, rest, _ = rest_after(LOADERS[name], 1, "0/1")
    assert Counter(before + rest) == Counter(ids)


@pytest.mark.parametrize("consumed", [2, 5, 6, 11])
def test_a_pass_of_several_permutations_completes_the_one_in_progress(consumed: int) -> None:
    before, rest, _ = rest_after(LOADERS["more than once"], consumed, "0/1")
    whole = before + rest
    assert len(whole) == 50
    for start in (0, SIZE):
        assert sorted(whole[start : start + SIZE]) == list(range(SIZE))


def test_a_pass_of_fewer_than_all_draws_from_all_that_remain() -> None:
    before, rest, _ = rest_after(LOADERS["fewer"], 2, "0/1")
    assert len(before + rest) == 13 == len(set(before + rest))


@pytest.mark.parametrize("name", ["shuffled", "replacement", "weighted", "subset", "no batches", "shuffled, drop_last"])
def test_two_keys_give_two_orders_and_one_key_gives_one(name: str) -> None:
    one, two, again = (rest_after(LOADERS[name], 1, key)[1] for key in ("0/1", "0/2", "0/1"))
    assert one == again
    assert one != two


def test_a_sequential_order_stays() -> None:
    before, rest, _ = rest_after(LOADERS["sequential"], 2, "0/1")
    assert before + rest == list(range(SIZE))


@pytest.mark.parametrize("name", ["sampler's generator", "stock batches", "shuffled, own generator"])
def test_a_generator_of_its_own_is_honoured(name: str) -> None:
    def rest(seed: int | None) -> list[int]:
        reseed(0)
        loader = LOADERS[name]()
        walk = Walk(loader)
        walk.draw()

        def rekey() -> None:
            torch.manual_seed(77)
            if seed is not None:
                getattr(loader.batch_sampler.sampler, "generator").manual_seed(seed)  # noqa: B009

        rekey()
        assert walk.redraw() is None
        return [index for _, ids in drain(walk) for index in ids]

    assert rest(1) == rest(1)
    assert rest(1) != rest(2)
    assert sorted(rest(1)) == sorted(rest(2))


def test_an_order_that_cannot_be_redrawn_is_kept_and_said() -> None:
    reseed(0)
    expected = [ids for _, ids in drain(Walk(LOADERS["own batches"]()))]
    reseed(0)
    walk = Walk(LOADERS["own batches"]())
    first = [walk.draw()[1], walk.draw()[1]]
    rekeyed("0/1")()
    reason = walk.redraw()
    assert "Pairs" in reason
    assert "order was kept" in reason
    assert first + [ids for _, ids in drain(walk)] == expected


def test_the_rest_of_a_pass_of_ten_thousand_million_ids_is_drawn_as_it_is_needed() -> None:
    data = TensorDataset(torch.arange(SIZE))
    for replacement in (True, False):
        sampler = RandomSampler(data, replacement=replacement, num_samples=int(1e10))
        walk = Walk(DataLoader(data, batch_size=4, sampler=sampler))
        walk.draw()
        torch.manual_seed(3)
        assert walk.redraw() is None
        assert len({index for _ in range(SIZE) for index in walk.draw()[1]}) > 1
        walk.close()


def test_redrawing_before_the_first_batch_and_after_the_last() -> None:
    before, rest, _ = rest_after(LOADERS["shuffled"], 0, "0/1")
    assert (before, sorted(rest)) == ([], list(range(SIZE)))
    before, rest, _ = rest_after(LOADERS["shuffled"], 6, "0/1")
    assert rest == []


def test_the_loader_is_itself_again_in_the_next_pass() -> None:
    loader = LOADERS["shuffled"]()
    walk = Walk(loader)
    walk.draw()
    walk.draw()
    walk.redraw()
    walk.close()
    assert walk.loader is None, "a walk that is over holds no loader"
    assert sorted(index for _, ids in drain(Walk(loader)) for index in ids) == list(range(SIZE))


@pytest.mark.parametrize(
    ("name", "kind", "replacement", "drop_last", "batch_size", "length"),
    [
        ("shuffled", "shuffled", False, False, 4, SIZE),
        ("shuffled, drop_last", "shuffled", False, True, 4, SIZE),
        ("sequential", "sequential", False, False, 4, SIZE),
        ("replacement", "replacement", True, False, 4, SIZE),
        ("more than once", "other", False, False, 4, SIZE),
        ("weighted", "replacement", True, False, 4, SIZE),
        ("weighted once", "other", False, False, 4, SIZE),
        ("subset", "other", False, False, 4, SIZE),
        ("no batches", "shuffled", False, False, None, SIZE),
        ("stock batches", "shuffled", False, False, 5, SIZE),
    ],
)
def test_policies(
    name: str, kind: str, replacement: bool, drop_last: bool, batch_size: int | None, length: int
) -> None:
    policy = policy_of(LOADERS[name]())
    del policy["sampler"]
    assert policy == {
        "kind": kind,
        "replacement": replacement,
        "drop_last": drop_last,
        "batch_size": batch_size,
        "length": length,
    }


def test_policies_of_what_is_not_stock() -> None:
    assert policy_of(LOADERS["own batches"]())["kind"] == "batches"
    assert policy_of([1, 2])["sampler"] == "list"
    subset = Subset(TensorDataset(torch.arange(9)), [1, 2, 3])
    assert policy_of(DataLoader(subset, sampler=SequentialSampler(subset)))["length"] == 3


def test_an_arrangement_set_later_acts_from_the_next_redraw_and_the_known_sampler_is_torchs() -> None:
    def backwards(walk: Walk, source: Iterator[Any]) -> Iterator[Any]:
        return iter([*source][::-1])

    walk = Walk(LOADERS["sequential"]())
    assert type(walk.known_sampler) is SequentialSampler
    walk.arrange = backwards
    assert walk.draw()[1] == [0, 1, 2, 3]
    walk.redraw()
    assert [ids for _, ids in drain(walk)] == [
        [20, 21],
        [16, 17, 18, 19],
        [12, 13, 14, 15],
        [8, 9, 10, 11],
        [4, 5, 6, 7],
    ]
    assert Walk(LOADERS["own batches"]()).known_sampler is None
