from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.artifact.canonical import write_canonical
from auditor.errors import MemauditError
from auditor.replay.executors import in_process
from auditor.replay.executors.in_process import InProcessExecutor
from auditor.replay.executors.limits import Ended, Limits
from auditor.replay.executors.worker import Launch, run_cell

# A program that changes whatever it can, and leaves it so.
RECKLESS = """
import logging, multiprocessing, os, random, signal, sys, warnings
import numpy as np, torch
import beside
torch.rand(3), np.random.rand(3), random.random()
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_float32_matmul_precision("medium")
torch.set_grad_enabled(False)
torch.autograd.set_detect_anomaly(True)
torch.set_num_threads(3)
torch.backends.cudnn.benchmark = True
torch.backends.cudnn.deterministic = True
torch.backends.mkldnn.enabled = False
os.environ["PLANTED"] = "1"
os.environ.pop("KEPT", None)
sys.path.insert(0, "/planted")
sys.argv.append("planted")
warnings.filterwarnings("ignore")
logging.basicConfig(level=logging.DEBUG)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.excepthook = lambda *_: None
multiprocessing.set_start_method("spawn", force=True)
print("out of the program")
os.write(2, b"by descriptor\\n")
os.chdir("/")
"""


def state() -> dict[str, Any]:
    gc.collect()  # what earlier tests left open
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tobytes(),  # type: ignore[index,union-attr]
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": (id(sys.argv), list(sys.argv)),
        "here": Path.cwd(),
        "streams": (sys.stdout, sys.stderr, sys.excepthook, sys.breakpointhook),
        "descriptors": [os.fstat(number)[:3] for number in (1, 2)],
        "open": len(list(Path("/dev/fd").iterdir())),
        "main": sys.modules["__main__"],
        "beside": "beside" in sys.modules,
        "warnings": list(warnings.filters),
        "logging": (list(logging.getLogger().handlers), logging.getLogger().level),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "method": multiprocessing.get_start_method(allow_none=True),
    }


def program(folder: Path, text: str, *, interop_threads: int | None = None) -> tuple[str, Launch]:
    folder.mkdir(exist_ok=True)
    script = folder / "program.py"
    script.write_text(text)
    directory = folder / "cell"
    directory.mkdir(exist_ok=True)
    threads = torch.get_num_interop_threads() if interop_threads is None else interop_threads
    write_canonical(directory / "cell.json", {"interop_threads": threads})
    return str(directory), Launch(str(script), ["--flag"], str(folder), {})


def log(directory: str) -> str:
    return (Path(directory) / "log.txt").read_text()


def test_a_cell_in_this_process_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    (tmp_path / "beside.py").write_text("")
    torch.rand(1)
    before = state()
    cell = program(tmp_path, RECKLESS)
    assert InProcessExecutor().submit(run_cell, *cell).result() == Ended(0), log(cell[0])
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()
    assert log(cell[0]) == "out of the program\nby descriptor\n"


def test_a_program_that_fails_leaves_this_process_as_it_was_too(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("")
    before = state()
    cell = program(tmp_path, RECKLESS + "\nraise ValueError('planted')\n")
    assert InProcessExecutor().submit(run_cell, *cell).result() == Ended(1)
    assert "ValueError: planted" in log(cell[0])
    assert state() == before


def test_an_interrupt_ends_the_cell_and_reaches_the_caller_with_everything_put_back(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("")
    before = state()
    cell = program(tmp_path, RECKLESS + "\nimport time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    with pytest.raises(KeyboardInterrupt):
        InProcessExecutor().submit(run_cell, *cell)
    assert state() == before


def test_a_program_finds_torch_as_a_fresh_process_has_it(tmp_path: Path) -> None:
    told = (
        "import torch\n"
        "print(torch.get_default_dtype(), torch.is_grad_enabled(), torch.backends.mkldnn.enabled,\n"
        "      torch.are_deterministic_algorithms_enabled(), torch.get_default_device(), torch.is_anomaly_enabled(),\n"
        "      torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,\n"
        "      torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)\n"
    )
    fresh = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad():
            cell = program(tmp_path, told)
            assert InProcessExecutor().submit(run_cell, *cell).result() == Ended(0)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert log(cell[0]) == fresh


def test_modules_beside_the_program_are_imported_anew_each_time_and_others_are_not(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    try:
        (tmp_path / "mine_beside.py").write_text("count = 0\n")
        import mine_beside  # type: ignore[import-not-found]

        mine_beside.count = 7
        text = "import mine_beside, numpy\nmine_beside.count += 1\nprint(mine_beside.count, id(numpy))\n"
        executor = InProcessExecutor()
        for _ in range(2):
            cell = program(tmp_path, text)
            assert executor.submit(run_cell, *cell).result() == Ended(0)
        assert log(cell[0]) == f"1 {id(np)}\n" * 2
        assert sys.modules["mine_beside"] is mine_beside
        assert mine_beside.count == 7
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("mine_beside", None)


def test_what_is_installed_is_kept_even_if_it_lies_below_the_programs_folder(tmp_path: Path) -> None:
    # As in a project that has its virtual environment in its own folder.
    directory, launch = program(tmp_path, "import torch, auditor.errors\nprint(id(torch), id(auditor.errors))\n")
    above = Launch("/train.py", [], launch.cwd, {})
    ended = InProcessExecutor().submit(lambda where, _: run_cell(where, launch), directory, above).result()
    assert ended == Ended(0)
    assert log(directory) == f"{id(torch)} {id(sys.modules['auditor.errors'])}\n"


def test_a_cell_is_refused_in_any_thread_but_the_main_one(tmp_path: Path) -> None:
    cell = program(tmp_path, "")
    caught: list[MemauditError] = []

    def attempt() -> None:
        try:
            InProcessExecutor().submit(run_cell, *cell)
        except MemauditError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread only" in str(caught[0])


def test_a_number_of_interop_threads_that_can_no_longer_be_had_is_refused(tmp_path: Path) -> None:
    torch.ones(2)
    at_present = torch.get_num_interop_threads()
    with suppress(RuntimeError):
        torch.set_num_interop_threads(at_present)  # from here on it is fixed
    cell = program(tmp_path, "", interop_threads=at_present + 1)
    with pytest.raises(MemauditError, match=f"torch has {at_present} interop threads in this process, and had"):
        InProcessExecutor().submit(run_cell, *cell)


def test_another_hash_seed_than_this_processs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "_STARTED_WITH", "1")
    cell = program(tmp_path, "")
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    with pytest.raises(MemauditError, match="another hash seed"):
        InProcessExecutor().submit(run_cell, *cell)
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    assert InProcessExecutor().submit(run_cell, *cell).result() == Ended(0)


@pytest.mark.parametrize("limits", [Limits(timeout=5), Limits(memory=2**30)], ids=["time", "memory"])
def test_limits_are_refused(limits: Limits) -> None:
    with pytest.raises(MemauditError, match="cannot be limited"):
        InProcessExecutor(limits)
    InProcessExecutor(Limits())


def test_nothing_is_taken_after_the_end(tmp_path: Path) -> None:
    executor = InProcessExecutor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(run_cell, *program(tmp_path, ""))


def test_a_breakpoint_in_the_program_opens_the_debugger_for_whoever_is_there(tmp_path: Path) -> None:
    directory, launch = program(tmp_path, "value = 41\nbreakpoint()\nprint(value)\n")
    script = tmp_path / "debug.py"
    script.write_text(
        "from auditor.replay.executors.in_process import InProcessExecutor\n"
        "from auditor.replay.executors.worker import Launch, run_cell\n"
        f"launch = Launch({launch.script!r}, [], {launch.cwd!r}, {{}})\n"
        f"print(InProcessExecutor().submit(run_cell, {directory!r}, launch).result())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"}
    answer = subprocess.run(
        [sys.executable, script], input="value = 42\nc\n", capture_output=True, text=True, env=environment
    )
    assert answer.stdout == "Ended(status=0, reason=None)\n", answer.stderr
    assert "(Pdb)" in answer.stderr
    assert log(directory) == "42\n"
