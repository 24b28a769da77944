"""Streams in two traces walked side by side: idle, drawn from, and where passes begin."""

from pathlib import Path

import pytest

from tests.support.build_pair import Act, Script
from tests.support.mirrored import assert_mirrored, both


def stream_act(*digests: float, first: float | None = 0.0, params: float = 0.0) -> Act:
    def steps(run: Script) -> None:
        if first is not None:
            run.put("stream.torch", first)
            run.put("params", params)
            run.anchor_now("start")
        for number, each in enumerate(digests, 1):
            run.go({"stream.torch": each, "params": number + params})

    return steps


@pytest.mark.parametrize("first", [True, False], ids=["anchor", "no anchor"])
def test_a_stream_that_differs_and_that_nobody_draws_from_is_idle(tmp_path: Path, first: bool) -> None:
    acts = [stream_act(value, value, value, first=value if first else None) for value in (1, 2)]
    one, two = both(tmp_path, *acts)
    assert (one.partings, one.idle, one.equal) == ({}, ["stream.torch"], 3)
    assert_mirrored(one, two)


@pytest.mark.parametrize("first", [True, False], ids=["anchor", "no anchor"])
def test_a_stream_that_differs_parts_where_it_is_first_drawn_from(tmp_path: Path, first: bool) -> None:
    acts = [stream_act(value, value, value + 2, value + 4, first=value if first else None) for value in (1, 2)]
    one, two = both(tmp_path, *acts)
    parted = one.partings["stream.torch"]
    assert (parted.step, parted.at, parted.moved, one.idle, one.equal) == (3, "step", (True, True), [], 2)
    assert_mirrored(one, two)


def test_a_stream_that_one_run_draws_from_moved_in_one(tmp_path: Path) -> None:
    one, two = both(tmp_path, stream_act(1, 1, 1, first=1), stream_act(1, 1, 2, first=1))
    assert one.partings["stream.torch"].moved == (False, True)
    assert two.partings["stream.torch"].moved == (True, False)
    assert_mirrored(one, two)


def test_a_stream_parts_with_what_differs_from_the_start(tmp_path: Path) -> None:
    one, two = both(tmp_path, stream_act(1, 3, first=1, params=1), stream_act(2, 4, first=2, params=2))
    assert [(each.name, each.step, each.at) for each in one.sorted()] == [
        ("stream.torch", 0, "start"),
        ("params", 0, "start"),
    ]
    assert_mirrored(one, two)


@pytest.mark.parametrize("anchored", ["A", "B"])
def test_a_stream_parts_alike_whichever_run_lacks_the_first_anchor(tmp_path: Path, anchored: str) -> None:
    """Which of the two had the anchor before the first step decided whether a stream counted from the start."""
    acts = [
        stream_act(each, each, each, first=each if label == anchored else None) for label, each in (("A", 1), ("B", 2))
    ]
    one, two = both(tmp_path, *acts)
    assert_mirrored(one, two)


def pass_act(at_begin: float, after: float) -> Act:
    def steps(run: Script) -> None:
        run.anchor_now("start")
        run.begin(1)
        run.go({"stream.torch": 1}, main=1, position=1)
        run.put("stream.torch", at_begin)
        run.begin(2)
        run.go({"stream.torch": after}, main=2, position=1)
        run.go({"stream.torch": after + 1}, main=2, position=2)

    return steps


def test_a_stream_that_differs_only_where_a_pass_begins_did_not_part(tmp_path: Path) -> None:
    """A loader with workers draws its order where the pass begins, one without in the walk."""
    one, two = both(tmp_path, pass_act(2, 3), pass_act(3, 3))
    assert (one.partings, one.idle, one.equal) == ({}, [], 3)
    assert [step for step, _ in one.starts[0]["stream.torch"]] == [1, 2]
    assert one.starts[0] != one.starts[1]
    assert_mirrored(one, two)


def test_a_stream_that_differs_from_the_begin_of_a_pass_on_parts_there(tmp_path: Path) -> None:
    one, two = both(tmp_path, pass_act(2, 3), pass_act(5, 6))
    parted = one.partings["stream.torch"]
    assert (parted.step, parted.at, parted.differs, parted.last) == (2, "pass", 2, 3)
    assert (parted.moved, len(parted.digests)) == ((True, True), 3)
    assert_mirrored(one, two)


def test_a_stream_that_differs_from_the_first_begin_of_a_pass_on(tmp_path: Path) -> None:
    def act(extra: int) -> Act:
        def steps(run: Script) -> None:
            run.put("stream.torch", extra)
            run.begin(1)
            run.go({"stream.torch": extra + 1}, main=1, position=1)
            run.go({"stream.torch": extra + 2}, main=1, position=2)

        return steps

    one, two = both(tmp_path, act(0), act(5))
    assert (one.partings["stream.torch"].step, one.idle) == (1, [])
    assert_mirrored(one, two)
