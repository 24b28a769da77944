"""``memaudit demo``: the whole line, once, on a small real training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from auditor.errors import MemauditError


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where to put it."
)
@click.option("--seeds", type=click.IntRange(2), default=12, show_default=True, help="Units of the study.")
def command(out: Path, seeds: int) -> None:
    """Record a small real training, verify it, replay it, write the report.

    \b
    Examples:
      memaudit demo
      memaudit demo --out /tmp/demo --seeds 20

    Each step is an ordinary command, shown before it runs. It leaves OUT/run, OUT/study and OUT/report.html.
    """
    import importlib.util

    from auditor.artifact.resources import resource

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MemauditError(
            "the demo's directory exists and is not empty",
            where=str(out),
            next_step="name another with --out, or remove it",
        )
    if importlib.util.find_spec("sklearn") is None:
        raise MemauditError(
            "the demo trains on scikit-learn's digits, and scikit-learn is not installed",
            next_step="pip install 'training-memaudit[demo]'",
        )
    run, study, report = out / "run", out / "study", out / "report.html"
    program = resource("examples/digits.py")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    _memaudit("record", "--out", run, "--seed", 0, "--", "python", program)
    _memaudit("verify", run)
    _memaudit(
        *("replay", run, "--at", 60, "--do", "optimizer.momentum_buffer=reset", "--horizon", 5, "--horizon", 20),
        *("--horizon", 80, "--seeds", seeds, "--out", study, "--trust-code"),
    )
    _memaudit("report", run, study, "-o", report)
    click.echo(f"\nThe report is {report}: open it in a browser.")
    click.echo(f"Change a bit of any file in {run}, and `memaudit verify {run}` names the file.")


def _memaudit(*arguments: object) -> None:
    """Show and run one command of memaudit's, in a process of its own.

    Raises
    ------
    SystemExit
        With the command's status, if it is not 0.
    """
    words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in arguments]
    click.secho(f"\n$ memaudit {' '.join(words)}", bold=True)
    words = [sys.executable if word == "python" else word for word in words]
    status = subprocess.run([sys.executable, "-m", "auditor.cli.main", *words], check=False).returncode
    if status:
        sys.exit(status)
