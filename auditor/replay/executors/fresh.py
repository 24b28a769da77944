"""One cell in an interpreter of its own, for programs that differ in what is fixed when an interpreter starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from auditor.replay.executors.worker import Launch

_CODE = """
import json, sys
given = json.loads(sys.argv[1])
sys.path[:] = given["path"]
from auditor.replay.executors.worker import Launch, run_cell
sys.exit(run_cell(given["directory"], Launch(**given["launch"])))
"""


def run_fresh(directory: str, launch: Launch, *, hash_seed: str | None) -> int:
    """Run a program with ``directory`` as its cell; return its exit status, negative for a signal.

    ``hash_seed`` is the recorded PYTHONHASHSEED: it orders sets, and is fixed when an interpreter starts.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    if hash_seed is not None:
        environment["PYTHONHASHSEED"] = hash_seed
    given = json.dumps({"path": sys.path, "directory": directory, "launch": asdict(launch)})
    # -P: a module of the directory that this is started in is not to be taken for one of the standard library.
    command = [sys.executable, "-P", "-c", _CODE, given]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
