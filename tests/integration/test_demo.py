"""``memaudit demo``: the whole line on the real example."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.programs import memaudit


def test_the_demo_leaves_a_run_a_study_and_a_report(tmp_path: Path) -> None:
    answer = memaudit("demo", "--out", "demo", "--seeds", 8, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    accuracy = float(answer.stdout.split("test accuracy ")[1].split()[0])
    assert accuracy > 0.95
    estimate = json.loads((tmp_path / "demo" / "study" / "estimate.json").read_text())
    assert estimate["verdict"] == "complete"
    assert all(len(row["units"]) == 8 for row in estimate["estimates"])
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "<script" not in page
    assert len(page) < 500_000
    lint = memaudit("lint", "demo", "--json", cwd=tmp_path)
    assert lint.returncode == 0, lint.stdout
    again = memaudit("demo", "--out", "demo", cwd=tmp_path)
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
