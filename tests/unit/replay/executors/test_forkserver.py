from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.replay.executors.family import process_table
from auditor.replay.executors.forkserver import ForkserverExecutor
from auditor.replay.executors.limits import Ended, Limits
from tests.support.tasks import allocate, end_with, fail, leave_child, make_an_optimizer, note, sleep, spread

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


@pytest.fixture
def executor() -> Iterator[ForkserverExecutor]:
    executor = ForkserverExecutor(2)
    yield executor
    executor.shutdown(cancel_futures=True)


def read_when_there(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while set(pids) & process_table().keys():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_future_gives_the_exit_status_or_the_signal(executor: ForkserverExecutor) -> None:
    futures = [executor.submit(end_with, status) for status in (0, 3, 256 + 4)]
    killed = executor.submit(end_with, -signal.SIGKILL)
    assert [future.result() for future in futures] == [Ended(0), Ended(3), Ended(4)]
    assert killed.result() == Ended(-signal.SIGKILL)


def test_a_task_that_raises_has_failed_and_was_not_killed(executor: ForkserverExecutor) -> None:
    assert executor.submit(fail).result() == Ended(1)


def test_a_programs_own_status_255_is_not_taken_for_a_lost_process(executor: ForkserverExecutor) -> None:
    for status in (255, -1):
        ended = executor.submit(end_with, status & 0xFF).result()
        assert ended == Ended(254)
        assert ended.killed is None


def test_more_tasks_than_workers_all_run_and_never_more_at_a_time(executor: ForkserverExecutor, tmp_path: Path) -> None:
    futures = [executor.submit(note, str(tmp_path), number) for number in range(12)]
    assert [future.result() for future in futures] == [Ended(0)] * 12
    most = [int((tmp_path / f"{number}").read_text()) for number in range(12)]
    assert len(most) == 12
    assert max(most) <= 2


def test_a_task_over_its_time_is_killed_with_all_it_started(tmp_path: Path) -> None:
    executor = ForkserverExecutor(2, Limits(timeout=2.0))
    try:
        late = executor.submit(spread, str(tmp_path / "pids"))
        quick = executor.submit(end_with, 0)
        assert quick.result() == Ended(0)
        assert late.result() == Ended(-signal.SIGKILL, "it took longer than 2 s")
        assert gone([int(word) for word in (tmp_path / "pids").read_text().split()])
        assert executor.submit(end_with, 5).result() == Ended(5)
    finally:
        executor.shutdown(cancel_futures=True)


@LINUX
@pytest.mark.parametrize("where", ["itself", "child"])
def test_a_task_over_its_memory_is_killed_and_the_others_go_on(where: str) -> None:
    executor = ForkserverExecutor(2, Limits(memory=1000 * 2**20))
    try:
        greedy = executor.submit(allocate, 3000, where)
        modest = executor.submit(allocate, 200, where)
        assert modest.result() == Ended(0)
        assert greedy.result() == Ended(-signal.SIGKILL, "it used more than 1,000 MiB of memory")
    finally:
        executor.shutdown(cancel_futures=True)


@LINUX
def test_what_a_task_leaves_behind_ends_with_it(executor: ForkserverExecutor, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert executor.submit(leave_child, str(path)).result() == Ended(0)
    assert gone([int(path.read_text())])


@LINUX
def test_a_killed_tasks_children_end_with_it(executor: ForkserverExecutor, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    future = executor.submit(spread, str(path))
    head, *others = (int(word) for word in read_when_there(path).split())
    os.kill(head, signal.SIGKILL)
    assert future.result() == Ended(-signal.SIGKILL)
    # The one in a session of its own has lost its parent by now: nobody can tell whose it was.
    *followers, apart = others
    assert gone(followers)
    os.kill(apart, signal.SIGKILL)


@LINUX
def test_a_killed_fork_server_loses_no_task_and_another_one_takes_its_place(tmp_path: Path) -> None:
    executor = ForkserverExecutor(2)
    try:
        futures = [executor.submit(spread, str(tmp_path / name)) for name in ("a", "b")]
        heads = [int(read_when_there(tmp_path / name).split()[0]) for name in ("a", "b")]
        server = process_table()[heads[0]].parent
        os.kill(server, signal.SIGKILL)
        for future in futures:
            ended = future.result()
            assert ended.killed == "the process that starts the cells was killed"
            assert ended.status < 0
        assert gone(heads)
        assert executor.submit(end_with, 3).result() == Ended(3)
    finally:
        executor.shutdown(cancel_futures=True)


def test_shutting_down_ends_what_runs_and_cancels_what_waits(tmp_path: Path) -> None:
    executor = ForkserverExecutor(1)
    running = executor.submit(spread, str(tmp_path / "pids"))
    waiting = executor.submit(sleep, 600)
    pids = [int(word) for word in read_when_there(tmp_path / "pids").split()]
    executor.shutdown(cancel_futures=True)
    assert running.result().status == -signal.SIGKILL
    assert waiting.cancelled()
    assert gone(pids)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(end_with, 0)
    executor.shutdown(cancel_futures=True)


@LINUX
def test_tasks_end_when_the_process_that_gave_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "from auditor.replay.executors.forkserver import ForkserverExecutor\n"
        "from tests.support.tasks import spread\n"
        "if __name__ == '__main__':\n"
        "    executor = ForkserverExecutor(1)\n"
        f"    executor.submit(spread, {str(tmp_path / 'pids')!r}).result()\n"
    )
    root = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, script], env=environment, cwd=tmp_path) as process:
        head, *others = (int(word) for word in read_when_there(tmp_path / "pids").split())
        server = process_table()[head].parent
        process.kill()
    *followers, apart = others
    assert gone([head, server, *followers])
    os.kill(apart, signal.SIGKILL)


def test_an_interrupt_that_came_while_a_process_started_is_dropped_and_a_later_one_is_not() -> None:
    code = (
        "import os, signal\n"
        "from auditor.replay.executors.forkserver import unblock_interrupt\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "assert signal.SIGINT in signal.sigpending()\n"
        "unblock_interrupt()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()\n"
        "except KeyboardInterrupt:\n    print('the later one')\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("the later one\n", "")


def test_making_an_optimizer_imports_nothing_that_the_fork_server_could_have_loaded(
    executor: ForkserverExecutor, tmp_path: Path
) -> None:
    # torch imports torch._dynamo with the first optimizer: more than a second for every cell.
    assert executor.submit(make_an_optimizer, str(tmp_path / "modules")).result() == Ended(0)
    assert (tmp_path / "modules").read_text() == ""
