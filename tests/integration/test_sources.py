"""The program's text in a run: kept by the real command, however the program was started, and after a cut."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from auditor.evidence.run_view import RunView
from tests.support.programs import memaudit, run

# Eight steps; with DIE in the environment it is killed after step 5. A module in a folder, and one beside it.
PROGRAM = """
import os, signal
import torch
import auditor
from helper import step_size
from parts.model import build

torch.set_num_threads(1)
with auditor.record("run", seed=0, anchor_every=2) as recorded:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=step_size())
    recorded.watch(model=model, optimizer=optimizer)
    for index in recorded.steps(8):
        recorded.batch(content=torch.ones(1, 2))
        model(torch.ones(1, 2)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        recorded.step()
        if index == 4 and os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
"""
MODULES = {
    "helper.py": "def step_size():\n    return 0.01\n",
    "parts/__init__.py": "",
    "parts/model.py": "import torch\n\n\ndef build():\n    return torch.nn.Linear(2, 1)\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path, text in {"train.py": PROGRAM, **MODULES}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def texts(path: Path, environment: str = "environment.json") -> dict[str, str]:
    found = RunView.open(path).source_texts(environment)
    assert found.misfits == ()
    return {name: data.decode() for name, data in found.files.items()}


def program(path: Path, environment: str = "environment.json") -> dict[str, object]:
    content: dict[str, dict[str, object]] = json.loads((path / environment).read_text())
    return content["program"]


def verified(path: Path) -> list[str]:
    """The claims about the text, of a run that passes."""
    answer = memaudit("verify", path, "--json", cwd=path.parent)
    assert answer.returncode == 0, answer.stdout
    return [claim["evidence"] for claim in json.loads(answer.stdout)["claims"] if "program's text" in claim["what"]]


def test_the_program_and_its_modules_are_kept_as_they_ran(project: Path) -> None:
    answer = memaudit("record", "--out", "a", "--", sys.executable, "train.py", cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert texts(project / "a") == {"train.py": PROGRAM, **MODULES}
    assert verified(project / "a") == ["proved"]
    (project / "a/source/parts/model.py").write_text("import os\n")
    assert memaudit("verify", "a", cwd=project).returncode == 1


@pytest.mark.parametrize("how", ["option", "variable", "argument"])
def test_no_text_is_kept_where_it_is_secret(project: Path, how: str) -> None:
    if how == "argument":
        (project / "train.py").write_text(PROGRAM.replace("seed=0,", "seed=0, sources=False,"))
    options = ["--no-sources"] if how == "option" else []
    variables = {"MEMAUDIT_SOURCES": "off"} if how == "variable" else {}
    answer = memaudit("record", "--out", "a", *options, "--", sys.executable, "train.py", cwd=project, **variables)
    assert answer.returncode == 0, answer.stderr
    assert not list((project / "a").glob("*source*"))
    assert b"step_size" not in b"".join(path.read_bytes() for path in (project / "a").rglob("*") if path.is_file())
    assert (program(project / "a")["kept"], sorted(program(project / "a")["modules"])) == ([], sorted(MODULES))
    assert verified(project / "a") == []


def test_the_command_can_ask_for_the_text_that_the_program_left_out(project: Path) -> None:
    (project / "train.py").write_text(PROGRAM.replace("seed=0,", "seed=0, sources=False,"))
    answer = memaudit("record", "--out", "a", "--sources", "--", sys.executable, "train.py", cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert sorted(texts(project / "a")) == sorted([*MODULES, "train.py"])


def test_a_program_in_a_package_is_kept_under_its_path_from_its_folder(project: Path) -> None:
    (project / "package/inner").mkdir(parents=True)
    for path in ("package/__init__.py", "package/inner/__init__.py", "package/inner/near.py"):
        (project / path).write_text("")
    text = PROGRAM.replace("import auditor\n", "import auditor\nfrom . import near\n")
    (project / "package/inner/train.py").write_text(text)
    answer = memaudit("record", "--out", "a", "--", sys.executable, "-m", "package.inner.train", cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert texts(project / "a") == {"train.py": text, "near.py": "", "__init__.py": ""}
    assert program(project / "a")["path"] == "package/inner/train.py"
    assert verified(project / "a") == ["proved"]


def test_a_session_without_a_file_keeps_nothing_and_verifies(project: Path) -> None:
    answer = memaudit("record", "--out", "a", "--", sys.executable, "-c", PROGRAM, cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert (program(project / "a")["path"], program(project / "a")["kept"]) == (None, [])
    assert not (project / "a/source").exists()
    assert verified(project / "a") == []


def test_a_file_over_the_limit_is_hashed_and_named_as_not_kept(project: Path) -> None:
    (project / "helper.py").write_text(MODULES["helper.py"] + "#" * (1 << 20))
    answer = memaudit("record", "--out", "a", "--", sys.executable, "train.py", cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert sorted(texts(project / "a")) == ["parts/__init__.py", "parts/model.py", "train.py"]
    assert "helper.py" in program(project / "a")["modules"]
    told = memaudit("verify", "a", "--json", cwd=project)
    assert "3 files, SHA-256 recomputed; not kept: helper.py" in told.stdout


def test_an_unfinished_run_has_its_text_and_one_gone_on_with_has_both(project: Path) -> None:
    words = ("record", "--out", "run", "--resume", "--", sys.executable, "train.py")
    assert memaudit(*words, cwd=project, DIE="1").returncode == 128 + 9
    assert texts(project / "run") == {"train.py": PROGRAM, **MODULES}
    assert memaudit("verify", "run", cwd=project).returncode == 4
    changed = MODULES["helper.py"].replace("0.01", "0.001")
    (project / "helper.py").write_text(changed)
    answer = memaudit(*words, cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert texts(project / "run") == {"train.py": PROGRAM, **MODULES}
    assert texts(project / "run", "environment-2.json") == {"train.py": PROGRAM, **MODULES, "helper.py": changed}
    assert verified(project / "run") == ["proved"]


def test_the_same_program_gone_on_with_keeps_its_text_once(project: Path) -> None:
    words = ("record", "--out", "run", "--resume", "--", sys.executable, "train.py")
    assert memaudit(*words, cwd=project, DIE="1").returncode == 128 + 9
    answer = memaudit(*words, cwd=project)
    assert answer.returncode == 0, answer.stderr
    assert sorted(path.name for path in (project / "run").glob("*source*")) == ["source"]
    assert verified(project / "run") == ["proved"]


def test_equal_programs_leave_equal_text_and_a_program_edited_while_it_runs_keeps_what_was_hashed(
    project: Path,
) -> None:
    edits = PROGRAM.replace("for index in", "open('helper.py', 'a').write('#')\n    for index in")
    (project / "train.py").write_text(edits)
    for out in ("a", "b"):
        (project / "helper.py").write_text(MODULES["helper.py"])
        answer = run(sys.executable, "train.py", cwd=project, MEMAUDIT_OUT=os.fspath(project / out))
        assert answer.returncode == 0, answer.stderr
    assert texts(project / "a") == texts(project / "b") == {"train.py": edits, **MODULES}
