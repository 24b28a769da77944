"""The wheel holds everything the program needs: schemas, templates, the demo's training."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.programs import ROOT, run


def test_the_program_works_from_a_wheel_alone(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = (tmp_path / "dist").glob("training_memaudit-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "auditor" / "shipped" / "schemas" / "manifest.schema.json").is_file()
    code = (
        "import auditor, sys\n"
        "from auditor.artifact.resources import resource, schema, template_directory\n"
        f"assert auditor.__file__.startswith({str(site)!r}), auditor.__file__\n"
        "assert schema('estimate') and (template_directory() / 'report.css').is_file()\n"
        "from auditor.adapters.startup import START_UP\n"
        "assert (START_UP / 'sitecustomize.py').is_file()\n"
        "print(resource('examples/digits.py'))\n"
    )
    answer = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(site / "auditor" / "shipped" / "examples" / "digits.py")
