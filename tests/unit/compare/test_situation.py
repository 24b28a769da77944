"""What the detectors of causes are told of two runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.compare.beside import NUMERICS
from auditor.compare.situation import Situation
from tests.support.build_pair import Act, Script, situation_of, steps, write_pair


def situation(folder: Path, a: Act, b: Act, **options: Any) -> Situation:
    return situation_of(*write_pair(folder, a, b, **options))


# Loaders.


def two_loaders(
    first: Mapping[str, Any], second: Mapping[str, Any], *, other: int = 0, stream: int = 0, also: bool = False
) -> Act:
    """A pass of one step of each of two loaders set up so; the ids of loader ``other`` are other ones."""

    def act(run: Script) -> None:
        run.anchor_now("start")
        for number, policy in ((1, first), (2, second)):
            run.begin(number, loader=number, **policy)
        for number in (1, 2):
            ids = [number, 7 if other == number else 6]
            more = {"also": [[3 - number, 1]]} if also else {}
            values = {"stream.torch": number + (stream if other == number else 0)}
            run.go(values, ids=ids, batch=f"{ids}", main=number, position=1, **more)

    return act


@pytest.mark.parametrize("number", [1, 2])
def test_only_the_loader_whose_pass_parted_counts(tmp_path: Path, number: int) -> None:
    """A setting of the validation's loader was told to be why the training's order differs."""
    a = two_loaders({"batch_size": 2}, {"batch_size": 2})
    b = two_loaders({"batch_size": 3}, {"batch_size": 4}, other=number)
    found = situation(tmp_path, a, b).loader_rows()
    assert [(row.name, row.b) for row in found] == [
        ("loader batch_size", 3) if number == 1 else ("loader[2] batch_size", 4)
    ]


def test_where_the_loader_is_not_known_all_count(tmp_path: Path) -> None:
    a = two_loaders({"batch_size": 2}, {"batch_size": 2}, also=True)
    b = two_loaders({"batch_size": 3}, {"batch_size": 4}, other=1, also=True)
    assert len(situation(tmp_path / "also", a, b).loader_rows()) == 2
    b = two_loaders({"batch_size": 3}, {"batch_size": 4})
    a = two_loaders({"batch_size": 2}, {"batch_size": 2})
    assert len(situation(tmp_path / "nothing", a, b).loader_rows()) == 2


def test_dropping_the_last_batch_counts_only_where_nothing_else_differs(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"drop_last": False, "batch_size": 2}
    for name, change, expected in (
        ("both", {"batch_size": 3, "drop_last": True}, ["loader batch_size"]),
        ("alone", {"drop_last": True}, ["loader drop_last"]),
    ):
        b = two_loaders({**plain, **change}, {}, other=1)
        rows = situation(tmp_path / name, two_loaders(plain, {}), b).other_loaders()
        assert [row.name for row in rows] == expected


def test_an_order_comes_before_its_stream_only_where_its_own_loader_is_set_up_otherwise(tmp_path: Path) -> None:
    """``drop_last`` of a loader that did not part hid the stream that was shifted."""
    a = two_loaders({}, {})
    for name, b, first in (
        ("own", two_loaders({"batch_size": 9}, {}, other=1, stream=5), "ids"),
        ("other", two_loaders({}, {"batch_size": 9}, other=1, stream=5), "stream.torch"),
    ):
        parted = situation(tmp_path / name, a, b).first
        assert parted is not None
        assert parted.name == first


# Streams that act.


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_a_stream_that_nobody_is_known_to_draw_from_does_not_act(tmp_path: Path, name: str) -> None:
    class Unread(Script):
        def name_streams(self, names: Any, seeded_by: str = "the test, 0") -> None:
            super().name_streams(names, seeded_by)
            self.streams = [{**each, "consumers": []} for each in self.streams]

    def built(kind: type[Script], folder: Path, act: Act, *streams: str) -> Path:
        return kind(folder, act, streams=streams).build()

    more = {f"stream__{name}": 0.5}
    for label, kind, given, expected in (
        ("unread", Unread, {}, False),
        ("read", Script, {}, True),
        ("ids", Unread, {"ids": [99]}, True),
    ):
        folder = tmp_path / label
        a = built(kind, folder / "a", steps(), name)
        b = built(kind, folder / "b", steps(at=3, params=1, given=given, **more), name)
        found = situation_of(a, b)
        assert found.acts(found.walk.partings[f"stream.{name}"]) is expected
        assert (f"stream.{name}" in found.given()) is expected
    a, b = (
        built(Unread, tmp_path / "a", steps(), "torch"),
        built(Unread, tmp_path / "b", steps(at=3, stream__torch=1), "torch"),
    )
    found = situation_of(a, b)
    assert found.acts(found.walk.partings["stream.torch"]), "dropout draws from it, and names nobody"


# Size.


def late(extra: float, *, anchor: int, number: int = 40) -> Act:
    """From step 3 on the parameters are off by a share ``extra``, and the loss by a tenth."""

    def act(run: Script) -> None:
        for step in range(1, number + 1):
            off = extra if step >= 3 else 0.0
            run.go({"params": np.full(4, step * (1 + off))}, ids=[step], loss=1.1 if off else 1.0)
            if step == anchor:
                run.anchor_now()

    return act


def test_the_size_is_that_of_the_source_that_parted_where_an_anchor_has_it(tmp_path: Path) -> None:
    """The loss, one number that hides much, was asked first."""
    for name, extra, anchor, expected in (
        ("near", 0.5, 5, ("params", 5)),
        ("small", 1e-7, 40, ("params", 40)),
        ("large", 0.5, 40, ("loss", 3)),
    ):
        size = situation(tmp_path / name, late(0.0, anchor=anchor), late(extra, anchor=anchor)).size
        assert size is not None
        assert (size.source, size.step) == expected


@pytest.mark.parametrize(("loss", "expected"), [(1 + 5e-7, True), (1 + 5e-6, False), (None, None)])
def test_rounding_of_a_loss_is_smaller_than_that_of_a_source(
    tmp_path: Path, loss: float | None, expected: bool | None
) -> None:
    def act(value: float | None, extra: float) -> Act:
        return lambda run: run.go({"params": 1 + extra}, loss=value)

    assert situation(tmp_path, act(None if loss is None else 1.0, 0.0), act(loss, 1.0)).is_rounding is expected


# Beside the steps.


def test_what_differs_only_after_the_runs_parted_is_left_out(tmp_path: Path) -> None:
    """Threads that were changed after a later cut were held to be why the runs part."""

    def act(at: int, cut: int = 0) -> Act:
        def go(run: Script) -> None:
            for number in range(1, 8):
                if number == cut:
                    run.cut(number - 1, numerics={"threads": 2})
                run.go({"params": number + (0.5 if at and number >= at else 0.0)})

        return go

    for name, at, rows in (("before", 3, []), ("there", 5, ["threads"]), ("after", 6, ["threads"])):
        found = situation(tmp_path / name, act(0), act(at, 5))
        assert [row.name.partition(" ")[0] for row in found.of_group(NUMERICS)] == rows
        assert [row.name for row in found.rows if row.group == NUMERICS] == ["threads (B from step 5 on)"]
