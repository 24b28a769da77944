"""An executor whose cells are forked from one process, the trunk, that has run the program to the fork already."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe, connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from auditor.artifact.canonical import write_canonical
from auditor.errors import InconclusiveError
from auditor.replay.executors.family import end_family, family, lead_family, process_table
from auditor.replay.executors.limits import Ended, Limits
from auditor.replay.executors.worker import Launch, run_cell

ATTEMPTS = 3
"""How often a trunk is begun that is killed on its way to the fork."""

_POLL = 0.1
"""Seconds between two looks at what cells use, where it is limited."""
_LONGEST_MESSAGE = 65_536
_OF_ARMS = ("order", "give", "take", "magnify")

_CODE = """
import json, sys
given = json.loads(sys.argv[1])
sys.path[:] = given["path"]
from auditor.replay.executors.trunk import run_trunk
run_trunk(given)
"""


class TrunkRefused(InconclusiveError):  # noqa: N818 - an answer: another way is to be taken
    """The process that came to the fork cannot be forked exactly; ``reason`` says why not."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(
            "the live process cannot be forked at this step",
            where=where,
            why=reason,
            next_step="use --reach restore or --reach rerun",
        )
        self.reason = reason


@dataclass
class _Trunk:
    process: subprocess.Popen[bytes]
    connection: Connection
    lifeline: int
    """The writing end of the pipe with which the trunk ends."""
    stands: bool = False


@dataclass
class _Running:
    future: Future[Ended]
    began: float = field(default_factory=time.monotonic)
    pid: int | None = None
    """None until the trunk has told it."""
    reason: str | None = None
    """Why it was killed here."""


class TrunkExecutor(Executor):
    """Forks each cell from a trunk: a process that runs the program to the fork once, and stays there.

    Cells end with all that they started; futures give an :class:`Ended`. A killed cell is one future's status; with a
    killed trunk all running cells end, and the next one begins another trunk. If this process dies, the kernel ends the
    trunk, and with it the cells. One thread does all the talking.

    Parameters
    ----------
    launch
        How the program is started.
    description
        That of any cell to come: what they have in common is where the trunk goes.
    directory
        A folder for the trunk alone, made for it and removed at the end; cells write files of the program's below it,
        so it must not lie in what is signed. A trunk that fails leaves it, with ``log.txt``.
    workers
        How many cells run at a time.
    limits
        What each cell may use; the trunk itself is not limited.
    hash_seed
        The recorded PYTHONHASHSEED.
    """

    def __init__(
        self,
        launch: Launch,
        description: Mapping[str, Any],
        directory: Path,
        workers: int,
        limits: Limits | None = None,
        *,
        hash_seed: str | None,
    ) -> None:
        self._launch = launch
        trunk: dict[str, Any] = {"arm": "trunk", "do": [], "unit": None, "key": None, "repeat": 0}
        self._description = {name: value for name, value in description.items() if name not in _OF_ARMS} | trunk
        self._directory = directory.resolve()
        self._workers = workers
        self._limits = limits or Limits()
        self._hash_seed = hash_seed
        self._trunk: _Trunk | None = None
        self._begun = 0
        """Trunks begun since one stood."""
        self._waiting: deque[tuple[Future[Ended], str]] = deque()
        self._running: dict[int, _Running] = {}
        self._handed_out = 0
        self._starts: list[Future[None]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._abandoned = False
        self._keeps_log = False
        self._wake: tuple[Connection, Connection] = Pipe(duplex=False)
        self._thread = threading.Thread(target=self._manage, name="memaudit-trunk", daemon=True)
        self._thread.start()

    @property
    def log(self) -> Path:
        """What the trunk's program said."""
        return self._directory / "log.txt"

    def start(self) -> None:
        """Begin the trunk, and wait until it stands at the fork.

        Raises
        ------
        TrunkRefused
            If it came there and cannot be forked exactly.
        InconclusiveError
            If it did not come there; the log is named.
        """
        future: Future[None] = Future()
        with self._lock:
            self._check_open()
            self._starts.append(future)
        self._wake[1].send_bytes(b".")
        future.result()

    def submit(self, fn: Callable[..., int], /, *args: Any, **kwargs: Any) -> Future[Ended]:  # type: ignore[override]
        """Queue ``run_cell(directory, launch)``, for which a process is forked instead.

        A future may raise what :meth:`start` raises.

        Raises
        ------
        TypeError
            For anything else than ``run_cell`` of this executor's launch.
        RuntimeError
            After :meth:`shutdown`.
        """
        if fn is not run_cell or kwargs or len(args) != 2 or args[1] != self._launch:
            raise TypeError("a trunk runs the cells of its own program only")
        future: Future[Ended] = Future()
        with self._lock:
            self._check_open()
            self._waiting.append((future, str(args[0])))
        self._wake[1].send_bytes(b".")
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more cells; with ``cancel_futures`` end the running ones too. The trunk ends with the last cell."""
        with self._lock:
            already = self._closed and not cancel_futures
            self._closed = True
            self._abandoned = self._abandoned or cancel_futures
        if not already and self._thread.is_alive():
            self._wake[1].send_bytes(b".")
        if wait:
            self._thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the executor was shut down")

    # In the thread.

    def _manage(self) -> None:
        try:
            while self._serve():
                pass
        except BaseException as error:
            with self._lock:
                self._closed = True
            self._fail(error)  # nobody is to wait for ever
        finally:
            self._end_trunk()
            if not self._keeps_log:
                shutil.rmtree(self._directory, ignore_errors=True)

    def _serve(self) -> bool:
        """Do what is due, and wait for the next thing; return False once there is nothing left to wait for."""
        with self._lock:
            abandoned, closed = self._abandoned, self._closed
            wanted = bool(self._waiting or self._starts)
        if abandoned:
            for each in self._running.values():
                each.reason = "the study was stopped"
            self._end_trunk()
            self._fail(None)
            return False
        if wanted and self._trunk is None:
            self._trunk = self._begin_trunk()
        if self._trunk is not None and self._trunk.stands:
            self._answer_starts()
        self._hand_out()
        if closed and not self._running and not self._waiting and not self._starts:
            return False
        trunk = self._trunk
        ready = connection.wait(
            [self._wake[0], *([] if trunk is None else [trunk.connection])],
            _POLL if self._running and self._limits != Limits() else None,
        )
        if self._wake[0] in ready:
            self._wake[0].recv_bytes()
        if trunk is not None and trunk.connection in ready:
            self._listen(trunk)
        self._enforce()
        return True

    def _begin_trunk(self) -> _Trunk:
        self._begun += 1
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        write_canonical(self._directory / "cell.json", self._description)
        ours, theirs = Pipe()
        ends, lifeline = os.pipe()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
        if self._hash_seed is not None:
            environment["PYTHONHASHSEED"] = self._hash_seed
        given = {
            "path": sys.path,
            "directory": str(self._directory),
            "launch": asdict(self._launch),
            "control": theirs.fileno(),
            "lifeline": ends,
        }
        with theirs, self.log.open("ab") as log:
            process = subprocess.Popen(
                # -P: a module of the directory that this is started in is not to be taken for one of Python's own.
                [sys.executable, "-P", "-c", _CODE, json.dumps(given)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), ends),
            )
        os.close(ends)
        return _Trunk(process, ours, lifeline)

    def _hand_out(self) -> None:
        while self._trunk is not None and self._trunk.stands and len(self._running) < self._workers:
            with self._lock:
                if not self._waiting:
                    return
                future, directory = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            self._handed_out += 1
            self._running[self._handed_out] = _Running(future)
            try:
                self._trunk.connection.send_bytes(json.dumps({"cell": directory, "number": self._handed_out}).encode())
            except OSError:
                return  # it was killed: its end is about to be read

    def _listen(self, trunk: _Trunk) -> None:
        """Take in one message; what is none is a trunk's end, as the program may say anything there."""
        try:
            message = json.loads(trunk.connection.recv_bytes(_LONGEST_MESSAGE))
            if not isinstance(message, dict):
                raise ValueError(message)
            self._hear(trunk, message)
        except (EOFError, OSError, ValueError, KeyError, TypeError):
            self._lose()

    def _hear(self, trunk: _Trunk, message: dict[str, Any]) -> None:
        if message.get("standing"):
            trunk.stands, self._begun = True, 0
        elif "refused" in message:
            self._end_trunk()
            self._fail(TrunkRefused(str(message["refused"]), str(self.log)))
        elif "began" in message:
            pid = int(message["pid"])
            entry = process_table().get(pid)
            if entry is not None and entry.parent == trunk.process.pid:
                running = self._running[message["began"]]
                running.pid, running.began = pid, time.monotonic()
        else:
            ended = Ended(int(message["status"]), self._running[message["ended"]].reason)
            self._running.pop(message["ended"]).future.set_result(ended)

    def _lose(self) -> None:
        """Deal with a trunk that ended by itself, or was killed; where cells wait, the next one is begun."""
        stood = self._trunk is not None and self._trunk.stands
        for each in self._running.values():
            each.reason = each.reason or "the process that it was forked from was killed"
        status = self._end_trunk()
        if stood or (status < 0 and self._begun < ATTEMPTS):
            return
        why = f"its process was killed by signal {-status}, {self._begun} times" if status < 0 else self._error()
        self._begun = 0
        self._fail(
            InconclusiveError(
                "the program did not come to the step to be forked at",
                where=str(self.log),
                why=why,
                next_step="read the log",
            )
        )

    def _error(self) -> str:
        try:
            return str(json.loads((self._directory / "result.json").read_bytes())["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return "the program ended without reaching its recorder: did it enter auditor.record()?"

    def _end_trunk(self) -> int:
        """End the trunk, if there is one, and its cells, whose futures are answered; return its status."""
        trunk, self._trunk = self._trunk, None
        if trunk is None:
            return 0
        end_family(trunk.process.pid)
        for each in self._running.values():
            if each.pid is not None:
                end_family(each.pid)
        status = trunk.process.wait()
        trunk.connection.close()
        os.close(trunk.lifeline)
        for each in self._running.values():
            each.future.set_result(Ended(-signal.SIGKILL, each.reason))
        self._running.clear()
        return status

    def _fail(self, error: BaseException | None) -> None:
        """Answer everyone who waits; without an error they are told that nothing comes."""
        self._keeps_log = error is not None
        with self._lock:
            waiting: list[Future[Any]] = [*(future for future, _ in self._waiting), *self._starts]
            self._waiting.clear()
            self._starts.clear()
        for future in waiting:
            if error is None:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _answer_starts(self) -> None:
        with self._lock:
            starts, self._starts = self._starts, []
        for future in starts:
            future.set_result(None)

    def _enforce(self) -> None:
        """Kill the cells that are over a limit; the trunk tells their end."""
        if self._limits == Limits():
            return
        table = process_table() if self._limits.memory is not None else {}
        for each in self._running.values():
            if each.pid is not None and each.reason is None:
                each.reason = self._limits.exceeded(time.monotonic() - each.began, family(each.pid, table))
                if each.reason is not None:
                    end_family(each.pid)


def run_trunk(given: dict[str, Any]) -> NoReturn:
    """Be a trunk; this is what its interpreter runs."""
    status = 1
    try:
        lead_family(given["lifeline"])
        # By name: this wing imports nothing of the one that knows torch.
        recorder = importlib.import_module("auditor.recorder.trunk")
        recorder.begin(Connection(given["control"]), lead_family)
        status = run_cell(given["directory"], Launch(**given["launch"]))
    finally:
        # In a forked cell whose program got past its recorder's end too: nothing of the interpreter's own is run twice.
        os._exit(status)
