"""Damage as a cause."""

from pathlib import Path

from auditor.compare.causes import corruption
from auditor.compare.program_text import ProgramTexts
from tests.support.build_pair import sides, situation_of, steps, told, write_pair


def test_whole_runs_have_none(tmp_path: Path) -> None:
    assert told(corruption, tmp_path, steps(), steps(at=3, params=1)) == []


def test_damaged_files_of_each_run_are_one_cause(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, steps(), steps(at=3, params=1))
    (a / "environment.json").unlink()
    (b / "environment.json").write_bytes(b"")
    (b / "anchors" / "step-000000" / "values.json").write_bytes(b"")
    situation = situation_of(a, b)
    situation.anchors.compare(situation.anchors.pairs[0], "params")
    found = list(corruption.find(situation))
    assert [(each.class_, each.confidence, each.source, each.step) for each in found] == [
        ("corruption", "certain", None, None)
    ] * 2
    assert found[0].evidence == ("A: environment.json: no such file",)
    assert found[1].evidence == (
        "B: anchors/step-000000/values.json: it is not the file whose hash the trace has",
        "B: environment.json: it is not the file whose hash the trace has",
    )


def test_a_broken_trace_is_told(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, steps(), steps())
    data = (b / "trace.jsonl").read_bytes()
    (b / "trace.jsonl").write_bytes(data.replace(b'"step":5,', b'"step":9,'))
    (found,) = corruption.find(situation_of(a, b))
    assert len(found.evidence) == 1
    assert found.evidence[0].startswith("B: line ")
    assert found.evidence[0].endswith("; nothing after it is compared")
    assert ProgramTexts(*sides(a, b)).differences == ()
