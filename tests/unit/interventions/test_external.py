"""Interventions of other packages: found without importing them, refused in plain words where they are none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.artifact.intervention_table import external, known
from auditor.errors import MemauditError
from auditor.interventions.optimizer import ResetOptimizer
from auditor.interventions.registry import make

POINTS = """
[memaudit.interventions]
params.missing = no_such_module:Missing
params.odd = json:dumps
params.again = auditor.interventions.optimizer:ResetOptimizer
optimizer.reset = json:dumps
nonsense = json:dumps
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    external.cache_clear()
    yield
    monkeypatch.undo()
    external.cache_clear()


def test_what_a_package_adds_is_known_by_kind_and_action_and_replaces_nothing() -> None:
    assert set(external()) == {("params", "missing"), ("params", "odd"), ("params", "again")}
    assert ("params", "again") in known()
    made = make({"source": "params", "do": "again", "how": "softly", "at": 3})
    assert type(made) is ResetOptimizer
    assert (made.arguments, made.at) == ({"how": "softly"}, 3)
    assert type(make({"source": "optimizer", "do": "reset"})) is ResetOptimizer


def test_a_package_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(MemauditError, match=r"params\.missing cannot be loaded") as caught:
        make({"source": "params", "do": "missing"})
    assert "no_such_module" in (caught.value.why or "")


def test_an_entry_point_to_something_else_is_refused() -> None:
    with pytest.raises(MemauditError, match=r"params\.odd leads to no intervention"):
        make({"source": "params[model]", "do": "odd"})
