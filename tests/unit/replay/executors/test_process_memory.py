from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from auditor.replay.executors.process_memory import is_known, private_memory

pytestmark = pytest.mark.skipif(not is_known(), reason="no /proc here")
MIB = 2**20

# 100 MiB of touched pages, then children that share them by copy-on-write.
FORKS = f"""
import os, sys, time
pages = bytearray(os.urandom(1)) * (100 * {MIB})
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    children.append(child)
print(*children, flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, 9)
"""


def test_memory_that_forked_processes_share_is_counted_once_where_it_matters() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        family = [process.pid, *children]
        # Below the limit the upper bound is enough; over it, each page is counted once.
        assert private_memory(family, limit=2000 * MIB) > 480 * MIB
        assert 95 * MIB < private_memory(family, limit=300 * MIB) < 160 * MIB
        assert private_memory([process.pid], limit=2000 * MIB) > 95 * MIB
        process.communicate(b"")


def test_a_process_that_has_ended_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert private_memory([process.pid], limit=0) == 0


def test_pages_count_once_they_are_touched() -> None:
    before = private_memory([os.getpid()], limit=2**50)
    pages = np.empty(200 * MIB, dtype=np.uint8)
    assert private_memory([os.getpid()], limit=2**50) < before + 50 * MIB
    pages[:] = 1
    assert private_memory([os.getpid()], limit=2**50) > before + 150 * MIB
