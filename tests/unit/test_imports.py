"""Arrows point one way (docs/design: the house), and the reading wing runs without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "auditor"

GROUND = {"errors", "artifact", "findings"}
MAY_IMPORT = {
    "errors": set(),
    "artifact": {"errors"},
    "findings": {"errors", "artifact"},
    "state": GROUND,
    "outcomes": GROUND | {"state"},
    "interventions": GROUND | {"state"},
    "recorder": GROUND | {"state", "outcomes", "interventions", "evidence"},
    "adapters": GROUND | {"state", "outcomes", "recorder"},
    "evidence": GROUND,
    "compare": GROUND | {"evidence"},
    "causal": GROUND | {"evidence"},
    "replay": GROUND | {"evidence", "compare", "causal"},
    "lint": GROUND | {"evidence", "compare", "causal", "replay"},
    "report": GROUND | {"evidence", "compare", "causal", "replay", "lint"},
    "cli": GROUND | {"evidence", "compare", "causal", "replay", "lint", "report", "adapters"},
}
ONLY_IN = {
    "click": {"cli"},
    "jinja2": {"report"},
    "torch": {"state", "outcomes", "interventions", "recorder", "adapters"},
}


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module a file imports, inside functions too; what only types need is left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            found.add(node.module or "")
            if node.module == "auditor":
                found.update(f"auditor.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def test_every_room_has_its_arrows_and_none_stands_empty() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if not path.name.startswith(("_", "."))}
    assert rooms - {"py.typed"} <= MAY_IMPORT.keys()
    for name in rooms - {"py.typed", "errors"}:
        assert [path for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py"], f"{name} stands empty"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows_point_one_way(path: Path) -> None:
    here = room(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "auditor" and rest:
            other = rest.partition(".")[0]
            assert other == here or other in MAY_IMPORT[here] or other == "__version__", (
                f"{here} must not import {name}"
            )
        for library, rooms in ONLY_IN.items():
            assert top != library or here in rooms, f"only {sorted(rooms)} may know {library}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_hold_one_idea(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 600
    assert "utils" not in path.stem


def test_the_reading_wing_runs_where_torch_is_not_installed(tmp_path: Path) -> None:
    modules = [
        ".".join(("auditor", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in files()
        if room(path) not in ONLY_IN["torch"]
    ]
    script = tmp_path / "without_torch.py"
    script.write_text(
        "import sys\n"
        "from importlib import import_module\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        f"for name in {modules!r}:\n"
        "    import_module(name)\n"
    )
    answer = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert answer.returncode == 0, answer.stderr


def test_importing_auditor_imports_nothing_heavy() -> None:
    code = "import sys, auditor; print(sorted({'torch', 'numpy', 'click'} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "[]"
