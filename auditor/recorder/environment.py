"""The environment of a run: its numerics class, packages, version control, hardware and command line."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = "environment-1"


def describe(program: dict[str, Any]) -> dict[str, Any]:
    """Return the content of environment.json; ``program`` is its member of that name."""
    return {
        "format": FORMAT,
        "numerics": numerics_class(),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "packages": _packages(),
        "git": _git(Path.cwd()),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "devices": _devices(),
        },
        "program": program,
        "flags": {
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED"),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        },
    }


def numerics_class() -> dict[str, Any]:
    """Return what must be equal for bits to be equal: threads, instruction set, versions and flags.

    The list follows torch's "Reproducibility" note and what was measured to change bits on the CPU.
    """
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": bool(torch.backends.mkldnn.enabled),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "cudnn_deterministic": bool(torch.backends.cudnn.deterministic),
        "cudnn_allow_tf32": bool(torch.backends.cudnn.allow_tf32),
        "cuda": torch.version.cuda,
        "devices": _devices(),
    }


def _devices() -> list[str]:
    if not torch.cuda.device_count():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return found


def _git(directory: Path) -> dict[str, Any] | None:
    """Return commit and a hash of the uncommitted changes, or None outside version control or without git."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> bytes | None:
        answer = subprocess.run([git, "-C", str(directory), *arguments], capture_output=True, check=False, timeout=20)
        return answer.stdout if answer.returncode == 0 else None

    try:
        commit = ask("rev-parse", "HEAD")
        difference = ask("diff", "HEAD", "--binary") if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit is None or difference is None:
        return None
    return {
        "commit": commit.decode("ascii").strip(),
        "dirty": bool(difference),
        "diff_sha256": hashlib.sha256(difference).hexdigest(),
    }
