"""What the nulls of a study say, from what was found."""

from __future__ import annotations

from typing import Any

import pytest

from auditor.replay.cells import Cell
from auditor.replay.nulls import floor_null, load_null
from auditor.replay.reach import Reach

ANCHOR = {"path": "anchors/step-000006", "step": 6}


def gate(anchor: dict[str, Any] | None) -> Cell:
    return Cell("gate", None, 0, {"anchor": anchor, "fork": {"at": 8}, "horizons": [3]})


@pytest.mark.parametrize(
    ("way", "anchor", "verdict", "expected"),
    [
        ("restore", ANCHOR, "passed", "passed"),
        ("restore", ANCHOR, "failed", "failed"),
        ("fork", ANCHOR, "passed", "not applied"),
        ("rerun", None, "passed", "not applied"),
    ],
)
def test_save_and_load_are_proved_by_the_gate_where_cells_load(
    way: str, anchor: dict[str, Any] | None, verdict: str, expected: str
) -> None:
    reached = Reach(way, anchor, "step", None, 20)
    found = load_null(reached, gate(anchor), {"verdict": verdict, "steps": 5})
    assert (found["name"], found["verdict"]) == ("save/load/continue", expected)
    assert found["message"]


def test_the_floor_is_the_mean_size_of_what_one_ulp_does() -> None:
    about = {"probe": "p", "outcome": "nll", "horizon": 3}
    rows = [
        {**about, "units": [0, 1], "differences": [1e-7, -3e-7]},
        {**about, "outcome": "accuracy", "units": [0, 1], "differences": ["NaN", 0.0]},
        {**about, "outcome": "brier", "units": [], "differences": []},
    ]
    found = floor_null(rows, "")
    assert found["verdict"] == "measured"
    assert found["sizes"] == [{**about, "units": 2, "size": pytest.approx(2e-7)}]


def test_a_floor_that_could_not_be_laid_says_why() -> None:
    found = floor_null([], "params shares a parameter with ema, which would move along")
    assert (found["verdict"], found["sizes"]) == ("not applied", [])
    assert "would move along" in found["message"]
