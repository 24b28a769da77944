"""The trunk's own parts; what it does as a process stands in tests/integration/test_replay_reach.py."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from auditor.artifact.resources import schema
from auditor.evidence import manifest
from auditor.recorder import trunk
from auditor.recorder.trunk import SHARED, Control


def test_what_a_cell_shares_with_its_trunk_and_what_is_its_own_make_a_description() -> None:
    own = {"arm", "do", "unit", "key", "repeat", "horizons", "order", "magnify", "give", "take"}
    described = set(schema("cell")["properties"])
    assert set(SHARED) <= described
    assert described - set(SHARED) <= own, "a new member is either told to the trunk or the cell's own"


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ({"started": "2026-01-02T03:04:05Z"}, datetime(2026, 1, 2, 3, 4, 3, tzinfo=UTC).timestamp()),
        ({"started": None}, 0.0),
        ({}, 0.0),
        ({"started": "yesterday"}, 0.0),
    ],
)
def test_without_a_known_begin_every_file_counts_as_written_by_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicate: dict[str, object], expected: float
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    monkeypatch.setattr(manifest, "parse", lambda data: SimpleNamespace(predicate=predicate))
    assert trunk._began(tmp_path) == expected


def test_a_broken_manifest_tells_no_begin(tmp_path: Path) -> None:
    assert trunk._began(tmp_path) == 0.0
    (tmp_path / "manifest.json").write_bytes(b"{")
    assert trunk._began(tmp_path) == 0.0


def test_orders_are_read_until_nobody_is_there_any_more() -> None:
    ours, theirs = Pipe()
    control = Control(theirs, lambda _: None, frozenset())
    ours.send_bytes(json.dumps({"cell": "/a", "number": 3}).encode())
    assert trunk._order(control.connection) == trunk._Order("/a", 3)
    control.send(began=3, pid=7)
    assert json.loads(ours.recv_bytes()) == {"began": 3, "pid": 7}
    ours.close()
    assert trunk._order(control.connection) is None
    theirs.close()
