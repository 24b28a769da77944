from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from auditor.recorder.contract import describe
from auditor.recorder.settings import Settings
from auditor.state.census import Watched
from auditor.state.streams import TORCH_DEFAULT_SEED, Preserved, global_streams


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


def contract(
    seed: int | None,
    loaders: list[DataLoader[Any]] | None = None,
    modules: list[nn.Module] | None = None,
    **watched: Any,
) -> dict[str, dict[str, Any]]:
    settings = Settings.resolve(Path("x"), seed=seed, anchor_every=None, leaves_every=None, order="ids", key=None)
    found = Watched()
    for name, thing in watched.items():
        found.add(name, thing)
    entries = describe(found.streams(loaders or []), settings, modules or [], loaders or [])
    return {entry["name"]: entry for entry in entries}


def test_a_recording_that_seeds_vouches_for_every_global_stream() -> None:
    for name, entry in contract(7).items():
        assert entry == {
            "name": name,
            "seeded_by": "auditor.record(seed=…), 7",
            "consumers": [],
            "warnings": [],
        }


def test_without_a_seed_only_torch_can_be_asked() -> None:
    torch.manual_seed(5)
    found = contract(None)
    assert found["torch"]["seeded_by"] == "the program, 5"
    assert found["torch"]["warnings"] == []
    for name in ("python", "numpy"):
        assert found[name]["seeded_by"] == "unknown"
        assert "seeded by nobody" in found[name]["warnings"][0]
    torch.manual_seed(TORCH_DEFAULT_SEED)
    assert contract(None)["torch"]["warnings"]


def test_consumers_follow_the_generator() -> None:
    data = TensorDataset(torch.arange(6.0))
    dropout = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.1))
    shared = contract(0, [DataLoader(data, shuffle=True)], [dropout])
    assert shared["torch"]["consumers"] == [
        "loader: base seed of each pass",
        "loader: order of each pass",
        "dropout in 2 modules",
    ]
    own = contract(0, [DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(4))])
    assert own["torch"]["consumers"] == []
    assert own["loader"]["consumers"] == ["loader: base seed of each pass", "loader: order of each pass"]
    assert own["loader"]["seeded_by"] == "its own seed, 4"
    assert own["loader"]["warnings"] == []


def test_a_generator_that_nobody_seeded_is_warned_about() -> None:
    entry = contract(0, own=torch.Generator())["own"]
    assert entry["seeded_by"] == "torch's fixed default seed"
    assert entry["warnings"]


def test_numpy_generators_are_streams() -> None:
    assert "augment" in contract(0, augment=np.random.default_rng(1))
