"""docs/interventions.md is true: its table has what there is, and its example runs as a package of its own."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from auditor.artifact.intervention_table import GROUP, TABLE, complete
from auditor.replay.plan import parse_intervention
from tests.support.programs import TRAIN, memaudit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interventions.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(python|toml|yaml)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^\$ memaudit (.*)$", PAGE, re.MULTILINE)


def installed(path: Path) -> str:
    """Lay the page's package out as pip would; return the folder to put on the path."""
    project = tomllib.loads(BLOCKS["toml"])["project"]
    folder = path / "site"
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (folder / "negate.py").write_text(BLOCKS["python"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][GROUP]
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    return str(folder)


@pytest.mark.timeout(300)
def test_the_package_of_the_page_is_replayed_like_what_is_built_in(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    answer = memaudit("record", "--out", "run", "--", sys.executable, TRAIN, cwd=tmp_path, MEMAUDIT_HOME=home)
    assert answer.returncode == 0, answer.stderr
    words = [*COMMANDS[-1].split(), "--trust-code", "--json"]
    without = memaudit(*words, cwd=tmp_path, MEMAUDIT_HOME=home)
    assert without.returncode == 2
    assert "there is no intervention 'negate' on 'params'" in without.stderr
    answer = memaudit(*words, cwd=tmp_path, MEMAUDIT_HOME=home, PYTHONPATH=installed(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (arm,) = json.loads(answer.stdout)["forks"][0]["arms"]
    (receipt,) = arm["receipts"]["examples"]
    assert (receipt["source"], receipt["do"], receipt["applied"], receipt["changed"]) == ("params", "negate", True, 1.0)
    assert receipt["norm_before"] == receipt["norm_after"]
    assert receipt["digest_before"].keys() == {"params"}


def test_the_pages_commands_and_plans_name_what_there_is() -> None:
    import yaml

    described = [item for arm in yaml.safe_load(BLOCKS["yaml"])["arms"] for item in arm["do"]]
    for command in COMMANDS[:-1]:
        described += [
            parse_intervention(part) for text in re.findall(r"--do (\S+)", command) for part in text.split("+")
        ]
    assert len(described) == 8
    for each in described:
        assert complete(each, "docs/interventions.md")


def test_every_row_of_the_page_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]*) \| `(\w+)`( \(lasting\))? \|", PAGE, re.MULTILINE)
    assert len(rows) > 8
    for sources, action, lasting in rows:
        for name in re.findall(r"`(\w+)", sources):
            assert TABLE[name, action].lasting is bool(lasting), (name, action)
