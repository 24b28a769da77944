"""Unfinished runs: what has to hold before one is closed or gone on with, and tidying up after a recorder was killed.

Cutting a run back to a seal looks like a crash. So nothing is signed here but what holds, and only with the key that
made the run's seals: whoever has that key could have recorded the run differently in the first place.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np

from auditor.artifact import order_file, run_directory
from auditor.artifact.order_file import Ids
from auditor.artifact.run_directory import MANIFEST, TENSORS, TRACE, VALUES, order_part
from auditor.artifact.trace import GENESIS, TraceInUseError, TraceWriter
from auditor.artifact.windows import multiset
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence.checks.anchors import in_context, state_faults
from auditor.evidence.checks.files import leftover_paths
from auditor.evidence.checks.formats import named_files, order_ids
from auditor.evidence.checks.order import kept_ids
from auditor.evidence.examination import Examination
from auditor.evidence.history import Event, History
from auditor.evidence.keys import SigningKey
from auditor.evidence.manifest import RUN, write_manifest
from auditor.evidence.order_part import agreements, part_ids
from auditor.evidence.predicate import now, run_predicate
from auditor.evidence.run_view import RunView
from auditor.evidence.seal import seal_fields
from auditor.evidence.trace_reader import TraceReading
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import look
from auditor.findings.evidence import Evidence, Level
from auditor.findings.finding import Finding, worst_last
from auditor.findings.formats.text import count
from auditor.findings.rules import all_rules, apply

_BLOCK = 1 << 16
_ORDER = re.compile(r"order/pass-([0-9]{6,})(?:-[0-9]+)?\.npy")
_PART = re.compile(r"order/pass-([0-9]{6,})\.part")
_LATER_ENVIRONMENT = re.compile(r"environment-[0-9]+\.json")


class AlreadyClosedError(MemauditError):
    """A run that is signed already."""


class Unfinished:
    """A run without a manifest that holds as far as it goes, and whose seals are all by one key."""

    def __init__(self, path: Path, examined: Examination, keyid: str) -> None:
        self.path = path
        self.keyid = keyid
        """Who made its seals."""
        self._examined = examined

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and verify an unfinished run.

        Raises
        ------
        AlreadyClosedError
            If it has a manifest.
        NothingToAuditError
            If there is no trace, or nothing in it.
        MemauditError
            If it is still being written, something in it contradicts something else, or its seals do not name one key.
        """
        if not path.is_dir() or not os.path.lexists(path / TRACE):
            raise NothingToAuditError("no run directory", where=str(path), why=f"it has no {TRACE}")
        if os.path.lexists(path / MANIFEST):
            raise AlreadyClosedError(
                "the run is closed: it has a manifest", where=str(path), next_step=f"memaudit verify {path}"
            )
        _refuse_live(path)
        examined = Examination(path, look(path), TrustStore())
        if not examined.trace.lines and not examined.trace.problems:
            raise NothingToAuditError(
                "nothing was recorded", where=str(path / TRACE), why="the trace does not have one whole line"
            )
        _refuse_contradictions(examined)
        return cls(path, examined, _only_signer(examined))

    @property
    def reading(self) -> TraceReading:
        """The trace as it was read last."""
        return self._examined.trace

    @property
    def history(self) -> History:
        """Which of its events count."""
        return self._examined.history

    @property
    def status(self) -> str:
        """The status of its end; ``unfinished`` without one."""
        return "unfinished" if self.reading.end is None else str(self.reading.end["status"])

    @property
    def unsealed_steps(self) -> int:
        """How many steps stand after the last seal: nothing shows that they were recorded by who made the seals."""
        seals = [event["seq"] for event in self.reading.of("seal")]
        return sum(1 for event in self.reading.of("step") if event["seq"] > max(seals))

    def require(self, key: SigningKey) -> None:
        """Refuse any key but the one that made the seals.

        Raises
        ------
        MemauditError
            If ``key`` is another one.
        """
        if key.keyid != self.keyid:
            raise MemauditError(
                "the run was sealed with another key",
                where=str(self.path),
                why=f"its seals are by {self.keyid}, and the key in use is {key.keyid}; closing another's run would "
                "vouch for what nobody here saw",
                next_step="give the key that it was recorded with: --key KEY",
            )

    def view(self) -> RunView:
        """Return the run as it stands, for reading."""
        return RunView.open(self.path)

    def writer(self) -> TraceWriter:
        """Return a writer that goes on in the trace; the caller closes it.

        Raises
        ------
        TraceInUseError
            If another process writes it, or has written since it was read.
        """
        path = self.path / TRACE
        writer = TraceWriter.reopen(path, self.reading.head, self.reading.lines)
        if path.stat().st_size != self._whole_bytes():
            writer.close()
            raise TraceInUseError("the trace has changed since it was read", where=str(path))
        return writer

    # Tidying up.

    def tidy(self) -> list[str]:
        """Bring order into what a killed recorder left, and return what was done, line by line.

        A torn last line and half-written files go; anchors that are whole and logs of passes in progress are entered
        into the trace. What the trace says already is not touched. Done twice, or begun and killed, it does no harm.

        Raises
        ------
        MemauditError
            If something that would be entered is not what the trace says.
        """
        done = self._cut_torn_line() + self._remove_leftovers()
        self._read_again()
        if self.reading.end is None:
            with self.writer() as trace:
                done += self._adopt_anchors(trace)
                done += self._close_passes(trace)
            self._read_again()
        return done + self._remove_logs()

    def close(self, key: SigningKey) -> list[str]:
        """Tidy up, write ``end`` where there is none, and sign the run; return what was done, line by line.

        Raises
        ------
        MemauditError
            As :meth:`require` and :meth:`tidy`.
        """
        self.require(key)
        unsealed, ended = self.unsealed_steps, self.reading.end is not None
        done = self.tidy()
        end = self.reading.end
        if end is None:
            end = {"status": "interrupted", "steps": self.history.step}
            with self.writer() as trace:
                trace.append("seal", seal_fields(trace.head, trace.lines, key))
                trace.append("end", end)
            self._read_again()
            done.append(f"ended the trace: interrupted after step {self.history.step}")
        if unsealed and not ended:
            were, them = ("was", "it") if unsealed == 1 else ("were", "them")
            done.append(
                f"{count(unsealed, 'step')} after the last seal {were} signed now: only your word is for {them}"
            )
        census = (self.reading.of("census") or [{"sources": [], "streams": []}])[-1]
        start = self.reading.events[0]
        predicate = run_predicate(
            status=end["status"],
            head=self.reading.head,
            lines=self.reading.lines,
            steps=end["steps"],
            census=census["sources"],
            streams=census["streams"],
            numerics=self.view().environment["numerics"],
            program=start["program"],
            seed=start["seed"],
            started=None,
            finished=now(),
            seconds=None,
        )
        write_manifest(self.path, RUN, predicate, key)
        done.append(f"signed the run with {key.keyid}")
        return done

    def _read_again(self) -> None:
        self._examined = Examination(self.path, look(self.path), TrustStore())

    def _whole_bytes(self) -> int:
        """Return how many bytes of the trace, as it was read, are whole lines."""
        data = self._examined.inventory.open(TRACE).data
        begin = len(data)
        while begin:
            block = bytes(data[max(begin - _BLOCK, 0) : begin])
            newline = block.rfind(b"\n")
            if newline >= 0:
                return max(begin - _BLOCK, 0) + newline + 1
            begin = max(begin - _BLOCK, 0)
        return 0

    def _cut_torn_line(self) -> list[str]:
        if self.reading.cut_short is None:
            return []
        whole = self._whole_bytes()
        torn = len(self._examined.inventory.open(TRACE).data) - whole
        with (self.path / TRACE).open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        return [f"removed the last line of the trace, which was cut short after {count(torn, 'byte')}"]

    def _remove_leftovers(self) -> list[str]:
        named = {path for path, _, _ in named_files(self.reading.events)}
        inventory = self._examined.inventory
        paths = (*inventory.files, *(entry.path for entry in inventory.irregular))
        tops = sorted({path.partition("/")[0] for path in paths})
        # An environment that no event speaks of: the recorder was killed while it was about to go on in it.
        unnamed = [
            top
            for top in tops
            for environment in [top if _LATER_ENVIRONMENT.fullmatch(top) else run_directory.environment_of(top)]
            if environment is not None and environment not in named
        ]
        done = []
        for path in [*leftover_paths(self._examined), *unnamed]:
            target = self.path / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            done.append(f"removed {path}, which was left half-written")
        return done

    def _remove_logs(self) -> list[str]:
        """Remove the logs: what the steps confirm of them stands in order files now."""
        done = []
        files = {event["pass"] for event in self.reading.of("pass") if event["file"] is not None}
        for path in [path for path in self._examined.inventory.files if _PART.fullmatch(path)]:
            match = _PART.fullmatch(path)
            (self.path / path).unlink()
            if match is not None and int(match[1]) not in files:
                done.append(f"removed {path}, of which no step confirms a sample id")
        return done

    def _adopt_anchors(self, trace: TraceWriter) -> list[str]:
        done = []
        for event, _, leaves in in_context(self.reading.events):
            record = self.history.anchor_at(event["path"])
            if record is None or record.event is not event or record.stored is not None:
                continue
            faults = state_faults(self._examined, event, leaves)
            if faults is None:
                if record is self.history.anchors[-1]:
                    done.append(f"the anchor at step {event['step']} was not on the disk yet: it is lost")
                continue
            if faults:
                raise MemauditError(
                    f"an anchor is not the state that the trace gives: {faults[0].message}",
                    where=str(self.path / event["path"]),
                    next_step=f"memaudit verify {self.path}",
                )
            inventory = self._examined.inventory
            files = {name: inventory.open(f"{event['path']}/{name}").sha256 for name in (TENSORS, VALUES)}
            trace.append("stored", {"path": event["path"], "files": files})
            done.append(f"entered {event['path']}, which was whole, into the trace")
        return done

    def _close_passes(self, trace: TraceWriter) -> list[str]:
        """Enter the ids of passes in progress into the trace, as far as the steps do not gainsay them."""
        done: list[str] = []
        held = {number: each for number in sorted(self.history.open) for each in [self._held(number)] if each}
        logs = {number: ids for number, (ids, _) in held.items()}
        found = agreements(self.history, logs, kept_ids(self._examined))
        for number, (logged, written) in held.items():
            agreement = found[number]
            if written is not None and agreement.contradicted:
                raise MemauditError(
                    "an order file holds other ids than its steps consumed",
                    where=str(self.path / written),
                    next_step=f"memaudit verify {self.path}",
                )
            ids, last = (logged, self.history.step) if written else (logged[: agreement.samples], agreement.step)
            if ids.size:
                file = written or self._write_order(number, ids)
                trace.append("pass", self._pass_event(number, ids, file, last))
                done.append(f"made {file} of the pass in progress, {count(int(ids.size), 'sample id')}")
        return done

    def _pass_event(self, number: int, ids: Ids, file: str, last: int) -> dict[str, Any]:
        begun = self.history.open[number]
        return {
            "pass": number,
            "epoch": begun["epoch"],
            "loader": begun["loader"],
            "first": _steps_before(self.history, begun) + 1,
            "last": last,
            "batches": _position(self.history, number, last),
            "samples": int(ids.size),
            "complete": False,
            "policy": begun["policy"],
            "file": file,
            "sha256": hashlib.sha256((self.path / file).read_bytes()).hexdigest(),
            "multiset": multiset(ids.astype(np.int64)),
            "windows": None,
            **_resumed(self.history, number),
        }

    def _held(self, number: int) -> tuple[Ids, str | None] | None:
        """Return the ids of a pass in progress: from its order file, if only the event is missing, or from its log."""
        named = {path for path, _, _ in named_files(self.reading.events)}
        inventory = self._examined.inventory
        for path in inventory.files:
            match = _ORDER.fullmatch(path)
            if match is not None and int(match[1]) == number and path not in named:
                ids = order_ids(self._examined, path)
                if not isinstance(ids, MemauditError) and self._agrees(number, ids):
                    return ids, path
        opened = self._examined.opened(order_part(number)) if order_part(number) in inventory else None
        return None if opened is None else (part_ids(opened.data), None)

    def _agrees(self, number: int, ids: Ids) -> bool:
        """Whether an order file begins with what the log of the same pass holds, if there still is one."""
        path = order_part(number)
        opened = self._examined.opened(path) if path in self._examined.inventory else None
        logged = part_ids(opened.data) if opened is not None else ids[:0]
        return np.array_equal(ids[: logged.size].astype(np.uint64), logged)

    def _write_order(self, number: int, ids: Ids) -> str:
        again = 1
        while (self.path / run_directory.order_file(number, again)).exists():
            again += 1
        path = run_directory.order_file(number, again)
        order_file.write(self.path / path, ids)
        return path


def _refuse_live(path: Path) -> None:
    """Refuse a run that a recorder is still writing: its lock is on the trace."""
    try:
        TraceWriter.reopen(path / TRACE, GENESIS, 0).close()
    except TraceInUseError as error:
        raise MemauditError(
            "the run is still being recorded", where=str(path), why=error.what, next_step="wait until it has ended"
        ) from None
    except OSError as error:
        raise MemauditError("the run cannot be written to", where=str(path / TRACE), why=error.strerror) from None


def _refuse_contradictions(examined: Examination) -> None:
    rules = [rule for rule in all_rules() if not rule.lint_only]
    found = [each for each in apply(rules, examined) if isinstance(each, Finding)]
    wrong = [
        each for each in worst_last(found) if each.level is Level.ERROR and each.evidence is not Evidence.INCONCLUSIVE
    ]
    if wrong:
        raise MemauditError(
            f"the run does not hold as it is: {wrong[-1].message}",
            where=f"{examined.label}/{wrong[-1].where}",
            why=f"{count(len(wrong), 'error')}, {wrong[-1].code} the last one; signing it would vouch for them",
            next_step=f"memaudit verify {examined.label}",
        )


def _only_signer(examined: Examination) -> str:
    """Return the key id of every seal; all of them hold, or verification would have said so."""
    keyids = sorted({event["keyid"] for event in examined.trace.of("seal")})
    if len(keyids) == 1:
        return str(keyids[0])
    if not keyids:
        raise MemauditError(
            "the run has no seal, so nobody can tell who recorded it",
            where=examined.label,
            why="it was cut off before the first one, or somebody took them out",
            next_step="record it again",
        )
    raise MemauditError(
        "the run was sealed with several keys",
        where=examined.label,
        why=", ".join(keyids),
        next_step="memaudit verify the run, and ask who recorded it",
    )


def _steps_before(history: History, begun: Event) -> int:
    before = [event["step"] for event in history.timeline if event["event"] == "step" and event["seq"] < begun["seq"]]
    return max(before, default=0)


def _position(history: History, number: int, last: int) -> int:
    """Return how many batches of a pass were consumed up to a step."""
    position = 0
    for event in history.timeline:
        if event["event"] == "step" and event["step"] <= last:
            if event["pass"] == number:
                position = event["position"] or 0
            position = dict(event.get("also", ())).get(number, position)
    return position


def _resumed(history: History, number: int) -> dict[str, Any]:
    """Return the member ``resumed`` of a pass that was in progress at the last cut; nothing for any other."""
    if not history.cuts or history.open[number]["seq"] > history.cuts[-1].event["seq"]:
        return {}
    cut = history.cuts[-1].event
    position = cut["position"] if cut["pass"] == number else _position(history, number, cut["step"])
    return {"resumed": {"position": position, "repeated": None, "skipped": None}}
