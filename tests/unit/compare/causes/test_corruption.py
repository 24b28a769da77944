"""Damage as a cause."""

from pathlib import Path

from auditor.compare.causes import corruption
from auditor.compare.program_text import ProgramTexts
from tests.support.build_pair import sides, situation_of, steps, told, write_pair


def test_whole_runs_have_none(tmp_path: Path) -> None:
    assert told(corruption, tmp_path, steps(), steps(at=3, params=1)) == []


def test_damaged_files_are_no_cause(tmp_path: Path) -> None:
    """What lies beside the trace makes no digest differ; the comparison notes it."""
    a, b = write_pair(tmp_path, steps(), steps(at=3, params=1))
    (a / "environment.json").unlink()
    (b / "environment.json").write_bytes(b"")
    (b / "anchors" / "step-000000" / "values.json").write_bytes(b"")
    situation = situation_of(a, b)
    situation.anchors.compare(situation.anchors.pairs[0], "params")
    assert list(corruption.find(situation)) == []
    assert [sorted(side.damage) for side in (situation.walk.a, situation.walk.b)] == [
        ["environment.json"],
        ["anchors/step-000000/values.json", "environment.json"],
    ]


def broken(run: Path) -> None:
    """Break the chain of a trace in step 5."""
    data = (run / "trace.jsonl").read_bytes()
    changed = data.replace(b'"step":5,', b'"step":9,')
    assert changed != data
    (run / "trace.jsonl").write_bytes(changed)


def test_a_broken_trace_is_told(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, steps(), steps())
    broken(b)
    situation = situation_of(a, b)
    (found,) = corruption.find(situation)
    assert (found.confidence, found.source) == ("certain", "(end)")
    assert found.step == situation.walk.compared + 1
    assert len(found.evidence) == 1
    assert found.evidence[0].startswith("B: line ")
    assert found.evidence[0].endswith("; nothing after it is compared")
    assert ProgramTexts(*sides(a, b)).differences == ()


def test_a_trace_that_breaks_after_the_runs_parted_is_no_cause(tmp_path: Path) -> None:
    """Damage behind the parting, which made nothing differ, was told first."""
    a, b = write_pair(tmp_path, steps(), steps(at=2, params=1))
    broken(b)
    situation = situation_of(a, b)
    assert situation.walk.compared > 2
    assert list(corruption.find(situation)) == []


def test_a_trace_that_breaks_right_where_the_runs_part_is_a_cause(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path / "equal", steps(), steps())
    broken(b)
    last = situation_of(a, b).walk.compared
    a, b = write_pair(tmp_path / "last", steps(), steps(at=last, params=1))
    broken(b)
    (found,) = corruption.find(situation_of(a, b))
    assert (found.source, found.step) == ("params", last)
