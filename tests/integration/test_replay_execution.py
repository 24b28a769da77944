"""Cells in real processes that are killed, hang, eat memory, fail and are interrupted: none is lost or doubled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

import pytest

from auditor.errors import InconclusiveError
from auditor.replay.cells import Cell, CellStore
from auditor.replay.executors.family import process_table
from auditor.replay.executors.forkserver import ForkserverExecutor
from auditor.replay.executors.in_process import InProcessExecutor
from auditor.replay.executors.limits import Limits
from auditor.replay.executors.run import run_cells
from tests.support.misbehaving import ARM, Program, cells_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="these look at processes in /proc")

COMMAND = [sys.executable, "-m", "auditor.cli.main"]


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        self.events.append(("planned", str(len(cells)), str(len(done))))

    def started(self, cell: Cell) -> None:
        self.events.append(("started", cell.title, ""))

    def finished(self, cell: Cell) -> None:
        self.events.append(("finished", cell.title, ""))

    def retried(self, cell: Cell, reason: str) -> None:
        self.events.append(("retried", cell.title, reason))

    def failed(self, cell: Cell, reason: str) -> None:
        self.events.append(("failed", cell.title, reason))

    def of(self, kind: str) -> list[str]:
        return [title for name, title, _ in self.events if name == kind]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def study(program: Program) -> Path:
    program.forget()
    answer = program.replay()
    assert answer.returncode == 0, answer.stderr
    return program.folder / "study"


@pytest.fixture(autouse=True)
def tidy(program: Program, study: Path) -> None:
    program.forget()


def run(
    program: Program,
    cells: Iterable[Cell],
    folder: Path,
    executor: Executor,
    *,
    attempts: int = 3,
) -> Told:
    told = Told()
    try:
        run_cells(list(cells), CellStore(folder), program.launch(), executor, told, attempts)
    except InconclusiveError as error:
        told.events.append(("error", str(error), ""))
    finally:
        executor.shutdown(cancel_futures=True)
    return told


def assert_equal_cells(cells: Iterable[Cell], one: Path, other: Path) -> None:
    for cell in cells:
        files = sorted(path.relative_to(one / cell.hash) for path in (one / cell.hash).rglob("*") if path.is_file())
        assert {Path("cell.json"), Path("result.json"), Path("trace.jsonl")} <= set(files)
        for name in files:
            if name.name not in ("timing.json", "log.txt"):
                found = (other / cell.hash / name).read_bytes()
                assert (one / cell.hash / name).read_bytes() == found, (cell.title, name)


def eventually_gone(pids: Iterable[int]) -> bool:
    wanted, deadline = set(pids), time.monotonic() + 20
    while wanted & process_table().keys():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def marked(mark: str) -> list[int]:
    """The living processes that were started with MARK=mark in their environment, or were forked from such."""
    found = []
    for pid in process_table():
        try:
            if f"MARK={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def test_cells_run_in_this_process_equal_those_of_the_fork_server_byte_for_byte(
    program: Program, study: Path, tmp_path: Path
) -> None:
    cells = cells_of(study)
    told = run(program, cells, tmp_path, InProcessExecutor())
    assert told.of("finished") == [cell.title for cell in cells]
    assert_equal_cells(cells, study / "cells", tmp_path)


def test_each_cell_in_this_process_is_kept_before_the_next_one_begins(
    program: Program, study: Path, tmp_path: Path
) -> None:
    told = run(program, cells_of(study), tmp_path, InProcessExecutor())
    kinds = [kind for kind, _, _ in told.events]
    assert kinds == ["started", "finished"] * len(cells_of(study))


def test_a_killed_cell_is_begun_again_and_ends_with_the_same_bytes(
    program: Program, study: Path, tmp_path: Path
) -> None:
    program.tell(ARM, 1, "die once")
    cells = cells_of(study)
    told = run(program, cells, tmp_path, ForkserverExecutor(2))
    assert told.of("retried") == [f"{ARM}, unit 1"]
    assert sorted(told.of("finished")) == sorted(cell.title for cell in cells)
    assert Counter(program.begun())[f"{ARM}/1"] == 2
    assert sum(Counter(program.begun()).values()) == len(cells) + 1
    assert_equal_cells(cells, study / "cells", tmp_path)
    assert not list(tmp_path.glob(".*.part"))


def test_a_cell_that_is_killed_each_time_is_reported_and_all_others_are_kept(
    program: Program, study: Path, tmp_path: Path
) -> None:
    program.tell(ARM, 1, "die")
    cells = cells_of(study)
    told = run(program, cells, tmp_path, ForkserverExecutor(2))
    assert Counter(program.begun())[f"{ARM}/1"] == 3
    assert len(told.of("retried")) == 2
    assert told.of("failed") == [f"{ARM}, unit 1"]
    assert len(told.of("finished")) == len(cells) - 1
    (message,) = told.of("error")
    assert f"a cell failed: {ARM}, unit 1" in message
    assert "signal 9 (SIGKILL)" in message
    assert "begun 3 times" in message
    # The same call goes on with what is missing.
    program.forget()
    told = run(program, cells, tmp_path, ForkserverExecutor(2))
    assert told.of("finished") == [f"{ARM}, unit 1"]
    assert_equal_cells(cells, study / "cells", tmp_path)


@pytest.mark.parametrize(("what", "why"), [("raise", "ValueError: planted"), ("leave", "without reaching")])
def test_a_program_that_fails_is_not_tried_again_and_does_not_stop_the_others(
    program: Program, study: Path, tmp_path: Path, what: str, why: str
) -> None:
    program.tell(ARM, "every", what)
    cells = cells_of(study)
    told = run(program, cells, tmp_path, ForkserverExecutor(2))
    assert told.of("retried") == []
    assert sorted(told.of("failed")) == [f"{ARM}, unit {unit}" for unit in range(3)]
    assert len(told.of("finished")) == len(cells) - 3
    (message,) = told.of("error")
    first = next(cell for cell in cells if cell.arm == ARM)
    assert f"3 cells failed, {first.title} the first" in message
    assert f".{first.hash}." in message
    log = (tmp_path / f".{first.hash}.{os.getpid()}.part" / "log.txt").read_text()
    assert (why in log) if what == "raise" else (why in message)


def test_a_cell_over_its_time_is_ended_with_its_children_and_reported(
    program: Program, study: Path, tmp_path: Path
) -> None:
    program.tell("carry", 1, "hang")
    cells = cells_of(study)
    told = run(program, cells, tmp_path, ForkserverExecutor(2, Limits(timeout=6.0)), attempts=2)
    assert told.of("failed") == ["carry, unit 1"]
    assert len(told.of("finished")) == len(cells) - 1
    assert "it took longer than 6 s; begun 2 times" in told.of("error")[0]
    assert eventually_gone([int((program.folder / "child").read_text())])


def test_a_cell_over_its_memory_is_ended_and_the_other_arm_is_not(
    program: Program, study: Path, tmp_path: Path
) -> None:
    program.tell(ARM, 2, "eat")
    cells = cells_of(study)
    told = run(program, cells, tmp_path, ForkserverExecutor(2, Limits(memory=1200 * 2**20)), attempts=2)
    assert told.of("failed") == [f"{ARM}, unit 2"]
    assert len(told.of("finished")) == len(cells) - 1
    assert "it used more than 1,200 MiB of memory; begun 2 times" in told.of("error")[0]


def test_a_cell_named_twice_runs_once(program: Program, study: Path, tmp_path: Path) -> None:
    cells = cells_of(study)[:2]
    told = run(program, [*cells, *cells], tmp_path, ForkserverExecutor(2))
    assert len(told.of("finished")) == 2
    assert len(program.begun()) == 2


@pytest.mark.parametrize("left", [b"", b'{"status"', b"[]\n", b'{"format":"cell-result-1"}\n', b"\xff"])
def test_a_result_that_was_cut_short_is_not_taken_for_a_finished_cell(
    program: Program, study: Path, tmp_path: Path, left: bytes
) -> None:
    cells = cells_of(study)
    shutil.copytree(study / "cells", tmp_path / "cells")
    (tmp_path / "cells" / cells[3].hash / "result.json").write_bytes(left)
    told = run(program, cells, tmp_path / "cells", ForkserverExecutor(1))
    assert told.of("finished") == [cells[3].title]
    assert_equal_cells(cells, study / "cells", tmp_path / "cells")


@pytest.mark.parametrize(("times", "pause"), [(1, 0.0), (3, 0.0), (5, 0.05)])
def test_an_interrupted_study_says_so_leaves_no_process_and_goes_on(
    program: Program, study: Path, tmp_path: Path, times: int, pause: float
) -> None:
    program.tell(ARM, 0, "hang")
    out, mark = tmp_path / "study", f"{os.getpid()}-{times}"
    words = [str(word) for word in program.words(out=str(out))]
    environment = {**os.environ, "MARK": mark}
    with subprocess.Popen(
        [*COMMAND, *words], cwd=program.folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while f"{ARM}/0" not in program.begun() or len(list(out.glob("cells/[0-9a-f]*"))) < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(marked(mark)) > 2
        for _ in range(times):
            # As a terminal does: to the command, the fork server and whatever else is in the foreground.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause)
        said, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint + said
    assert "memaudit: stopped" in complaint
    assert eventually_gone(marked(mark))
    done = {path.name for path in out.glob("cells/[0-9a-f]*")}
    program.forget()
    answer = program.replay(out=str(out))
    assert answer.returncode == 0, answer.stderr
    assert len(program.begun()) == len(cells_of(study)) - len(done)
    assert (out / "estimate.json").read_bytes() == (study / "estimate.json").read_bytes()


def test_an_interrupt_while_torch_is_still_loading_shows_no_traceback(program: Program, tmp_path: Path) -> None:
    mark = f"{os.getpid()}-early"
    words = [str(word) for word in program.words(out=str(tmp_path / "study"))]
    with subprocess.Popen(
        [*COMMAND, *words], cwd=program.folder, env={**os.environ, "MARK": mark}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("study/cells/.*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)  # the fork server is loading torch
        os.killpg(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert eventually_gone(marked(mark))


def test_a_study_that_is_killed_takes_its_cells_with_it(program: Program, tmp_path: Path) -> None:
    program.tell("carry", 1, "hang")
    mark = f"{os.getpid()}-killed"
    words = [str(word) for word in program.words(out=str(tmp_path / "study"))]
    with subprocess.Popen(
        [*COMMAND, *words], cwd=program.folder, env={**os.environ, "MARK": mark}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while "carry/1" not in program.begun():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert eventually_gone(marked(mark))


def kill_cells(program: Program, out: Path, seed: int, share: float) -> int:
    """Run a study, killing a share of its cells' processes at random moments; return how many were killed."""
    chance = random.Random(seed)
    killed = 0
    words = [str(word) for word in program.words(out=str(out))]
    for _ in range(20):
        with subprocess.Popen(
            [*COMMAND, *words], cwd=program.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            moments: dict[int, float] = {}
            while process.poll() is None:
                now, table = time.monotonic(), process_table()
                servers = {pid for pid, entry in table.items() if entry.parent == process.pid}
                for pid in sorted(pid for pid, entry in table.items() if entry.parent in servers):
                    if pid not in moments:
                        moments[pid] = now + 0.15 * chance.random() if chance.random() < share else float("inf")
                    elif now >= moments[pid]:
                        os.kill(pid, signal.SIGKILL)
                        moments[pid] = float("inf")
                        killed += 1
                time.sleep(0.002)
            complaint = process.stderr.read() if process.stderr is not None else ""
        if process.returncode == 0:
            return killed
        # One cell may have met its death three times; the same command goes on.
        assert process.returncode == 4, complaint
        assert "Traceback" not in complaint
    raise AssertionError("the study did not come to its end in 20 attempts")


def test_killed_cells_leave_the_estimate_as_it_is_byte_for_byte(program: Program, study: Path, tmp_path: Path) -> None:
    assert kill_cells(program, tmp_path / "study", seed=1, share=0.3) > 0
    assert (tmp_path / "study" / "estimate.json").read_bytes() == (study / "estimate.json").read_bytes()
    assert_equal_cells(cells_of(study), study / "cells", tmp_path / "study" / "cells")
    assert not list((tmp_path / "study" / "cells").glob(".*"))
