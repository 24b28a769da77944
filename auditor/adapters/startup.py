"""Starting a command under the recorder: a start-up module on the path of it and its children."""

from __future__ import annotations

import os
from pathlib import Path

START_UP = Path(__file__).resolve().parent / "site"
"""Holds ``sitecustomize.py``, which Python imports before a script's first line."""


def environment_for(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment of a recorded command: today's, the settings, and the start-up module first on the path.

    With a seed, and no hash seed of the user's own, the hash seed is fixed too: it orders sets of strings.
    """
    environment = {**os.environ, **settings}
    paths = [str(START_UP), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if "MEMAUDIT_SEED" in settings:
        environment.setdefault("PYTHONHASHSEED", str(int(settings["MEMAUDIT_SEED"]) % 2**32))
    return environment
