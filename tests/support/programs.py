"""Running memaudit's command and the small training, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tests" / "support" / "train.py"


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def memaudit(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, as a user starts it."""
    return run(sys.executable, "-m", "auditor.cli.main", *words, cwd=cwd, **environment)


def train(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, TRAIN, *words, cwd=cwd, **environment)


def recorded(cwd: Path, *words: object, out: str = "run") -> Path:
    """Record the small training with the command; return its run directory."""
    answer = memaudit("record", "--out", out, "--", sys.executable, TRAIN, *words, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return cwd / out
