from pathlib import Path

import pytest

from auditor.artifact.resources import validator
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence.keys import SigningKey
from auditor.evidence.trust import TrustStore
from auditor.lint.engine import lint
from tests.support.build_run import RunBuilder
from tests.support.signed_study import signed_study


@pytest.mark.parametrize(("units", "fires"), [(5, True), (6, False)])
def test_ma701(tmp_path: Path, key: SigningKey, trusted: TrustStore, units: int, fires: bool) -> None:
    signed_study(tmp_path / "papers/study", key, units=units)
    linting = lint(tmp_path, trusted=trusted)
    assert [finding.code for finding in linting.findings] == ["MA701"] * fires
    assert linting.exit_status == int(fires)
    if fires:
        assert linting.findings[0].where == "papers/study/estimate.json#/estimates/0"


def test_ma701_is_about_effects_only(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    signed_study(tmp_path / "study", key, units=3, verdict="inconclusive")
    assert lint(tmp_path, trusted=trusted).findings == ()


def test_everything_below_is_found(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    RunBuilder(tmp_path / "a/run", key=key).build()
    signed_study(tmp_path / "b", key)
    linting = lint(tmp_path, trusted=trusted)
    assert [(subject.kind, str(subject.verdict)) for subject in linting.subjects] == [
        ("run", "passed"),
        ("study", "passed"),
    ]
    validator("lint").validate(linting.to_json())


def test_codes_are_selected_ignored_and_never_misspelt(tmp_path: Path, key: SigningKey) -> None:
    signed_study(tmp_path / "study", key, units=3)
    assert {f.code for f in lint(tmp_path, trusted=TrustStore()).findings} == {"MA701", "MA807"}
    assert {f.code for f in lint(tmp_path, trusted=TrustStore(), selected=("MA7",)).findings} == {"MA701"}
    assert {f.code for f in lint(tmp_path, trusted=TrustStore(), ignored=("ma701",)).findings} == {"MA807"}
    with pytest.raises(MemauditError, match="MA9"):
        lint(tmp_path, selected=("MA9",))


def test_nothing_to_lint(tmp_path: Path) -> None:
    with pytest.raises(NothingToAuditError):
        lint(tmp_path)
