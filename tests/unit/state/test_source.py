import math

import pytest
import torch

from auditor.errors import MemauditError
from auditor.state.half_life import half_life_of
from auditor.state.source import HIDDEN, Reading, UncapturedSource, copy_into
from auditor.state.stateful import TensorSource


def test_a_half_life_is_when_half_is_left() -> None:
    for decay in (0.5, 0.9, 0.999):
        assert decay ** half_life_of(decay) == pytest.approx(0.5)
    assert half_life_of(0.5) == 1.0
    assert [half_life_of(decay) for decay in (0.0, 1.0, -0.1, 1.5, math.nan)] == [None] * 5


def test_a_reading_without_values_differs_from_one_with_empty_values() -> None:
    tensors = {"a": torch.ones(2)}
    assert Reading(tensors).digest() == Reading(dict(tensors), None).digest()
    assert Reading(tensors).digest() != Reading(tensors, {}).digest()


def test_copies_go_in_place() -> None:
    live = torch.zeros(2, 2)
    alias = live[0]
    copy_into({"w": live}, {"w": torch.ones(2, 2)}, "params")
    assert alias.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("stored", "where", "why"),
    [
        ({"w": torch.ones(3)}, "params/w", None),
        ({"w": torch.ones(2, 2).double()}, "params/w", None),
        ({"v": torch.ones(2, 2)}, "params", "only in the anchor: ['v']; only in the program: ['w']"),
        ({}, "params", "only in the anchor: []; only in the program: ['w']"),
    ],
)
def test_another_program_is_refused_by_the_tensor(stored: dict, where: str, why: str | None) -> None:
    live = torch.zeros(2, 2)
    with pytest.raises(MemauditError) as caught:
        copy_into({"w": live}, stored, "params")
    assert (caught.value.where, caught.value.why) == (where, why)
    assert live.tolist() == [[0.0, 0.0]] * 2


def test_a_census_entry() -> None:
    source = TensorSource("queue", "queue", torch.zeros(1))
    expected = {"name": "queue", "kind": "queue", "lifetime": "the run", "half_life": None, "visibility": HIDDEN}
    assert source.describe() == {**expected, "captured": True, "reason": None}


def test_what_is_not_captured_says_why_and_is_left_alone() -> None:
    source = UncapturedSource("other.cache", "other", "a tensor of kind sparse_coo")
    entry = source.describe()
    assert (entry["captured"], entry["reason"]) == (False, "a tensor of kind sparse_coo")
    assert source.read() == Reading({})
    source.restore(Reading({}))
