"""Anchors continue bit for bit in a new process: at a pass's start and in its middle, whatever training remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.evidence.run_view import RunView
from tests.support.continuation import ZOO, enterable, go_on, record

CASES = [
    "plain",
    "plain-own-fused",
    "workers-bf16",
    "workers-own-foreach",
    "persistent-rmsprop",
    "persistent-own",
    "persistent-keyed",
    "plain-keyed",
    "stream",
    "stream-workers",
    "stream-persistent",
    "fp16-own",
    "accumulated",
    "accumulated-workers",
    "evaluated",
    "evaluated-persistent",
    "two",
    "two-workers",
    "endless",
    "endless-persistent",
    "hand",
    "gan-workers",
    "lbfgs",
    "curriculum",
    "curriculum-workers",
]


@pytest.mark.parametrize("case", CASES)
def test_every_step_after_an_anchor_is_equal_in_every_digest(tmp_path: Path, case: str) -> None:
    process = record(tmp_path, case, "--anchor-every", "5")
    assert process.returncode == 0, process.stderr
    anchors = enterable(tmp_path / "run")
    inside = [anchor for anchor in anchors if anchor["at"] == "step"]
    starts = [anchor for anchor in anchors if anchor["at"] == "pass"]
    assert inside
    for anchor in (inside[len(inside) // 2], *starts[1:2]):
        assert go_on(tmp_path, [ZOO, "--case", case], anchor) is None, anchor


def test_state_that_a_data_set_keeps_inside_its_workers_is_named(tmp_path: Path) -> None:
    assert record(tmp_path, "workers-stateful").returncode == 0
    streams = {stream["name"]: stream for stream in RunView.open(tmp_path / "run").census["streams"]}
    for worker in ("loader.worker0", "loader.worker1"):
        assert streams[worker]["warnings"] == [
            "the data set keeps state inside its workers, which no anchor holds: served"
        ]
