"""What ``memaudit inspect`` shows of a run, as text and as a document."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from auditor.artifact.resources import schema
from auditor.cli import main
from auditor.cli.inspect import _size, _words
from tests.support.build_run import RunBuilder

Event = dict[str, Any]


def build(root: Path, edit: Callable[[Event], None], *, finish: bool = True) -> Path:
    return RunBuilder(root, edit=edit).build(finish=finish)


def uncaptured(event: Event) -> None:
    """Add a source that nobody could capture to each census."""
    if event["event"] == "census":
        entry = {**event["sources"][0], "name": "other.cache", "kind": "other", "visibility": None}
        entry |= {"captured": False, "reason": "a tensor of kind \x1b[31msparse"}
        event["sources"] = [*event["sources"], entry]
    if event["event"] == "step":
        event["sources"] = [*event["sources"], None]


def document(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main.run(["inspect", str(run), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    Draft202012Validator(schema("census")).validate(found)
    return found


def text(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main.run(["inspect", str(run)]) == 0
    return capsys.readouterr().out


def test_the_census_has_sizes_tensors_and_half_lives(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, momentum = document(run, capsys)["sources"]
    expected = {"name": "params", "kind": "params", "half_life": None, "visibility": "in the weights"}
    assert params == {**expected, "bytes": 24, "captured": True, "reason": None, "tensors": ["layer.weight"]}
    assert momentum["half_life"] == 6.5


def test_the_text_is_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = text(run, capsys).splitlines()
    assert lines[1:3] == ["  completed: 6 steps in 2 passes, seed 0", "  3 anchors, after steps 0, 3, 6"]
    start = next(index for index, line in enumerate(lines) if line.startswith("memory sources"))
    assert lines[start].endswith("(as in the anchor after step 6): 68 B in 2 sources")
    assert [line.split("  ")[1] for line in lines[start + 1 : start + 4]] == [
        *("source", "params", "optimizer.momentum_buffer")
    ]
    assert "6.5 steps" in lines[start + 3]
    assert "  torch: seeded by the test, 0" in lines
    assert lines[-1] == f"next: memaudit verify {run}"


def test_what_could_not_be_captured_is_told_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build(tmp_path / "run", uncaptured)
    entry = document(run, capsys)["sources"][-1]
    assert (entry["captured"], entry["bytes"], entry["tensors"]) == (False, None, [])
    assert entry["reason"] == "a tensor of kind \x1b[31msparse"
    shown = text(run, capsys)
    assert "not captured: a replay or a resumed training lacks it" in shown
    assert "  other.cache  a tensor of kind \\x1b[31msparse" in shown


def test_a_run_without_an_anchor_has_no_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build(tmp_path / "run", lambda event: None, finish=False)
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    census = next(index for index, line in enumerate(lines) if b'"event":"census"' in line)
    (run / "trace.jsonl").write_bytes(b"".join(lines[: census + 1]))
    found = document(run, capsys)
    assert found["run"]["status"] == "unfinished"
    assert {entry["reason"] for entry in found["sources"]} == {"the run has no anchor"}
    assert "unfinished: 0 steps in 0 passes" in text(run, capsys)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1536, "1.54 kB"), (999_400, "999 kB"), (999_600, "1 MB")),
        *((20_000_000, "20 MB"), (3 * 10**12, "3 TB")),
    ],
)
def test_sizes(number: int, words: str) -> None:
    assert _size(number) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *(([0.1], "0.1"), ([0.1, 0.1], "0.1"), ([0.1, 0.2], "0.1 / 0.2"), ([None], "none")),
        ({"1": 0.1, "4": 0.1}, "0.1"),
        ([{"$": "tuple", "items": [0.9, 0.999]}], "(0.9, 0.999)"),
        ([{"$": "float", "value": "Infinity"}], "Infinity"),
        ([{"$": "tensor", "path": "group0"}], "tensor"),
    ],
)
def test_hyper_parameters_in_words(value: Any, words: str) -> None:
    assert _words(value) == words
