"""Orders handed out otherwise, held to lists and streams that are worked out here by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

from auditor.artifact.digest import array_digest, digest_text
from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch
from auditor.interventions.order import Handout, OrderIntervention, sample_ids
from auditor.interventions.registry import make
from auditor.recorder.order import Walk
from auditor.state.anchor import copied
from auditor.state.census import Watched
from auditor.state.source import Reading
from auditor.state.streams import GeneratorStream, Preserved, TorchStream, global_streams

BRANCH = Branch(Watched(), "0/0")
DATA = TensorDataset(torch.arange(22))


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        torch.manual_seed(0)
        yield


def made(place: dict[str, Any], action: str, **arguments: Any) -> OrderIntervention:
    intervention = make({"source": "order", "do": action, **arguments})
    assert isinstance(intervention, OrderIntervention)
    intervention.place = place
    return intervention


def windows(*spans: list[int]) -> dict[str, Any]:
    return {"pass": 1, "loader": 1, "windows": list(spans), "closes": []}


def handout(streams: dict[str, GeneratorStream] | None = None, **more: Any) -> Handout:
    known = streams or {}

    def read() -> dict[str, Reading]:
        return {name: copied(stream.read()) for name, stream in known.items()}

    def write(readings: dict[str, Reading]) -> None:
        for name, reading in readings.items():
            known[name].restore(reading)

    values = {"number": 1, "loader": 1, "first": 1, "begins": True, "taken": 0, "sampler": None, "keyed": True}
    return Handout(**{**values, "read": read, "write": write, **more})


@st.composite
def swaps(draw: st.DrawFn) -> tuple[int, list[list[int]], int]:
    """Two windows that share no batch, in either order, the number of batches, and how many were taken before."""
    a, b, c, d = sorted(draw(st.sets(st.integers(0, 40), min_size=4, max_size=4)))
    spans = [[a + 1, b], [c + 1, d]] if draw(st.booleans()) else [[c + 1, d], [a + 1, b]]
    return d + draw(st.integers(0, 3)), spans, draw(st.integers(0, a))


@given(swaps())
def test_a_swap_moves_two_windows_and_what_lies_between_and_nothing_else(drawn: tuple[int, Any, int]) -> None:
    total, spans, taken = drawn
    batches = [[2 * number, 2 * number + 1] for number in range(1, total + 1)]
    (a, b), (c, d) = sorted(spans)
    by_hand = [*batches[: a - 1], *batches[c - 1 : d], *batches[b : c - 1], *batches[a - 1 : b], *batches[d:]]
    swap = made(windows(*spans), "swap", first="1-1", second="2-2")
    found = [*batches[:taken], *swap.arrange(iter(batches[taken:]), handout(taken=taken), BRANCH)]
    assert found == by_hand
    again = made(windows([a, a + d - c], [a + d - c + c - b, d]), "swap", first="1-1", second="2-2")
    assert [*again.arrange(iter(found), handout(), BRANCH)] == batches, "swapping back gives the order there was"


@given(st.integers(1, 12), st.integers(0, 12), st.sampled_from(["reverse", "shuffle"]))
def test_a_window_keeps_its_batches_and_the_rest_its_place(first: int, more: int, action: str) -> None:
    batches = [[number] for number in range(1, 30)]
    window = slice(first - 1, first + more)
    change = made(windows([first, first + more]), action, window="1-1")
    found = [*change.arrange(iter(batches), handout(), BRANCH)]
    assert sorted(found[window]) == batches[window]
    assert (found[: window.start], found[window.stop :]) == (batches[: window.start], batches[window.stop :])
    if action == "reverse":
        assert found[window] == batches[window][::-1]
    applied = found != batches
    assert change.receipt({})["applied"] is applied
    assert (change.receipt({})["reason"] is None) is applied


def test_nothing_is_drawn_from_the_sampler_before_the_window_is_come_to() -> None:
    asked: list[int] = []

    def source() -> Iterator[list[int]]:
        for number in count(1):
            asked.append(number)
            yield [number]

    change = made(windows([3, 4]), "reverse", window="3-4")
    given = change.arrange(source(), handout(), BRANCH)
    assert asked == []
    assert [next(given), next(given), asked] == [[1], [2], [1, 2]]
    assert [next(given), asked] == [[4], [1, 2, 3, 4]]
    assert [next(given), next(given), asked] == [[3], [5], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("replacement", [True, False])
def test_looking_ahead_leaves_a_lazy_samplers_stream_where_it_would_have_stood_at_each_batch(replacement: bool) -> None:
    def walk(change: OrderIntervention | None) -> tuple[list[list[int]], list[bytes]]:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(9)
        # More ids than there are, and ids in chunks of 32: the sampler draws as it goes.
        sampler = RandomSampler(DATA, replacement=replacement, num_samples=110, generator=generator)
        streams = {"sampler": GeneratorStream("sampler", generator), "torch": TorchStream()}
        arrange = None if change is None else lambda walk, source: change.arrange(source, handout(streams), BRANCH)
        drawing, lists, states = Walk(DataLoader(DATA, 4, sampler=sampler), arrange=arrange), [], []
        for _ in range(28):
            lists.append(drawing.draw()[1] or [])
            states.append(b"".join(stream.digest() for stream in streams.values()))
        drawing.close()
        return lists, states

    lists, states = walk(None)
    assert len(set(states)) > 3, "the sampler draws as it goes"
    swapped, same = walk(made(windows([2, 9], [15, 25]), "swap", first="1-1", second="2-2"))
    assert swapped == [*lists[:1], *lists[14:25], *lists[9:14], *lists[1:9], *lists[25:]]
    assert same == states


def test_a_stream_that_others_draw_from_meanwhile_cannot_be_looked_up_ahead() -> None:
    def source() -> Iterator[list[int]]:
        while True:
            yield torch.randint(9, (2,)).tolist()

    streams: dict[str, GeneratorStream] = {"torch": TorchStream()}
    given = made(windows([1, 3]), "reverse", window="1-3").arrange(source(), handout(streams), BRANCH)
    next(given)
    torch.rand(1)
    with pytest.raises(MemauditError, match="cannot be looked up ahead") as caught:
        next(given)
    assert "from torch, and so does something else" in (caught.value.why or "")


def test_a_pass_shorter_than_its_window_is_an_error() -> None:
    change = made(windows([2, 5]), "reverse", window="2-5")
    with pytest.raises(MemauditError, match="pass 1 ends 2 batches before the window does"):
        list(change.arrange(iter([[1], [2], [3]]), handout(), BRANCH))


def test_another_pass_is_left_alone() -> None:
    batches = iter([[1], [2]])
    for change in (
        made(windows([1, 2]), "reverse", window="1-2"),
        made({"loaders": [1]}, "policy", kind="fixed"),
        made({"reason": "no batches"}, "policy", kind="fixed"),
    ):
        assert change.arrange(batches, handout(number=2, loader=2), BRANCH) is batches


def test_lists_of_every_form_have_ids() -> None:
    assert sample_ids([1, torch.tensor(2)]) == [1, 2]
    assert sample_ids(3) == [3]
    assert sample_ids(torch.tensor([4, 5])) == [4, 5]


def test_a_policy_gives_each_list_the_length_it_had_and_counts_only_what_was_consumed() -> None:
    policy = made({"loaders": [1]}, "policy", kind="sequential")
    source = [[5, 1, 0], [2, 4, 3], [6]]
    sampler = RandomSampler(TensorDataset(torch.arange(5)))
    assert [*policy.arrange(iter(source), handout(sampler=sampler), BRANCH)] == [[0, 1, 2], [3, 4, 0], [1]]
    receipt = policy.receipt({1: 2})
    assert receipt["changed"] == pytest.approx(4 / 6)
    digest = digest_text(array_digest("ids", torch.tensor([0, 1, 2, 3, 4, 0]).numpy()))
    assert receipt["digest_after"] == {"order": digest}


def test_a_policy_gives_single_ids_where_the_loader_makes_no_batches() -> None:
    walk = Walk(
        DataLoader(DATA, batch_size=None, shuffle=True),
        arrange=lambda walk, source: made({"loaders": [1]}, "policy", kind="sequential").arrange(
            source, handout(sampler=walk.known_sampler), BRANCH
        ),
    )
    assert [walk.draw()[1] for _ in range(3)] == [[0], [1], [2]]
    walk.close()


def test_a_policys_permutations_differ_from_pass_to_pass_and_between_units_and_not_between_repeats() -> None:
    def orders(key: str) -> list[list[Any]]:
        policy = made({"loaders": [1]}, "policy", kind="reshuffling")
        sampler = SequentialSampler(DATA)
        branch = Branch(Watched(), key)
        return [
            [*policy.arrange(iter([[0] * 22]), handout(number=number, sampler=sampler), branch)] for number in (1, 2)
        ]

    assert orders("0/0") == orders("0/0") != orders("0/1")
    one, two = orders("0/0")
    assert one != two
    assert sorted(one[0]) == sorted(two[0]) == list(range(22))
