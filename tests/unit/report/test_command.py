"""`memaudit report` as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from auditor.cli.report import command
from auditor.errors import NothingToAuditError
from tests.support.build_study import run_for_report, study_for_report


def test_it_verifies_and_writes_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_for_report(tmp_path / "demo/run", steps=40)
    study_for_report(tmp_path / "demo/study")
    target = tmp_path / "pages/report.html"
    found = CliRunner().invoke(command, [str(tmp_path / "demo"), "-o", str(target)], catch_exceptions=False)
    assert found.exit_code == 0
    assert found.stdout == f"{target}\n"
    assert "from 2 directories" in found.stderr
    text = target.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "badge good large" not in text, "nobody signed these directories"


def test_a_folder_with_nothing_in_it_is_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(NothingToAuditError):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
