import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from auditor.recorder.contract import describe
from auditor.recorder.reseeding import Reseeding
from auditor.recorder.settings import Settings
from auditor.recorder.workers import WorkerStream, WorkerTable
from auditor.state.generators import StreamFinder
from auditor.state.streams import TORCH_DEFAULT_SEED, Preserved, global_streams, seed_everything

DATA = TensorDataset(torch.arange(6.0))


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


class Images(Dataset[int]):
    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


class Windows(Sampler[int]):
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))

    def __len__(self) -> int:
        return 4


def seed_worker(worker: int) -> None:
    np.random.seed(worker)


def contract(
    seed: int | None,
    loaders: list[DataLoader[Any]] | None = None,
    modules: list[nn.Module] | None = None,
    reseeding: Reseeding | None = None,
    **watched: Any,
) -> dict[str, dict[str, Any]]:
    settings = Settings.resolve(Path("x"), seed=seed, anchor_every=None, leaves_every=None, order="ids", key=None)
    streams = StreamFinder().find(watched, loaders or [])
    entries = describe(streams, settings, modules or [], loaders or [], reseeding)
    assert all(entry.keys() == {"name", "seeded_by", "consumers", "warnings"} for entry in entries)
    return {entry["name"]: entry for entry in entries}


# How a stream was seeded.


def test_a_recording_that_seeds_vouches_for_every_global_stream() -> None:
    seed_everything(7)
    random.random()
    for name, entry in contract(7).items():
        assert entry == {
            "name": name,
            "seeded_by": "auditor.record(seed=…), 7",
            "consumers": [],
            "warnings": [],
        }


def test_a_program_that_seeds_after_the_recorder_is_named() -> None:
    seed_everything(7)
    torch.manual_seed(5)
    random.seed(5)
    found = contract(7)
    assert {name: entry["seeded_by"] for name, entry in found.items()} == {
        "python": "the program, 5",
        "numpy": "auditor.record(seed=…), 7",
        "torch": "the program, 5",
    }


def test_without_a_seed_the_generators_are_asked() -> None:
    seed_everything(5)
    assert {entry["seeded_by"] for entry in contract(None).values()} == {"the program, 5"}
    random.random()
    np.random.rand()
    found = contract(None)
    assert found["torch"] | {"consumers": []} == {
        "name": "torch",
        "seeded_by": "the program, 5",
        "consumers": [],
        "warnings": [],
    }
    assert found["python"]["seeded_by"] == "unknown"
    assert "seeded by nobody" in found["python"]["warnings"][0]
    assert found["numpy"]["seeded_by"] == "the program; this kind of generator does not tell its seed"
    assert found["numpy"]["warnings"] == []
    torch.manual_seed(TORCH_DEFAULT_SEED)
    assert contract(None)["torch"]["seeded_by"] == "torch's fixed default seed"
    assert contract(None)["torch"]["warnings"]


@pytest.mark.parametrize(
    ("generator", "seeded_by", "warned"),
    [
        (torch.Generator().manual_seed(4), "its own seed, 4", False),
        (torch.Generator(), "torch's fixed default seed", True),
        (np.random.default_rng(4), "its own seed, 4", False),
        (np.random.default_rng(np.random.SeedSequence(4).spawn(2)[1]), "its own seed, 4, child 1", False),
        (np.random.default_rng(), "the operating system", True),
        (np.random.RandomState(4), "the program; this kind of generator does not tell its seed", False),
        (np.random.RandomState(), "the operating system", True),
        (random.Random(4), "the program; this kind of generator does not tell its seed", False),
    ],
    ids=["torch", "torch-unseeded", "numpy", "numpy-child", "numpy-unseeded", "state", "state-unseeded", "python"],
)
def test_each_kind_of_generator_tells_what_it_can(generator: Any, seeded_by: str, warned: bool) -> None:
    entry = contract(0, own=generator)["own"]
    assert entry["seeded_by"] == seeded_by
    assert bool(entry["warnings"]) == warned
    assert entry["consumers"] == ["own, as watched"]


# Who draws.


def test_consumers_follow_the_generator() -> None:
    dropout = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.1), nn.Dropout(0.0))
    shared = contract(0, [DataLoader(DATA, shuffle=True)], [dropout])
    assert shared["torch"]["consumers"] == [
        "loader: base seed of each pass",
        "loader: order of each pass",
        "dropout in 2 modules",
    ]
    own = contract(0, [DataLoader(DATA, shuffle=True, generator=torch.Generator().manual_seed(4))])
    assert own["torch"]["consumers"] == []
    assert own["loader"]["consumers"] == ["loader: base seed of each pass", "loader: order of each pass"]
    assert own["loader"]["seeded_by"] == "its own seed, 4"
    assert own["loader"]["warnings"] == []


def test_workers_and_their_init_function_are_named() -> None:
    loaders: list[DataLoader[Any]] = [
        DataLoader(DATA, num_workers=2, persistent_workers=True, worker_init_fn=partial(seed_worker)),
        DataLoader(DATA, num_workers=1, in_order=False),
    ]
    assert contract(0, loaders)["torch"]["consumers"] == [
        "loader: base seed of each pass (seeds torch, Python and NumPy in 2 persistent workers; "
        f"then worker_init_fn {__name__}.seed_worker)",
        "loader[2]: base seed of each pass (seeds torch, Python and NumPy in 1 worker; in_order=False)",
    ]


def test_every_kind_of_module_that_draws_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1)
    others = nn.ModuleList(
        [
            nn.RReLU(),
            nn.FractionalMaxPool2d(2, output_size=1),
            nn.LSTM(2, 2, num_layers=2, dropout=0.1),
            nn.GRU(2, 2, num_layers=1, dropout=0.0),
            nn.AlphaDropout(0.2),
            nn.MultiheadAttention(2, 1),
            nn.Linear(1, 1),
        ]
    )
    assert contract(0, [], [layer, others, layer])["torch"]["consumers"] == [
        "attention dropout in 1 module",
        "dropout in 4 modules",
        "RReLU in 1 module",
        "fractional pooling in 1 module",
        "LSTM dropout in 1 module",
    ]


def test_a_sampler_and_a_data_set_with_generators_of_their_own_are_named() -> None:
    loader = DataLoader(
        Images(np.random.default_rng(0)),
        sampler=Windows(torch.Generator().manual_seed(1)),
        collate_fn=partial(max, random.Random(0)),
    )
    found = contract(0, [loader])
    assert found["sampler"]["consumers"] == ["loader: order of each pass"]
    assert found["dataset.rng"]["consumers"] == ["loader: what dataset draws for a sample"]
    assert found["collate_fn.args[0]"]["consumers"] == ["loader: what collate_fn draws for a batch"]
    assert not any(entry["warnings"] for name, entry in found.items() if name != "python")


# What is doubtful.


def test_a_generator_that_serves_two_loaders_is_warned_about() -> None:
    one = torch.Generator().manual_seed(1)
    loaders: list[DataLoader[Any]] = [DataLoader(DATA, shuffle=True, generator=one) for _ in range(2)]
    assert contract(0, loaders[:1])["loader"]["warnings"] == []
    assert contract(0, loaders)["loader"]["warnings"] == [
        "one generator serves the order of loader and the order of loader[2]: what one draws changes what the other "
        "gets"
    ]
    assert contract(0, [DataLoader(DATA, shuffle=True), DataLoader(DATA, shuffle=True)])["torch"]["warnings"] == []


def test_a_generator_that_serves_a_loader_and_the_program_is_warned_about() -> None:
    one = torch.Generator().manual_seed(1)
    loader = DataLoader(DATA, shuffle=True, generator=one)
    assert contract(0, [loader], noise=one)["noise"]["warnings"] == [
        "one generator serves the order of loader and noise: what one draws changes what the other gets"
    ]
    assert contract(0, [loader], loader_generator=one)["loader_generator"]["warnings"] == []
    sampler = Windows(one)
    assert contract(0, [DataLoader(DATA, sampler=sampler)], order=sampler)["order.generator"]["warnings"] == []
    assert contract(0, [DataLoader(DATA, sampler=sampler)], other=Images(one))["other.rng"]["warnings"]
    both = contract(0, [DataLoader(Images(one), shuffle=True, generator=one)])
    assert "the order of loader and the data of loader" in both["loader"]["warnings"][0]


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"num_workers": 0}, None),
        (
            {"num_workers": 2},
            "each of 2 loader workers draws from a copy of this generator; the copies are not captured; unless the "
            "data set seeds them anew, the same numbers as the others and in every pass",
        ),
        (
            {"num_workers": 1, "persistent_workers": True},
            "the loader worker draws from a copy of this generator; the copies are not captured",
        ),
        (
            {"num_workers": 2, "worker_init_fn": seed_worker},
            "each of 2 loader workers draws from a copy of this generator; the copies are not captured",
        ),
    ],
    ids=["none", "two", "persistent", "init"],
)
def test_copies_of_a_generator_in_workers_are_warned_about(options: dict[str, Any], warning: str | None) -> None:
    loader = DataLoader(Images(np.random.default_rng(0)), **options)
    assert contract(0, [loader])["dataset.rng"]["warnings"] == ([] if warning is None else [warning])
    held = DataLoader(Images(random._inst), num_workers=2)
    seed_everything(0)
    assert contract(0, [held])["python"]["warnings"] == [], "workers seed the global ones"


def test_a_second_seeding_stands_in_the_contract() -> None:
    seed_everything(1)
    reseeding = Reseeding()
    for step, seed in enumerate((1, 9)):
        reseeding.see("torch", bytes([step]), seed, f"step {step}", starts_pass=False)
    torch.manual_seed(9)
    entry = contract(None, reseeding=reseeding)["torch"]
    assert entry["seeded_by"] == "the program, 1"
    assert entry["warnings"] == ["seeded again in the middle: with 9 where 1 was, seen at step 1"]


def test_worker_streams_are_described() -> None:
    settings = Settings.resolve(Path("x"), seed=0, anchor_every=None, leaves_every=None, order="ids", key=None)
    assert describe([WorkerStream("loader[2].worker1", WorkerTable(), 1)], settings, [], []) == [
        {
            "name": "loader[2].worker1",
            "seeded_by": "the base seed of loader[2]'s pass, plus 1",
            "consumers": ["the data set and collate_fn inside this worker"],
            "warnings": [],
        }
    ]
