import json
from pathlib import Path

import pytest

from auditor.evidence.keys import SigningKey
from auditor.evidence.manifest import STUDY, read, write_manifest
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import verify
from tests.support.build_run import canonical
from tests.support.signed_study import signed_study


def resign(study: Path, key: SigningKey) -> None:
    predicate = read(study).predicate
    (study / "manifest.json").unlink()
    write_manifest(study, STUDY, predicate, key)


def test_a_good_study_passes(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    verification = verify(signed_study(tmp_path / "s", key), trusted=trusted)
    assert (verification.kind, verification.verdict, verification.findings) == ("study", "passed", ())


def test_another_plan(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    verification = verify(signed_study(tmp_path / "s", key, plan_sha256="0" * 64), trusted=trusted)
    assert [finding.code for finding in verification.findings] == ["MA851"]


@pytest.mark.parametrize(("member", "value"), [("estimate", 5.0), ("treated", [9.0] * 8), ("differences", [1.0])])
def test_numbers_that_do_not_add_up(
    tmp_path: Path, key: SigningKey, trusted: TrustStore, member: str, value: object
) -> None:
    study = signed_study(tmp_path / "s", key)
    estimate = json.loads((study / "estimate.json").read_bytes())
    estimate["estimates"][0][member] = value
    (study / "estimate.json").write_bytes(canonical(estimate) + b"\n")
    resign(study, key)
    verification = verify(study, trusted=trusted)
    assert {finding.code for finding in verification.findings} == {"MA853"}
    assert verification.exit_status == 1


def test_a_study_without_its_cells_shows_nothing(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    study = signed_study(tmp_path / "s", key)
    for path in sorted((study / "cells").rglob("*.json")):
        path.unlink()
    resign(study, key)
    verification = verify(study, trusted=trusted)
    assert {(finding.code, str(finding.evidence)) for finding in verification.findings} == {("MA853", "missing")}


def test_a_cell_under_another_name(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    study = signed_study(tmp_path / "s", key)
    cell = next((study / "cells").iterdir())
    cell.rename(cell.with_name("0" * 64))
    resign(study, key)
    assert [finding.code for finding in verify(study, trusted=trusted).findings] == ["MA852"]


def test_an_unfinished_study_is_inconclusive(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    study = signed_study(tmp_path / "s", key)
    (study / "manifest.json").unlink()
    assert verify(study, trusted=trusted).exit_status == 4
