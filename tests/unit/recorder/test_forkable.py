"""What stands against forking a process as it is."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from auditor.recorder.forkable import Baseline, why_not

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="live processes are forked on Linux only")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runner's own threads do not count."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])


@pytest.fixture
def before(alone: None) -> Baseline:
    baseline = Baseline.now()
    if why_not(baseline) is not None:
        pytest.skip("something before this test stands against forking this process")
    return baseline


def test_torch_threads(before: Baseline) -> None:
    torch.set_num_threads(2)
    assert why_not(before) == "torch uses 2 threads"


def test_another_python_thread_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait, name="reads ahead")
    thread.start()
    try:
        monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread(), thread])
        assert why_not(Baseline.now()) == "other threads are running: reads ahead"
    finally:
        waits.set()
        thread.join()


def test_a_thread_that_python_does_not_know(before: Baseline) -> None:
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    try:
        assert "1 threads that Python does not know" in (why_not(before) or "")
        assert why_not(Baseline.now()) is None, "those from before the recorder was entered do no harm"
    finally:
        waits.set()
        thread.join()


def test_a_running_child(before: Baseline) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert "processes that the program started are running" in (why_not(before) or "")
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert why_not(before) is None, "one that has ended, and was not asked for its status, is none"
    child.wait()


def test_a_pipe_and_a_file(before: Baseline, tmp_path: Path) -> None:
    with (tmp_path / "x").open("w"):
        assert why_not(before) is None
    ends = os.pipe()
    try:
        assert "pipe:[" in (why_not(before) or "")
        assert why_not(Baseline.now()) is None
    finally:
        for end in ends:
            os.close(end)


def test_a_mapping_that_is_shared_and_writable(before: Baseline, tmp_path: Path) -> None:
    (tmp_path / "shared.bin").write_bytes(bytes(4096))
    with (tmp_path / "shared.bin").open("r+b") as file:
        with mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ):
            assert why_not(before) is None
        with mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_COPY):
            assert why_not(before) is None
        with mmap.mmap(file.fileno(), 4096):
            assert "shared.bin" in (why_not(before) or "")


BLAS = """
import hashlib, os, numpy as np, torch
from auditor.recorder.forkable import Baseline, why_not
torch.set_num_threads(1)
before = Baseline.now()
a = np.random.default_rng(0).normal(size=(600, 600))
expected = hashlib.sha256((a @ a).tobytes()).hexdigest()
assert why_not(before) is None, why_not(before)
for _ in range(2):
    pid = os.fork()
    if not pid:
        same = hashlib.sha256((a @ a).tobytes()).hexdigest() == expected
        grad = torch.ones(3, requires_grad=True)
        (torch.from_numpy(a[:3, :3].copy()).float() @ grad).sum().backward()
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert hashlib.sha256((a @ a).tobytes()).hexdigest() == expected
    assert why_not(before) is None, why_not(before)
"""


def test_the_threads_of_numpys_library_survive_a_fork_with_equal_bits() -> None:
    subprocess.run([sys.executable, "-c", BLAS], check=True, timeout=120)


def test_all_of_this_holds_in_a_process_where_nothing_ran_before() -> None:
    """In a worker that ran other tests, threads and children of theirs may stand against forking: there some skip."""
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", "not where_nothing_ran_before", __file__]
    answer = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "passed" in answer.stdout
    assert "skipped" not in answer.stdout, answer.stdout
