from pathlib import Path

import pytest

from auditor.errors import InconclusiveError, NothingToAuditError
from auditor.evidence.run_view import RunView


def test_digests_are_carried_forward(run: Path) -> None:
    steps = list(RunView.open(run).steps())
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(None not in step.sources.values() and None not in step.streams.values() for step in steps)
    assert steps[0].loss == 1.0


def test_anchors_and_census(run: Path) -> None:
    view = RunView.open(run)
    assert [anchor.step for anchor in view.anchors] == [0, 3, 6]
    assert set(view.anchors[1].tensors()) == {
        "params/layer.weight",
        "optimizer.momentum_buffer/layer.weight",
        "stream.torch/state",
        "resume/passes.0.ids",
    }
    assert view.anchors[1].values()["epoch"] == 1
    assert [source["name"] for source in view.census["sources"]] == ["params", "optimizer.momentum_buffer"]
    assert view.predicate is not None
    assert view.predicate["steps"] == 6


def test_broken_and_absent_traces(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingToAuditError):
        RunView.open(tmp_path)
    data = (run / "trace.jsonl").read_bytes()
    (run / "trace.jsonl").write_bytes(data.replace(b'"seed":"0"', b'"seed":"1"', 1))
    with pytest.raises(InconclusiveError):
        RunView.open(run)
