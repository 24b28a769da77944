"""Half-lives that follow from what the program says, and none where nothing does."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from auditor.state.half_life import averaging_decay, own_half_life, queue_half_life, queue_length

NET = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("arguments", "decay"),
    [
        ({"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, 0.9),
        ({"avg_fn": get_ema_avg_fn(0.99)}, 0.99),
        ({"multi_avg_fn": get_swa_multi_avg_fn()}, None),
        ({"avg_fn": lambda old, new, count: new}, None),
        ({}, None),
    ],
    ids=["multi", "single", "swa", "own", "none"],
)
def test_the_decay_is_in_the_averaging_function(arguments: dict, decay: float | None) -> None:
    assert averaging_decay(AveragedModel(NET, **arguments)) == decay


@pytest.mark.parametrize(
    ("attributes", "decay"),
    [
        *(({"decay": 0.9}, 0.9), ({"ema_decay": 0.9}, 0.9), ({"momentum": 0.99}, 0.99), ({"tau": 0.01}, 0.99)),
        *(({"momentum": 0.1}, None), ({"decay": True}, None), ({"decay": "slow"}, None), ({}, None)),
    ],
)
def test_an_average_says_its_decay_in_an_attribute(attributes: dict, decay: float | None) -> None:
    found = own_half_life(SimpleNamespace(**attributes))
    assert found is None if decay is None else decay**found == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("thing", "length"),
    [
        *((torch.zeros(128, 4096), 4096), (np.zeros((10, 2)), 10), (deque(maxlen=7), None), (deque(), None)),
        *((torch.zeros(1), None), (torch.zeros(()), None), ([1, 2], None)),
    ],
    ids=["tensor", "array", "deque", "endless deque", "pointer", "scalar", "list"],
)
def test_the_length_of_a_queue(thing: object, length: int | None) -> None:
    assert queue_length(thing) == length


def test_half_of_a_queue_is_replaced_after_half_its_length() -> None:
    assert queue_half_life(512, 64) == 4.0
    assert queue_half_life(None, 64) is None
    assert queue_half_life(512, None) is None


def test_a_property_is_not_asked() -> None:
    class Averaging:
        @property
        def decay(self) -> float:
            raise AssertionError("the program's code was run")

    assert own_half_life(Averaging()) is None
