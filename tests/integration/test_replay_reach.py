"""Restore, rerun and fork: three ways to one step, and one result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from auditor.errors import InconclusiveError
from auditor.evidence.run_view import RunView
from auditor.replay.executors.family import process_table
from auditor.replay.executors.limits import Ended, Limits
from auditor.replay.executors.trunk import TrunkExecutor, TrunkRefused
from auditor.replay.executors.worker import run_cell
from auditor.replay.reach import reach
from tests.support.programs import ROOT, TRAIN
from tests.support.reaching import Rolling, record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="live processes are forked on Linux only")

RESET = "optimizer.momentum_buffer=reset"

# A pass has 6 batches.
KINDS: dict[str, tuple[int, list[str], list[str]]] = {
    "inside a pass": (8, [], [RESET, "bn=freeze", "scheduler=reset"]),
    "between passes": (12, [], ["ema=reset", "order=swap,first=13-14,second=16-17"]),
    "an order inside a pass": (8, ["--own-generator"], ["order=reverse,window=10-12", "order=policy,kind=sequential"]),
    "anchors inside passes": (11, ["--anchor-every", "4"], ["bn=reset", "hyper.lr=set,factor=2"]),
    "a loop without a loader": (8, ["--loop", "steps"], ["stream.torch=rekey"]),
    "between passes with evaluations": (12, ["--evaluate", "--own-generator"], ["ema=decay,value=0.5"]),
    "passes outside run.epochs": (8, ["--loop", "passes"], [RESET]),
    "a while loop, inside": (8, ["--loop", "while"], [RESET]),
    "a while loop, between passes": (12, ["--loop", "while"], [RESET]),
}


@pytest.mark.parametrize(("at", "words", "arms"), KINDS.values(), ids=KINDS.keys())
def test_three_ways_to_one_step_give_one_result(tmp_path: Path, at: int, words: list[str], arms: list[str]) -> None:
    run = record(tmp_path, *words)
    recorded = [step for step in RunView.open(run).steps() if at < step.step <= at + 6]
    found = {}
    for way in ("restore", "rerun", "fork"):
        rolling = Rolling(run, at, [2, 6], way)
        cells = [rolling.cell("gate", None), *(rolling.cell(f"arm {do}", 0, do) for do in arms)]
        rolled = rolling.roll([*cells, rolling.cell("carry", 0), rolling.cell("carry", 1)])
        assert next(step.step for step in rolled[0].steps) == rolling.reached.begins + 1
        gate = [step for step in rolled[0].steps if step.step > at]
        assert [(s.sources, s.streams, s.ids, s.batch, s.loss) for s in gate] == [
            (s.sources, s.streams, s.ids, s.batch, s.loss) for s in recorded
        ]
        applied = [receipt for each in rolled[1:-2] for receipt in each.result["receipts"]]
        assert [receipt["applied"] for receipt in applied] == [True] * len(arms), applied
        found[way] = rolled
        assert not (tmp_path / f"study-{way}-{at}" / "trunk").exists()
    for restored, rerun, forked in zip(*found.values(), strict=True):
        assert forked.files == restored.files
        assert forked.after(at) == restored.after(at)
        assert (forked.path / "trace.jsonl").read_bytes() == (restored.path / "trace.jsonl").read_bytes()
        assert rerun.after(at) == restored.after(at)
        if rerun.result["unit"] is None:
            # An anchor may hold the stream of a loader that the program does not walk before the last horizon.
            assert without_absent(rerun.result) == without_absent(restored.result)
        else:
            assert rerun.files == restored.files


def without_absent(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "fork": {**result["fork"], "absent_streams": None}}


def test_the_small_training_gives_one_result_in_all_ways(tmp_path: Path) -> None:
    run = record(tmp_path, "--order", "replacement", program=TRAIN)
    ways = [Rolling(run, 8, [4], way) for way in ("restore", "rerun", "fork")]
    rolled = [each.roll([each.cell("gate", None), each.cell("carry", 0)]) for each in ways]
    assert [[cell.files for cell in each] for each in rolled] == [[cell.files for cell in rolled[0]]] * 3
    assert [[cell.after(8) for cell in each] for each in rolled] == [[cell.after(8) for cell in rolled[0]]] * 3


def test_a_step_after_which_the_program_leaves_its_pass_can_be_come_back_to(tmp_path: Path) -> None:
    """Found as a defect: a fork after a step that ``break`` follows was waited for where no batch is asked for."""
    run = record(tmp_path, "--break-at", "8", program=TRAIN)
    ways = [Rolling(run, 8, [3], way) for way in ("restore", "rerun", "fork")]
    assert [(each.reached.where, each.reached.before) for each in ways] == [("pass", 3)] * 3
    rolled = [each.roll([each.cell("gate", None), each.cell("carry", 0)]) for each in ways]
    assert [[cell.files for cell in each] for each in rolled] == [[cell.files for cell in rolled[0]]] * 3
    assert [[cell.after(8) for cell in each] for each in rolled] == [[cell.after(8) for cell in rolled[0]]] * 3


def test_a_program_with_counters_of_its_own_cannot_be_entered_in_the_middle(tmp_path: Path) -> None:
    """It trains while its own counter is below a number: from an anchor it would go on with the counter at 0."""
    run = record(tmp_path, "--loop", "while")
    rolling = Rolling(run, 8, [2], "restore")
    assert rolling.reached.begins == 0, "nothing but the start can be entered"
    for way in ("rerun", "fork"):
        assert Rolling(run, 8, [2], way).reached.begins == 0


# What stands against forking.


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--beside", "thread"], "other threads are running: feeder"),
        (["--beside", "child"], "1 processes that the program started are running"),
        (["--beside", "pipe"], "open, which cells would share"),
        (["--beside", "shared"], "shared.bin"),
        (["--keyed"], "memory is shared between processes"),
    ],
)
def test_a_trunk_at_the_fork_refuses_with_the_reason(tmp_path: Path, words: list[str], why: str) -> None:
    rolling = Rolling(record(tmp_path, *words), 8, [2], "fork")
    executor = rolling.trunk()
    try:
        with pytest.raises(TrunkRefused) as caught:
            executor.start()
        assert why in caught.value.reason
        assert caught.value.exit_status == 4
        again = reach(rolling.view, 8, 2, without=[("fork", caught.value.reason)])
        assert again.way == "restore"
        assert ("fork", caught.value.reason) in again.refused
        future = executor.submit(run_cell, str(rolling.store.begin(rolling.cell("carry", 0))), rolling.launch)
        with pytest.raises(TrunkRefused):
            future.result()
    finally:
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("words", "why"),
    [(["--threads", "2"], "torch used 2 threads"), (["--workers", "2"], "a data loader has workers")],
)
def test_the_record_refuses_to_fork_before_anything_runs(tmp_path: Path, words: list[str], why: str) -> None:
    view = RunView.open(record(tmp_path, *words))
    with pytest.raises(InconclusiveError, match="by fork") as caught:
        reach(view, 8, 2, "fork")
    assert why in (caught.value.why or "")
    assert reach(view, 8, 2).way == "restore"


def test_threads_that_the_program_asks_for_after_its_record_are_seen_in_the_trunk(tmp_path: Path) -> None:
    text = (ROOT / "tests" / "support" / "reached.py").read_text()
    text = text.replace(
        "Training(options, run).train()", "t = Training(options, run); torch.set_num_threads(2); t.train()"
    )
    program = tmp_path / "threads.py"
    program.write_text(text)
    rolling = Rolling(record(tmp_path, program=program), 8, [2], "fork")
    executor = rolling.trunk()
    with pytest.raises(TrunkRefused, match="cannot be forked") as caught:
        executor.start()
    executor.shutdown()
    assert caught.value.reason == "torch uses 2 threads"


def test_streams_that_nobody_seeded_refuse_a_rerun(tmp_path: Path) -> None:
    view = RunView.open(record(tmp_path, "--seeded-by", "nobody"))
    found = reach(view, 8, 2)
    assert dict(found.refused)["rerun"].startswith("nobody seeded numpy")
    with pytest.raises(InconclusiveError):
        reach(view, 8, 2, "rerun")


def test_a_program_that_seeds_itself_is_not_refused(tmp_path: Path) -> None:
    found = reach(RunView.open(record(tmp_path, "--seeded-by", "program")), 8, 2, "rerun")
    assert (found.way, found.anchor, found.begins) == ("rerun", None, 0)


def test_a_program_that_fails_before_the_fork_names_the_log(tmp_path: Path) -> None:
    rolling = Rolling(record(tmp_path), 8, [2], "fork")
    rolling.launch.argv.extend(["--fail-at", "2"])
    executor = rolling.trunk()
    with pytest.raises(InconclusiveError, match="did not come to the step") as caught:
        executor.start()
    executor.shutdown()
    assert caught.value.why == "RuntimeError: planted failure"
    assert "planted failure" in Path(str(caught.value.where)).read_text()


def test_a_cell_that_fails_after_the_fork_says_why_and_leaves_the_others(tmp_path: Path) -> None:
    rolling = Rolling(record(tmp_path), 8, [2, 6], "fork")
    rolling.launch.argv.extend(["--fail-at", "4"])  # counted from the anchor of step 6
    cells = [rolling.cell("carry", 0)]
    with pytest.raises(InconclusiveError) as caught:
        rolling.roll(cells)
    assert caught.value.why == "RuntimeError: planted failure"
    assert "Traceback" in Path(str(caught.value.where)).read_text()


# What cells write.


def test_forked_cells_leave_the_programs_files_as_the_trunk_left_them(tmp_path: Path) -> None:
    run = record(tmp_path, "--log", "--exit-after")
    rolling = Rolling(run, 9, [2, 8], "fork")
    executor = rolling.trunk()
    try:
        executor.start()
        before = contents(tmp_path)
        stands = [rolling.cell("gate", None), *(rolling.cell("carry", unit) for unit in (0, 1, 2))]
        futures = [
            executor.submit(run_cell, str(rolling.store.begin(cell).resolve()), rolling.launch) for cell in stands
        ]
        assert [future.result() for future in futures] == [Ended(0)] * 4
        assert contents(tmp_path) == before
        assert [rolling.store.commit(cell) for cell in stands] == [None] * 4
        scratch = (tmp_path / "study-fork-9" / "trunk" / "scratch").rglob("*")
        assert not [path for path in scratch if "cell-" in path.name], "each cell's part goes with it"
    finally:
        executor.shutdown()
    assert contents(tmp_path) == before, "nor does the trunk write out what it held back, or run its ending"
    assert not (tmp_path / "study-fork-9" / "trunk").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """What lies beside the study."""
    files = (path for path in folder.rglob("*") if path.is_file() and "study-" not in str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Kills.


def alive(pids: set[int]) -> set[int]:
    return pids & process_table().keys()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Standing:
    """A trunk whose cells of unit 0 stand still."""

    def __init__(self, folder: Path, limits: Limits | None = None, workers: int = 2) -> None:
        self.rolling = Rolling(record(folder, "--hang-unit", "0"), 8, [2], "fork", workers=workers)
        self.executor = self.rolling.trunk(limits)

    def submit(self, unit: int) -> tuple[Path, Future[Ended]]:
        directory = self.rolling.store.begin(self.rolling.cell("carry", unit)).resolve()
        return directory, self.executor.submit(run_cell, str(directory), self.rolling.launch)

    def hanging(self) -> Future[Ended]:
        directory, future = self.submit(0)
        until((directory / "hangs").exists)
        return future

    def trunk(self) -> int:
        (trunk,) = (pid for pid, entry in process_table().items() if entry.parent == os.getpid() and is_trunk(pid))
        return trunk

    def cells(self) -> set[int]:
        trunk = self.trunk()
        return {pid for pid, entry in process_table().items() if entry.parent == trunk}


def is_trunk(pid: int) -> bool:
    try:
        return b"run_trunk" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_killed_cell_is_one_futures_status_and_the_trunk_lives_on(tmp_path: Path) -> None:
    standing = Standing(tmp_path)
    try:
        future = standing.hanging()
        trunk, (cell,) = standing.trunk(), standing.cells()
        os.kill(cell, signal.SIGKILL)
        assert future.result() == Ended(-signal.SIGKILL)
        assert standing.submit(1)[1].result() == Ended(0)
        assert standing.trunk() == trunk
    finally:
        standing.executor.shutdown(cancel_futures=True)


def test_a_killed_trunk_ends_its_cells_and_the_next_cell_begins_another(tmp_path: Path) -> None:
    standing = Standing(tmp_path)
    try:
        future = standing.hanging()
        trunk, cells = standing.trunk(), standing.cells()
        os.kill(trunk, signal.SIGKILL)
        ended = future.result()
        assert ended.status == -signal.SIGKILL
        assert ended.killed is not None
        until(lambda: not alive(cells))
        assert standing.submit(1)[1].result() == Ended(0)
        assert standing.trunk() != trunk
    finally:
        standing.executor.shutdown(cancel_futures=True)


def test_a_cell_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    standing = Standing(tmp_path, Limits(timeout=4.0))
    try:
        assert standing.submit(0)[1].result() == Ended(-signal.SIGKILL, "it took longer than 4 s")
        assert standing.submit(1)[1].result() == Ended(0)
    finally:
        standing.executor.shutdown(cancel_futures=True)


def test_a_stopped_study_ends_trunk_and_cells(tmp_path: Path) -> None:
    standing = Standing(tmp_path, workers=1)
    running, (_, waiting) = standing.hanging(), standing.submit(1)
    pids = {standing.trunk(), *standing.cells()}
    standing.executor.shutdown(cancel_futures=True)
    assert running.result().status == -signal.SIGKILL
    assert waiting.cancelled()
    until(lambda: not alive(pids))
    assert not standing.executor.log.exists()


PARENT = """
import sys
from pathlib import Path
from auditor.replay.executors.worker import run_cell
from tests.support.reaching import Rolling
rolling = Rolling(Path("run"), 8, [2], "fork")
executor = rolling.trunk()
executor.start()
executor.submit(run_cell, str(rolling.store.begin(rolling.cell("carry", 0)).resolve()), rolling.launch).result()
"""


def test_a_killed_study_leaves_no_orphans(tmp_path: Path) -> None:
    record(tmp_path, "--hang-unit", "0")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until(lambda: bool(list(tmp_path.glob("study-fork-8/cells/.*.part/hangs"))))
        table = process_table()
        trunks = {pid for pid, entry in table.items() if entry.parent == parent.pid}
        pids = trunks | {pid for pid, entry in table.items() if entry.parent in trunks}
        assert len(pids) == 2
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive(pids))


def test_a_trunk_runs_its_own_cells_only(tmp_path: Path) -> None:
    rolling = Rolling(record(tmp_path), 8, [2], "fork")
    executor: TrunkExecutor = rolling.trunk()
    try:
        with pytest.raises(TypeError, match="its own program"):
            executor.submit(print, "x", rolling.launch)
        elsewhere = Rolling(tmp_path / "run", 9, [2], "fork")
        cell = elsewhere.cell("carry", 0)
        future = executor.submit(run_cell, str(rolling.store.begin(cell).resolve()), rolling.launch)
        assert future.result() == Ended(1)
        problem = rolling.store.commit(cell) or ""
        assert "this cell forks elsewhere" in problem
    finally:
        executor.shutdown()
