"""What the tests of the executors have them do, in processes of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def end_with(status: int) -> int:
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def fail() -> int:
    sys.stderr = io.StringIO()  # the traceback is expected
    raise RuntimeError("planted")


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return 0


def note(directory: str, number: int) -> int:
    """Write how many tasks run at this moment, this one included."""
    mark = Path(directory) / f"running-{number}"
    mark.touch()
    time.sleep(0.1)
    (Path(directory) / str(number)).write_text(str(len(list(Path(directory).glob("running-*")))))
    mark.unlink()
    return 0


def spread(path: str) -> int:
    """Start a child, and one in a session of its own; write all three numbers, and go on for ever."""
    child = subprocess.Popen(SLEEP)
    apart = subprocess.Popen(SLEEP, start_new_session=True)
    Path(path).write_text(f"{os.getpid()} {child.pid} {apart.pid}\n")
    time.sleep(600)
    return 0


def leave_child(path: str) -> int:
    Path(path).write_text(f"{subprocess.Popen(SLEEP).pid}\n")
    os._exit(0)


def allocate(mebibytes: int, where: str) -> int:
    """Touch memory bit by bit, here or in a child, and wait for ever with more than 1000 MiB."""
    if where == "child":
        code = f"from tests.support.tasks import allocate; allocate({mebibytes}, 'itself')"
        root = Path(__file__).resolve().parents[2]
        return subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode
    kept = []
    for _ in range(mebibytes // 20):
        kept.append(bytearray(b"x") * (20 * 2**20))
        time.sleep(0.01)
    time.sleep(600 if mebibytes > 1000 else 0.3)
    return 0


def make_an_optimizer(path: str) -> int:
    """Write which modules are imported to make one."""
    import torch

    known = set(sys.modules)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    Path(path).write_text("\n".join(sorted(set(sys.modules) - known)))
    return 0
