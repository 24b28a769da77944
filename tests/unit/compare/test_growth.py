"""How a difference grows."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.growth import MOST_ANCHORS, MOST_LOSSES, Growth, growth_of
from auditor.compare.walk import walk
from tests.support.build_pair import Act, Script, sides, write_pair


def act(extra: float, *, steps: int = 8, at: int = 4, anchors: bool = True, loss: Any = None) -> Act:
    def go(run: Script) -> None:
        run.anchor_now("start")
        for number in range(1, steps + 1):
            apart = extra * 2.0 ** min(number - at, 900) if number >= at else 0.0
            weight = np.array([1.0, 2.0, 2.0 + apart])
            given = 1.0 / number + apart if loss is None else loss(number)
            run.go({"params": weight, "optimizer.momentum_buffer": number + apart}, loss=given)
            if anchors and number % 2 == 0:
                run.anchor_now()

    return go


def growth(folder: Path, a: Act, b: Act) -> Growth:
    one, two = sides(*write_pair(folder, a, b))
    return growth_of(walk(one, two), AnchorPairs(one, two))


def test_equal_runs_do_not_grow_apart(tmp_path: Path) -> None:
    assert growth(tmp_path, act(0.0), act(0.0)) == Growth((), ())


def test_losses_and_sources_from_the_parting_on(tmp_path: Path) -> None:
    found = growth(tmp_path, act(0.0), act(0.5))
    assert [step for step, _, _ in found.losses] == [4, 5, 6, 7, 8]
    assert found.losses[0] == (4, 0.25, 0.75)
    points = [point for point in found.points if point.source == "params"]
    assert [point.step for point in points] == [4, 6, 8]
    assert [point.relative for point in points] == pytest.approx([0.5 / 3, 2 / 3, 8 / 3])
    assert [point.largest for point in points] == [0.5, 2.0, 8.0]
    assert [(point.differing, point.elements) for point in points] == [(1, 3)] * 3
    sources = [point.source for point in found.points]
    assert sources == sorted(sources, key=["optimizer.momentum_buffer", "params"].index)


def test_without_anchors_only_losses_grow(tmp_path: Path) -> None:
    found = growth(tmp_path, act(0.0, anchors=False), act(0.5))
    assert (len(found.losses), found.points) == (5, ())


def test_steps_without_a_loss_in_both_are_left_out(tmp_path: Path) -> None:
    losses = {4: None, 5: "NaN", 6: 1.0, 7: "Infinity", 8: "-Infinity"}
    one = act(0.0, loss=lambda number: losses.get(number, 1.0))
    two = act(0.5, loss=lambda number: {6: "NaN", 7: 2.0}.get(number, losses.get(number, 1.0)))
    found = growth(tmp_path, one, two)
    assert [step for step, _, _ in found.losses] == [6, 7, 8]
    assert math.isnan(found.losses[0][2])
    assert [(each["a"], each["b"]) for each in found.to_json()["loss"]] == [
        (1.0, "NaN"),
        ("Infinity", 2.0),
        ("-Infinity", "-Infinity"),
    ]


def test_long_series_are_thinned_and_keep_their_extremes(tmp_path: Path) -> None:
    def loss(extra: float) -> Any:
        return lambda number: 1.0 if number < 4 else (1.0 + extra if number != 700 else 1.0 + 50 * extra)

    found = growth(tmp_path, act(0.0, steps=1500, loss=loss(0.0)), act(0.0, steps=1500, loss=loss(0.5)))
    assert len(found.losses) <= MOST_LOSSES
    steps = [step for step, _, _ in found.losses]
    assert (steps[0], steps[-1]) == (4, 1500)
    assert 700 in steps
    assert steps == sorted(set(steps))


def test_no_more_than_so_many_anchors_are_read(tmp_path: Path) -> None:
    found = growth(tmp_path, act(0.0, steps=60), act(1e-12, steps=60))
    steps = {point.step for point in found.points}
    assert len(steps) <= MOST_ANCHORS
    assert {4, 60} <= steps


def test_what_is_no_number_is_written_as_json_has_it(tmp_path: Path) -> None:
    def broken(value: float) -> Act:
        def go(run: Script) -> None:
            run.go({"params": np.array([1.0, value])})
            run.anchor_now()

        return go

    for value, largest in ((math.nan, "NaN"), (math.inf, "Infinity")):
        document = growth(tmp_path / str(value), broken(1.0), broken(value)).to_json()
        json.dumps(document, allow_nan=False)
        assert [(each["relative"], each["largest"]) for each in document["sources"]] == [(None, largest)]
