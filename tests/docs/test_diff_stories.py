"""docs/diff.md tells what happens: its stories are run, command by command, and say what it says they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.programs import memaudit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "diff.md").read_text("utf-8")
STEPS = re.findall(r"```(python|diff|console|text)\n(.*?)```", PAGE, re.DOTALL)


def changed(text: str, change: str) -> str:
    """Apply a diff without line numbers."""
    lines = change.splitlines()
    old = "".join(line[1:] + "\n" for line in lines if not line.startswith("+"))
    new = "".join(line[1:] + "\n" for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, change
    return text.replace(old, new)


def ordered(lines: list[str], output: list[str]) -> None:
    """Every line stands in the output, in this order."""
    rest = iter(output)
    for line in lines:
        assert line in rest, f"{line!r} is not where it should be in\n" + "\n".join(output)


@pytest.mark.timeout(300)
def test_the_stories_are_true(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    program, output = STEPS[0][1], ""
    assert [kind for kind, _ in STEPS].count("text") == 5
    for kind, block in STEPS:
        (tmp_path / "train.py").write_text(changed(program, block) if kind == "diff" else program)
        if kind == "diff":
            program = (tmp_path / "train.py").read_text()
        elif kind == "text":
            ordered(block.splitlines(), output.splitlines())
            program = STEPS[0][1]
        elif kind == "console":
            for line in block.splitlines():
                output = command(line.removeprefix("$ "), tmp_path, home)


def command(line: str, cwd: Path, home: str) -> str:
    if line == "rm checkpoint.pt":
        (cwd / "checkpoint.pt").unlink()
        return ""
    environment, words = line.split("memaudit ")
    given = dict(word.split("=") for word in environment.split())
    arguments = [sys.executable if word == "python" else word for word in words.split()]
    answer = memaudit(*arguments, cwd=cwd, MEMAUDIT_HOME=home, **given)
    # 134 and -6: the story in which the machine goes.
    expected = {"record": (-6, 134) if given else (0,), "diff": (0, 1)}[arguments[0]]
    assert answer.returncode in expected, f"{line}\n{answer.stdout}{answer.stderr}"
    return answer.stdout
