"""Digests of nested values, tensor by tensor; what has no memory to read has none, and nothing breaks."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode

from auditor.artifact.digest import digest_text
from auditor.outcomes.probe import content_digest
from auditor.recorder.leaves import UNREAD, nested_digest, of_gradients, of_nested

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Box:
    held: Any


def test_a_batch_has_the_digest_that_a_step_event_gives_it() -> None:
    batch = [torch.arange(6.0).reshape(2, 3), torch.tensor([1, 2])]
    read = of_nested(batch)
    assert read.digest == digest_text(content_digest(batch)) == nested_digest(batch)
    assert [path for path, _ in read.leaves or []] == ["0", "1"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Box(torch.ones(2)), {"held": torch.ones(2)}),
        (UserDict(held=torch.ones(2)), {"held": torch.ones(2)}),
        (Box([Box(1), torch.ones(1)]), {"held": [{"held": 1}, torch.ones(1)]}),
    ],
    ids=["data class", "mapping", "nested"],
)
def test_data_classes_and_mappings_count_as_dicts(one: Any, two: Any) -> None:
    assert nested_digest(one) == nested_digest(two) is not None


@given(st.lists(st.floats(allow_nan=False), max_size=5), st.lists(st.floats(allow_nan=False), max_size=5))
def test_digests_are_equal_where_bytes_are(one: list[float], two: list[float]) -> None:
    tensors = [torch.tensor(each, dtype=torch.float64) for each in (one, two)]
    same = list(map(repr, one)) == list(map(repr, two))
    assert (nested_digest(Box(tensors[0])) == nested_digest(Box(tensors[1]))) is same


def test_named_tuples_and_none_can_be_read() -> None:
    assert nested_digest(Pair(torch.ones(1), None)) is not None


def looping() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(3)


UNREADABLE = {
    "an object of one's own": object,
    "a list that holds itself": looping,
    "a fake tensor": fake,
    "a tensor on no device": lambda: torch.zeros(3, device="meta"),
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a distribution": lambda: torch.distributions.Normal(0.0, 1.0),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_has_no_digest(make: Any) -> None:
    value = make()
    assert nested_digest({"a": value}) is None
    assert of_nested([value]) == UNREAD


def test_a_tensor_inside_vmap_has_no_digest_and_stays_what_it_is() -> None:
    seen: list[str | None] = []

    def double(row: torch.Tensor) -> torch.Tensor:
        seen.append(nested_digest(row))
        return row * 2

    assert torch.equal(torch.func.vmap(double)(torch.ones(2, 3)), torch.full((2, 3), 2.0))
    assert seen == [None]


def test_gradients_dense_sparse_and_absent() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    line = nn.Linear(2, 1)
    line(table(torch.tensor([1, 3]))).sum().backward()
    line.bias.grad = None
    read = of_gradients([("table", table.weight), ("weight", line.weight), ("bias", line.bias)])
    assert [(name, digest is not None) for name, digest in read.leaves or []] == [
        ("table", True),
        ("weight", True),
        ("bias", False),
    ]
    table.weight.grad = table.weight.grad * 2  # type: ignore[operator]
    assert of_gradients([("table", table.weight)]).leaves != (read.leaves or [])[:1]


def test_reading_asks_for_no_gradient_and_draws_nothing() -> None:
    weight = torch.ones(3, 3, requires_grad=True)
    output = (weight * 2).T
    state = torch.get_rng_state()
    before = output.grad_fn
    assert nested_digest(output) is not None
    assert output.grad_fn is before
    assert torch.equal(torch.get_rng_state(), state)
