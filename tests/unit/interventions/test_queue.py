"""Queues flushed, shuffled, aged and truncated, held to a plain list of what was put in and when."""

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support.intervening import Scene

LENGTH, WIDTH = 6, 2


class Contrast(nn.Module):
    """A queue of rows or of columns with labels, written to at a pointer; entry k is (k, -k) with label k."""

    def __init__(self, *, columns: bool = False, length: int = LENGTH, as_tensor: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.columns, self.length = columns, length
        self.register_buffer("queue", torch.zeros(WIDTH, length) if columns else torch.zeros(length, WIDTH))
        self.register_buffer("queue_labels", torch.zeros(length, dtype=torch.long))
        if as_tensor:
            self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        else:
            self.queue_ptr = 0
        self.register_buffer("bank", torch.zeros(4, 3))

    def put(self, *entries: int) -> "Contrast":
        for entry in entries:
            place = int(self.queue_ptr)
            (self.queue.T if self.columns else self.queue)[place] = torch.tensor([entry, -entry])
            self.queue_labels[place] = entry
            after = (place + 1) % self.length
            if isinstance(self.queue_ptr, torch.Tensor):
                self.queue_ptr[0] = after
            else:
                self.queue_ptr = after
        return self

    @property
    def entries(self) -> list[int]:
        """The entries by place; rows and labels agree."""
        rows = self.queue.T if self.columns else self.queue
        found = self.queue_labels.tolist()
        assert rows.tolist() == [[entry, -entry] for entry in found]
        return found


FORMS: dict[str, dict[str, Any]] = {"rows": {}, "columns": {"columns": True}, "plain pointer": {"as_tensor": False}}


def started(*entries: int, **form: Any) -> tuple[Contrast, Scene]:
    model = Contrast(**form).put(*entries)
    del model.bank
    return model, Scene(model=model)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_flushed_queue_is_as_new_and_is_filled_from_its_first_place(form: dict[str, Any]) -> None:
    model, scene = started(1, 2, 3, 4, 5, 6, 7, 8, **form)
    held = model.queue
    receipt = scene.apply("queue", "flush")
    assert receipt["applied"]
    assert receipt["norm_after"] == 0.0
    assert model.queue is held
    assert (model.entries, int(model.queue_ptr)) == ([0] * LENGTH, 0)
    assert model.put(9).entries == [9, 0, 0, 0, 0, 0]
    scene.apply("queue", "flush")
    assert "already was as flush makes it" in scene.refused("queue", "flush")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_shuffle_permutes_what_is_there_among_the_filled_places(form: dict[str, Any]) -> None:
    model, scene = started(1, 2, 3, 4, **form)
    assert scene.apply("queue", "shuffle")["applied"]
    assert sorted(model.entries[:4]) == [1, 2, 3, 4]
    assert model.entries[4:] == [0, 0]
    assert int(model.queue_ptr) == 4
    again, other = started(1, 2, 3, 4, **form)
    other.apply("queue", "shuffle")
    assert again.entries == model.entries, "drawn from the unit's key alone"


def test_a_shuffle_differs_from_unit_to_unit_and_draws_from_no_stream() -> None:
    found = []
    for unit in range(6):
        model, scene = started(1, 2, 3, 4, 5, 6)
        scene.branch.key = f"0/{unit}"
        streams = [stream.read().digest() for stream in scene.branch.streams()]
        scene.apply("queue", "shuffle")
        assert [stream.read().digest() for stream in scene.branch.streams()] == streams
        found.append(tuple(model.entries))
    assert len(set(found)) > 3


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_age_replaces_the_newest_by_the_oldest_kept(form: dict[str, Any]) -> None:
    model, scene = started(1, 2, 3, 4, 5, 6, 7, 8, **form)  # 7 8 3 4 5 6, and the pointer at 3
    scene.apply("queue", "age", entries=3)
    assert model.entries == [4, 5, 3, 4, 5, 3]
    assert int(model.queue_ptr) == 2
    assert "holds 6 entries" in scene.refused("queue", "age", entries=6)


def test_age_of_a_queue_that_is_half_full_counts_what_is_there() -> None:
    model, scene = started(1, 2, 3)
    scene.apply("queue", "age", entries=2)
    assert model.entries == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_truncate_keeps_the_newest(form: dict[str, Any]) -> None:
    model, scene = started(1, 2, 3, 4, 5, 6, 7, 8, **form)
    scene.apply("queue", "truncate", length=3)
    assert model.entries == [7, 8, 0, 0, 0, 6]
    assert int(model.queue_ptr) == 2
    assert "already was as truncate makes it" in scene.refused("queue", "truncate", length=3)


@given(count=st.integers(1, 20), number=st.integers(1, 8), length=st.integers(3, 8))
def test_a_ring_and_a_deque_with_the_same_entries_become_the_same(count: int, number: int, length: int) -> None:
    found = {}
    for action, argument in (("age", "entries"), ("truncate", "length")):
        model, scene = started(*range(1, count + 1), length=length)
        line: deque[int] = deque(range(1, count + 1), maxlen=length)
        other = Scene(queue=line)
        receipts = [each.apply("queue", action, **{argument: number}) for each in (scene, other)]
        assert receipts[0]["applied"] == receipts[1]["applied"]
        begin = int(model.queue_ptr)
        by_age = [entry for entry in model.entries[begin:] + model.entries[:begin] if entry]
        assert by_age == list(line)
        found[action] = list(line)
    kept = list(range(max(1, count - length + 1), count + 1))
    assert found["truncate"] == kept[-number:]
    if number < len(kept):
        left = kept[:-number]
        assert found["age"] == left + [left[index % len(left)] for index in range(number)]
    else:
        assert found["age"] == kept


@pytest.mark.parametrize("make", [deque, list])
def test_deques_and_lists_keep_their_identity_and_their_entries(make: Any) -> None:
    entries = [(torch.tensor([float(k)]), k) for k in range(1, 5)]
    held = make(entries)
    scene = Scene(replay_buffer=held)
    scene.apply("queue", "shuffle")
    assert sorted(each[1] for each in held) == [1, 2, 3, 4]
    assert all(any(each is entry for entry in entries) for each in held)
    scene.apply("queue", "truncate", length=2)
    assert len(held) == 2
    first = held[0]
    assert scene.apply("queue", "age", entries=1)["applied"]
    assert held[1][1] == first[1]
    assert held[1][0] is not first[0], "a copy: what changes one entry in place must not change two"
    scene.apply("queue", "flush")
    assert len(held) == 0
    assert "is empty at this step" in scene.refused("queue", "shuffle")


@pytest.mark.parametrize("array", [False, True], ids=["tensor", "array"])
def test_a_tensor_without_a_pointer_has_no_newest_entry(array: bool) -> None:
    tensor = torch.arange(1.0, 13.0).reshape(6, 2)
    held: Any = tensor.numpy().copy() if array else tensor.clone()
    scene = Scene(queue=held)
    assert "has no pointer" in scene.refused("queue", "age", entries=1)
    assert "has no pointer" in scene.refused("queue", "truncate", length=1)
    scene.apply("queue", "shuffle")
    now = torch.from_numpy(held) if array else held
    assert sorted(now.tolist()) == tensor.tolist()
    scene.apply("queue", "flush")
    assert not np.any(np.asarray(held))


def test_which_dimension_counts_entries_can_be_said_and_must_be_where_it_is_open() -> None:
    tensor = torch.arange(1.0, 10.0).reshape(3, 3)
    scene = Scene(queue=tensor)
    assert "axis=…" in scene.refused("queue", "shuffle")
    rows = sorted(tensor.tolist())
    assert scene.apply("queue", "shuffle", axis=0)["applied"]
    assert sorted(tensor.tolist()) == rows
    assert "none of which is 2" in scene.refused("queue", "shuffle", axis=2)


def test_of_two_queues_in_a_module_one_is_picked_and_a_bank_has_no_pointer() -> None:
    model = Contrast().put(1, 2, 3)
    model.bank += 1.0
    scene = Scene(model=model)
    assert "bank has no pointer" in scene.refused("queue", "truncate", length=1)
    assert "holds no negatives" in scene.refused("queue", "flush", of="negatives")
    assert scene.apply("queue", "flush", of="bank")["applied"]
    assert model.queue.abs().sum() > 0
    assert not model.bank.any()


@pytest.mark.parametrize(
    "pointer", [torch.tensor([9]), torch.tensor([0.5]), torch.tensor([1, 2]), torch.tensor([True])]
)
def test_a_pointer_that_points_nowhere_is_refused(pointer: torch.Tensor) -> None:
    model, scene = started(1, 2)
    model.queue_ptr = pointer
    assert "does not point to one of the 6 entries" in scene.refused("queue", "flush")


def test_queues_of_unequal_length_at_one_pointer_are_refused() -> None:
    model, scene = started(1, 2)
    model.register_buffer("queue_ages", torch.ones(9))
    assert "share a pointer" in scene.refused("queue", "truncate", length=1)


def test_what_has_a_meaning_of_its_own_is_refused() -> None:
    class Replay:
        def __init__(self) -> None:
            self.storage, self.position = [1, 2, 3], 1

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queue, self.queue_ptr = [torch.ones(1)], 0

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queue, self.queue_filled = torch.ones(4, 2), 3

    assert "what its parts mean is not known" in Scene(replay=Replay()).refused("queue", "flush")
    assert "what its parts mean is not known" in Scene(queue={"a": 1}).refused("queue", "flush")
    assert "a list with a pointer" in Scene(model=Listed()).refused("queue", "flush")
    assert "queue_filled" in Scene(model=Counted()).refused("queue", "flush")
    assert "there is no queue" in Scene(model=nn.Linear(2, 2)).refused("queue", "flush")
