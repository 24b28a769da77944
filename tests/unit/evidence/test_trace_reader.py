from typing import Any

import pytest

from auditor.evidence.trace_reader import _is_plain_step, read_trace, validator_of

STEP: dict[str, Any] = {
    "event": "step",
    "seq": 3,
    "prev": "0" * 64,
    "step": 1,
    "pass": None,
    "position": 0,
    "ids": None,
    "batch": "A" * 22,
    "sources": ["A" * 22, None],
    "streams": [],
    "loss": 0.5,
}


def test_a_plain_step_fits_the_schema() -> None:
    assert _is_plain_step(STEP)
    assert validator_of("step").is_valid(STEP)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 0},
        {"step": True},
        {"step": 1.5},
        {"pass": 0},
        {"position": -1},
        {"ids": "A" * 21},
        {"ids": "B" * 22},
        {"batch": "A" * 22 + "\n"},
        {"sources": [1]},
        {"sources": "A"},
        {"loss": "high"},
        {"loss": None},
        {"prev": "0" * 63},
        {"seq": -1},
        {"more": 1},
    ],
)
def test_the_short_way_accepts_nothing_that_the_schema_refuses(changes: dict[str, Any]) -> None:
    assert not _is_plain_step(STEP | changes)
    assert not validator_of("step").is_valid(STEP | changes)


def test_an_endless_line_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.evidence.trace_reader.MAX_LINE_BYTES", 100)
    reading = read_trace(b'{"a":"' + b"x" * (3 << 20))
    assert "more than the limit" in reading.problems[0].message


def test_an_empty_trace_says_nothing() -> None:
    reading = read_trace(b"")
    assert (reading.lines, reading.events, reading.problems, reading.cut_short) == (0, [], [], None)
