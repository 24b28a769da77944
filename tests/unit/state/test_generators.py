import gc
import random
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, Subset, TensorDataset

from auditor.state.census import Watched
from auditor.state.generators import StreamFinder
from auditor.state.streams import Preserved, global_streams, seed_everything

DATA = TensorDataset(torch.arange(4.0))
GLOBAL = ["python", "numpy", "torch"]


class Images(Dataset[int]):
    """Holds what it is given."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


class Policy:
    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def apply(self, samples: list[int]) -> list[int]:
        return samples


class Ordered(Sampler[int]):
    def __init__(self, data: Any, generator: torch.Generator) -> None:
        self.data_source = data
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))

    def __len__(self) -> int:
        return 4


def names(objects: dict[str, Any], *loaders: DataLoader[Any]) -> list[str]:
    found = [stream.name for stream in StreamFinder().find(objects, loaders)]
    assert found[:3] == GLOBAL
    return found[3:]


def test_streams_are_the_global_ones_and_every_generator_once() -> None:
    shared = torch.Generator().manual_seed(1)
    own = torch.Generator().manual_seed(2)
    loaders: list[DataLoader[Any]] = [
        DataLoader(DATA, shuffle=True, generator=shared),
        DataLoader(DATA, sampler=RandomSampler(DATA, generator=own), generator=shared),
        DataLoader(DATA, shuffle=True),
    ]
    found = Watched()
    for name, thing in {"noise": np.random.default_rng(3), "first": shared, "default": torch.default_generator}.items():
        found.add(name, thing)
    assert [stream.name for stream in found.streams(loaders)] == [*GLOBAL, "noise", "first", "sampler[2]"]
    assert names({}, loaders[0]) == ["loader"]
    assert names({}, *loaders) == ["loader", "sampler[2]"]
    assert [stream.name for stream in StreamFinder().find({}, {2: loaders[0], 7: loaders[1]})][3:] == [
        "loader[2]",
        "sampler[7]",
    ]


def test_the_four_kinds_of_generator_are_watched_and_the_global_ones_not_twice() -> None:
    kinds = {
        "one": torch.Generator(),
        "two": np.random.default_rng(0),
        "three": np.random.RandomState(0),
        "four": random.Random(0),
    }
    assert names(kinds) == ["one", "two", "three", "four"]
    assert names({"a": random._inst, "b": np.random.mtrand._rand, "c": random.SystemRandom()}) == []


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (lambda rng: Images(rng=rng), "dataset.rng"),
        (lambda rng: Images(transform=Policy(rng)), "dataset.transform.rng"),
        (lambda rng: Images(transforms=[None, Policy(rng)]), "dataset.transforms[1].rng"),
        (lambda rng: Images(by={"a": (rng,), "b c": 1}), "dataset.by.a[0]"),
        (lambda rng: Images(by={"b c": rng}), "dataset.by[0]"),
        (lambda rng: Subset(Images(rng=rng), [0, 1]), "dataset.dataset.rng"),
        (lambda rng: Images(a=0) + Images(rng=rng), "dataset.datasets[1].rng"),
        (lambda rng: Images(transform=Policy(rng).apply), "dataset.transform.rng"),
        (lambda rng: Images(transform=partial(max, rng, key=rng)), "dataset.transform.args[0]"),
        (lambda rng: Images(transform=lambda image: (image, rng)), "dataset.transform.rng"),
        (lambda rng: Images(net=nn.Sequential(nn.Sequential(nn.ReLU(), _module(rng)))), "dataset.net.0.1.rng"),
    ],
)
def test_generators_are_met_wherever_a_data_set_keeps_them(held: Callable[[Any], Any], name: str) -> None:
    for rng in (torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)):
        assert names({}, DataLoader(held(rng), batch_size=2)) == [name]


def _module(rng: Any) -> nn.Module:
    module = nn.Dropout()
    module.rng = rng
    return module


def test_a_loaders_parts_are_searched_and_a_data_set_that_a_sampler_knows_is_not_the_samplers() -> None:
    data = Images(rng=np.random.default_rng(0))
    one, two = torch.Generator(), torch.Generator()
    batches = BatchSampler(Ordered(data, one), 2, drop_last=False)
    batches.rng = random.Random(0)  # type: ignore[attr-defined]
    loader = DataLoader(data, batch_sampler=batches, collate_fn=Policy(np.random.RandomState(0)).apply, generator=two)
    assert names({}, loader) == ["loader", "sampler", "batch_sampler.rng", "dataset.rng", "collate_fn.rng"]


def test_what_is_watched_is_searched_too_and_keeps_its_name() -> None:
    rng = np.random.default_rng(0)
    policy = Policy(rng)
    loader = DataLoader(Images(transform=policy))
    found = StreamFinder().find({"augment": policy, "model": _module(random.Random(1))}, [loader])
    assert [stream.name for stream in found][3:] == ["augment.rng", "model.rng"]
    assert [place[:3] for place in found[3].places] == [
        ("augment.rng", "watched", None),
        ("dataset.transform.rng", "dataset", 1),
    ]
    assert len({place.holder for place in found[3].places}) == 1


def test_names_are_unique() -> None:
    one, two = torch.Generator(), torch.Generator()
    loader = DataLoader(DATA, generator=two)
    assert names({"loader": one, "torch": random.Random(0)}, loader) == ["loader", "torch.2", "loader.2"]


def test_a_stream_stays_itself_and_follows_what_is_bound_anew() -> None:
    data = Images(rng=np.random.default_rng(0))
    loader, finder = DataLoader(data), StreamFinder()
    first = finder.find({}, [loader])
    again = finder.find({}, [loader])
    assert all(one is two for one, two in zip(first, again, strict=True))
    data.rng = np.random.default_rng(1)
    anew = finder.find({}, [loader])
    assert [stream.name for stream in anew] == [stream.name for stream in first]
    assert anew[3] is not first[3]
    assert anew[3].digest() != first[3].digest()
    data.rng = None
    data.later = Policy(random.Random(0))
    assert [stream.name for stream in finder.find({}, [loader])][3:] == ["dataset.later.rng"]


def test_what_appears_later_is_found_when_asked_to_look_again() -> None:
    data = Images()
    watched, loader = Watched(), DataLoader(data)
    assert len(watched.streams([loader])) == 3
    data.rng = random.Random(0)
    assert len(watched.streams([loader])) == 3
    watched.look_again()
    assert watched.streams([loader])[3].name == "dataset.rng"


def test_the_search_ends_in_cycles_long_lists_and_deep_chains() -> None:
    data = Images(samples=[("a", index) for index in range(100_000)])
    data.self = data
    data.chain = chain = Images()
    for _ in range(20):
        chain.next = Images(rng=random.Random(0))
        chain = chain.next
    data.last = Policy(random.Random(1))
    found = names({}, DataLoader(data))
    assert found[0] == "dataset.last.rng"
    assert found[-1] == "dataset.chain.next.next.next.next.rng"


def test_a_loader_is_not_kept_alive() -> None:
    finder = StreamFinder()
    loader = DataLoader(DATA, generator=torch.Generator())
    finder.find({}, {1: loader})
    gone = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone() is None
    other = DataLoader(DATA)
    assert len(finder.find({}, {1: other})) == 3


def test_a_program_that_seeds_all_alike_shows_itself() -> None:
    with Preserved(global_streams()):
        seed_everything(2**33 + 5)
        found = StreamFinder().find({})
        assert [stream.fresh_from for stream in found] == [2**33 + 5, 2**33 + 5, None]
        random.random()
        finder = StreamFinder()
        assert [stream.fresh_from for stream in finder.find({})] == [None, 2**33 + 5, None]
        np.random.rand()
        assert finder.find({})[1].fresh_from == 2**33 + 5, "it was seen at its start"
