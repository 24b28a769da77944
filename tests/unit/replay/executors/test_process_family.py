from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.replay.executors.family import Entry, end_family, end_left_behind, family, process_table

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")

# A head in a session of its own, with a child, a grandchild, and a child in another session.
TREE = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
nested = "import subprocess, sys, time; print(subprocess.Popen(%r).pid, flush=True); time.sleep(60)" % sleep
first = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE)
grandchild = int(first.stdout.readline())
apart = subprocess.Popen(sleep, start_new_session=True)
print(first.pid, grandchild, apart.pid, flush=True)
time.sleep(60)
"""


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def tree() -> tuple[subprocess.Popen[bytes], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


@LINUX
def test_a_family_is_the_session_with_all_descendants_and_ends_as_a_whole() -> None:
    process, others = tree()
    assert family(process.pid, process_table()) == {process.pid, *others}
    assert os.getpid() not in family(process.pid, process_table())
    end_family(process.pid)
    assert process.wait(20) == -signal.SIGKILL
    assert eventually(lambda: not set(others) & process_table().keys())
    process.stdout.close()  # type: ignore[union-attr]


@LINUX
def test_what_a_dead_process_left_in_its_session_is_ended() -> None:
    process, (first, grandchild, apart) = tree()
    process.kill()
    process.wait()
    assert {first, grandchild} <= process_table().keys()
    end_left_behind(process.pid)
    assert eventually(lambda: not {first, grandchild} & process_table().keys())
    os.kill(apart, signal.SIGKILL)
    process.stdout.close()  # type: ignore[union-attr]


@LINUX
def test_zombies_are_not_among_the_living() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert eventually(lambda: process.pid not in process_table())
        assert Path(f"/proc/{process.pid}").exists()


def test_ending_who_is_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as process:
        process.wait()
    end_family(process.pid)
    end_left_behind(process.pid)


@given(
    st.dictionaries(st.integers(2, 30), st.builds(Entry, parent=st.integers(0, 30), session=st.integers(0, 30))),
    st.integers(2, 30),
)
def test_a_family_is_closed_under_descent_and_holds_nothing_else(table: dict[int, Entry], head: int) -> None:
    members = family(head, table)
    for pid, entry in table.items():
        belongs = head in (pid, entry.session) or entry.parent in members
        assert (pid in members) == belongs
