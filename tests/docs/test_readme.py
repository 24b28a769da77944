"""README and docs say what is true: their examples run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.cli.main import COMMANDS
from tests.support.programs import memaudit

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def test_the_loop_and_the_commands_of_the_readme_work(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_HOME", str(tmp_path_factory.mktemp("home")))
    (tmp_path / "train.py").write_text(blocks("python")[0])
    lines = [line.removeprefix("$ memaudit ") for line in blocks("console")[1].splitlines()]
    assert [line.split()[0] for line in lines] == ["record", "verify", "replay", "report"]
    for line in lines:
        words = [sys.executable if word == "python" else word for word in line.split()]
        consent = ["--trust-code"] if words[0] == "replay" else []
        answer = memaudit(*words, *consent, cwd=tmp_path)
        assert answer.returncode == 0, f"{line}\n{answer.stdout}{answer.stderr}"
    assert (tmp_path / "report.html").is_file()


def test_the_loop_runs_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAUDIT_HOME", str(tmp_path / "home"))
    (tmp_path / "train.py").write_text(blocks("python")[0])
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=120)
    assert memaudit("verify", "runs/mine", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_only_commands_that_exist(page: Path) -> None:
    named = set(re.findall(r"(?:`|\$ )memaudit ([a-z]+)", page.read_text("utf-8")))
    assert named <= set(COMMANDS)


def test_every_command_has_help_that_begins_with_examples() -> None:
    for name in COMMANDS:
        answer = memaudit(name, "--help", cwd=ROOT)
        assert answer.returncode == 0
        text = answer.stdout
        assert "Examples:" in text, name
        assert text.index("Examples:") < text.index("Options:"), name


def test_make_help_lists_every_target() -> None:
    answer = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "validate", "bench"):
        assert f"make {target}" in answer.stdout
