"""Anchors continue bit for bit in a new process: at a pass's start and in its middle, whatever training remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.continuation import enterable, go_on, record

CASES = [
    "plain",
    "plain-own-fused",
    "workers-bf16",
    "workers-own-foreach",
    "persistent-rmsprop",
    "persistent-own",
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
        assert go_on(tmp_path, case, anchor) is None, anchor
