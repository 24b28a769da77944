"""A recording: the session that leaves a signed run directory behind."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np

from auditor.artifact.canonical import encode_float, write_canonical
from auditor.artifact.digest import ALGORITHM, array_digest, digest_text
from auditor.artifact.run_directory import ENVIRONMENT, TRACE, anchor_path, source_folder
from auditor.artifact.trace import FORMAT as TRACE_FORMAT
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey, load_or_create_default, load_private
from auditor.evidence.manifest import RUN, write_manifest
from auditor.evidence.predicate import run_predicate
from auditor.evidence.seal import seal_fields
from auditor.recorder import environment
from auditor.recorder.anchor_writer import AnchorWriter
from auditor.recorder.entry import Entry, gradients, has_odd_gradients
from auditor.recorder.journal import Journal
from auditor.recorder.order_log import OrderLog
from auditor.recorder.pass_events import iter_members, known_ids, pass_members
from auditor.recorder.passes import Consumed, Continued, Pass
from auditor.recorder.program_files import ProgramFiles, read_program
from auditor.recorder.resuming import Reopened, can_resume, reopen
from auditor.recorder.session import Session
from auditor.recorder.settings import NOTE, OUT, Settings
from auditor.state.anchor import Anchor, Snapshot
from auditor.state.module import evaluation_modes

_P = ParamSpec("_P")


def _guarded(
    method: Callable[Concatenate[Recording, _P], None],
) -> Callable[Concatenate[Recording, _P], None]:
    """A failure of the recorder's own ends the recording, loudly, and never the training."""

    @functools.wraps(method)
    def call(self: Recording, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if self.is_quiet:
            return
        try:
            with self._turn:
                method(self, *args, **kwargs)
        except Exception as error:
            self.break_off(error)
        except BaseException:
            self.interrupted = True
            raise

    return call


class Recording(Session):
    """Writes trace, order files, anchors, probes and, last, the signed manifest."""

    blocks = 0
    """Recordings begun in this process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        Recording.blocks += 1
        self._block = Recording.blocks
        # Programs draw their batches in a thread of their own: it may end a pass while a step is counted and written.
        self._turn = threading.RLock()
        self.broken = False
        self._closed = False
        self._process = os.getpid()
        files = read_program(keep=settings.sources)
        self._program = files.identity
        self._started = _now()
        self._clock_start = time.monotonic()
        self._key: SigningKey = load_or_create_default() if settings.key is None else load_private(settings.key)
        # The command names one directory; a program's further runs go beside it.
        if self._block > 1 and OUT in os.environ:
            settings = replace(settings, out=settings.out.with_name(f"{settings.out.name}-{self._block}"))
        self._environment = environment.describe(files.described)
        self._stored: list[str] = []
        self._last_anchor: tuple[int, str] | None = None
        self._anchor_is_due = False
        self._reopened: Reopened | None = None
        self._resumed_by_program = False
        if can_resume(settings):
            self._reopened = reopen(settings, self._key, self._environment, files)
            self._directory, self._trace = self._reopened.directory, self._reopened.trace
        else:
            self._directory = _new_directory(settings.out)
            self._trace = self._begin_trace(files)
        _tell_command(self._directory)
        self._journal = Journal(self._trace, self.contract_of, self.reseeding)
        self._order = OrderLog(self._directory)
        self._writer = AnchorWriter(self._directory)
        if self._reopened is not None:
            self._go_on(self._reopened)

    def _begin_trace(self, files: ProgramFiles) -> TraceWriter:
        program, told = files.write(self._directory / source_folder(ENVIRONMENT))
        _tell(*told)
        self._environment = {**self._environment, "program": program}
        text = write_canonical(self._directory / ENVIRONMENT, self._environment)
        trace = TraceWriter(self._directory / TRACE)
        trace.append(
            "start",
            {
                "format": TRACE_FORMAT,
                "digest": ALGORITHM,
                "seed": None if self.settings.seed is None else str(self.settings.seed),
                "program": self._program,
                "order": self.settings.order,
                "environment": hashlib.sha256(text).hexdigest(),
            },
        )
        # At once: a run without a seal belongs to nobody, and could be neither closed nor gone on with.
        trace.append("seal", seal_fields(trace.head, trace.lines, self._key))
        return trace

    def _go_on(self, reopened: Reopened) -> None:
        """Come back to the last anchor of a run that was cut, or wait for the program to say where it goes on."""
        self._stored = [record.event["path"] for record in reopened.view.history.anchors if record.is_kept]
        _tell(*reopened.told)
        if not reopened.same_numerics:
            _tell("another numerics class than before the cut: the bits from here on may be other ones than they were")
        if self.settings.resume == "program":
            return
        anchor = reopened.newest_anchor()
        if anchor is None:
            reopened.append_resume(0, {"pass": None, "position": 0, "from": None})
            _tell("no anchor can be come back to: the training begins anew")
            return
        reopened.append_resume(
            anchor["step"],
            {"pass": anchor["pass"], "position": anchor["position"] or 0, "from": anchor["path"]},
        )
        self.entry = Entry(self, Anchor.read(self._directory / anchor["path"], anchor["files"]), anchor["path"])
        self._last_anchor = (anchor["step"], anchor["at"])
        _tell(f"going on after step {anchor['step']} of {reopened.view.history.step}, from {anchor['path']}")

    def resumed(self, step: int) -> None:
        """Go on after ``step``, which the program came back to by a checkpoint of its own.

        Raises
        ------
        MemauditError
            If that step was not recorded, or the recording does not go on.
        """
        reopened = self._reopened
        if reopened is None or self.settings.resume != "program" or self._resumed_by_program:
            raise MemauditError(
                "there is no recording to go on with here",
                where=f"run.resumed({step})",
                next_step='record with auditor.record(…, resume="program"), and call run.resumed once',
            )
        taken = {each.step: each for each in reopened.view.steps()}
        if step and step not in taken:
            raise MemauditError(
                f"step {step} was not recorded before the cut",
                where=f"run.resumed({step})",
                why=f"the trace has {len(taken)} steps",
                next_step="come back to a checkpoint of a recorded step",
            )
        self._resumed_by_program = True
        number, position = (taken[step].pass_, taken[step].position or 0) if step else (None, 0)
        if number is None or not _goes_on(reopened.in_progress.get(number), position):
            number, position = None, 0
        self.clock.passes = reopened.append_resume(step, {"pass": number, "position": position, "from": None})
        self.clock.step = step
        if number is not None and position:
            ids = reopened.view.order(number)
            first = next((event["first"] for event in reopened.view.passes() if event["pass"] == number), step + 1)
            known = None if ids is None else ids.astype(np.int64).tolist()
            length = (reopened.in_progress[number]["policy"] or {}).get("length")
            self.continued = Continued(number, position, first, length, known)

    @property
    def _waits_for_program(self) -> bool:
        return self._reopened is not None and self.settings.resume == "program" and not self._resumed_by_program

    def check_begin(self) -> None:
        """Refuse to go on where the program has not said from which step it does."""
        super().check_begin()
        if self._waits_for_program:
            raise MemauditError(
                "the program has not said where it goes on",
                where="run.resumed(…)",
                why='the recording was opened with resume="program", and the run directory holds an unfinished run',
                next_step="call run.resumed(step) before the loop, with the step of the checkpoint that was loaded",
            )

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is recorded any more: after a failure, after the end, and in a process that was forked."""
        return self.broken or self.interrupted or self._closed or os.getpid() != self._process

    def survives(self, error: Exception) -> bool:
        """Break off; but a program that was to come back to an anchor must not train from elsewhere."""
        if self.waits_for_entry:
            return False
        self.break_off(error)
        return True

    def break_off(self, error: BaseException) -> None:
        """Stop recording after a failure; what was written stays and is told as unfinished by a verifier."""
        self.broken = True
        self.consumed = Consumed()
        for each in self.open:
            if each.walk is not None:
                each.walk.noting = False
        _tell(
            f"recording stopped at step {self.clock.step}, the training goes on: {type(error).__name__}: {error}",
            f"{self._directory} holds what was recorded until then, as an unfinished run",
        )

    # Passes.

    @_guarded
    def before_pass(self, new: Pass) -> None:
        """Take the anchor of the pass's start."""
        if self.open:
            return  # inside another pass: a fresh process could not come back to here
        first = self.clock.step == 0 and self._last_anchor is None
        due = first or _anchored(new.number - 1 if new.epoch is None else new.epoch)
        if self.clock.iteration is not None:
            # Somewhere in the body of a loop over steps: a fresh process comes back where the next iteration begins.
            self._anchor_is_due |= due and not first
        elif due and self._last_anchor not in ((self.clock.step, "start"), (self.clock.step, "pass")):
            at = "start" if first else "pass"
            if not self.clock.epoch_loop or self._entrance(at) is not None:
                self._anchor(at, beginning=new)
        loader = self.loaders.alive().get(new.loader or 0)
        if loader is not None and loader.num_workers:
            self._collect()  # workers are forked next: the writing thread is not to be there then

    @_guarded
    def after_iter(self, new: Pass) -> None:
        """Write the event of the pass's begin."""
        self._journal.iter(iter_members(new), self.sources(), self.streams())

    @_guarded
    def after_pass(self, old: Pass, *, complete: bool) -> None:
        """Write the order file and the pass event."""
        ids = known_ids(old)
        file = sha256 = None
        if ids is not None and self.settings.order == "ids":
            file, sha256 = self._order.finish(old.number, ids)
        else:
            self._order.forget(old.number)
        members = pass_members(old, ids, last=self.clock.step, complete=complete)
        self._trace.append("pass", {**members, "file": file, "sha256": sha256})

    # Steps.

    def begin_loop(self, count: int) -> int:
        """Take the first anchor of a loop without a loader."""
        first = super().begin_loop(count)
        self._at_loop()
        return first

    @_guarded
    def _at_loop(self) -> None:
        if self.clock.step == 0 and self._last_anchor is None:
            self._anchor("start")

    @_guarded
    def close_step(self, loss: Any) -> None:
        """Write the step event, and a seal where one is due."""
        every = self.settings.leaves_every
        leaves = every is not None and (self.clock.step + 1) % every == 0
        self._writer.check()
        self.write_step(self._journal, loss, leaves=leaves)
        if self.settings.order == "ids":
            self._order.note(self.open)
        if self.clock.step % self.settings.seal_every == 0:
            self._collect()
            self._seal()

    @_guarded
    def between(self) -> None:
        """Take an anchor where one is due inside a pass or loop."""
        every = self.settings.anchor_every
        if self._anchor_is_due or (every is not None and self.clock.step % every == 0):
            self._anchor_is_due = False
            self._anchor("step")

    def _seal(self) -> None:
        self._trace.append("seal", seal_fields(self._trace.head, self._trace.lines, self._key))
        self._trace.sync()

    # Anchors and probes.

    def _anchor(self, at: str, beginning: Pass | None = None) -> None:
        sources, streams = self.sources(), self.streams()
        self._journal.take_census(sources, streams)
        in_progress = beginning or next(iter(self.open), None)
        place = {
            "step": self.clock.step,
            "pass": in_progress.number if in_progress is not None else self.clock.passes or None,
            "epoch": self.clock.epoch,
            "position": 0 if in_progress is None else in_progress.position,
            "at": at,
            "enter": self._entrance(at),
        }
        snapshot = Snapshot(
            place,
            {source.name: source.read() for source in sources if source.captured},
            {stream.name: stream.read() for stream in streams},
            {keyword: evaluation_modes(module) for keyword, module in self.modules().items()},
            self._resume_values(),
        )
        # One at a time: a disk that is slower than the training makes the training wait here.
        self._collect()
        path = anchor_path(self.clock.step)
        again, base = 1, path
        while (self._directory / path).exists():
            # The start of the next pass, or the end, where an anchor inside the pass was taken after the same step;
            # or the same place again, after a cut.
            path = f"{base}-{at}" if again == 1 else f"{base}-{at}-{again}"
            again += 1
        digests = [
            {name: reading.digest() for name, reading in readings.items()}
            for readings in (snapshot.sources, snapshot.streams)
        ]
        self._trace.append(
            "anchor",
            {
                **place,
                "path": path,
                "sources": {name: digest_text(digest) for name, digest in digests[0].items()},
                "streams": {name: digest_text(digest) for name, digest in digests[1].items()},
            },
        )
        self._journal.note_anchor(*digests)
        self._writer.submit(snapshot, path)
        self._last_anchor = (self.clock.step, at)
        if at in ("start", "pass", "end"):
            self._measure()

    def _collect(self) -> None:
        """Write into the trace that the last anchor is on the disk, and drop what need not be kept any more.

        Where this happens does not depend on the disk: equal runs leave equal traces.
        """
        stored = self._writer.collect()
        if stored is None:
            return
        self._trace.append("stored", {"path": stored.path, "files": stored.files})
        self._trace.sync()
        keep = self.settings.keep_anchors
        if keep is None:
            return
        self._stored.append(stored.path)
        while len(self._stored) > keep:
            path = self._stored.pop(0)
            # In the trace first: a run that is killed in between has said that the files may be gone.
            self._trace.append("dropped", {"path": path})
            self._writer.drop(path)

    def _entrance(self, at: str) -> str | None:
        """Say how a fresh process can come back to this place: through run.epochs, run.steps, or not at all."""
        if at == "end" or self._block > 1 or self.draws_elsewhere:
            return None  # a fresh process would come to the program's first recording
        if self.consumed.contents and has_odd_gradients(self):
            return None
        walks = [each.walk for each in self.open]
        if len(walks) > 1 and any(walk is not None and walk.is_exhausted for walk in walks):
            return None  # where one of several is over, a fresh process would not come to the others
        looping = self.clock.iteration is not None
        if at != "start":
            if self.clock.closed:
                return None  # it would come to another pass first
            if not looping and (not self.clock.epoch_loop or self.clock.epoch is None):
                return None
        return "steps" if looping and not self.clock.epoch_loop else "epochs"

    def _resume_values(self) -> dict[str, Any]:
        """Return what else a fresh process needs: passes in progress, loaders, counters, gradients, what was drawn."""
        looping = self.clock.iteration is not None
        return {
            "passes": [each.values() for each in self.open],
            "begun": self.clock.passes,
            "closed": self.clock.closed,
            "epoch_loop": self.clock.epoch_loop,
            "loops": self.clock.loop - looping,
            "iteration": self.clock.iteration,
            "loaders": self.loaders.values(),
            "consumed": self.consumed.values(),
            "gradients": gradients(self),
        }

    def _measure(self) -> None:
        predictions: dict[str, str] = {}

        def keep(name: str, array: np.ndarray[Any, Any]) -> None:
            predictions[name] = digest_text(array_digest("predictions", array))

        for probe, values in self.measure(keep).items():
            members = {
                "step": self.clock.step,
                "probe": probe,
                "values": {name: encode_float(value) for name, value in values.items()},
                "predictions": predictions.get(probe),
            }
            self._trace.append("outcome", members)

    # The end.

    def finish(self, error: BaseException | None) -> None:
        """Take the last anchor, close the trace, sign the directory."""
        if self.interrupted and error is not None:
            self.break_off(error)
        for each in list(self.open):
            self.end_pass(each, complete=False)
        if self.entry is not None and self.entry.restored:
            for old in self.entry.give_up():
                self.after_pass(old, complete=False)
        self._finish(error)
        self._closed = True
        if os.getpid() == self._process:
            self._writer.close()  # also after a failure: a thread must not outlive the interpreter

    @_guarded
    def _finish(self, error: BaseException | None) -> None:
        if self.waits_for_entry or self._waits_for_program:
            _tell(
                "the program ended before it came to where the run was to go on",
                f"{self._directory} stays as it was, an unfinished run",
            )
            self._trace.close()
            return
        if self._last_anchor is None and not self.watched.objects:
            _tell("nothing was watched: call run.watch(model=…, optimizer=…)")
        if isinstance(error, SystemExit) and error.code in (None, 0):
            error = None
        if self.draws_elsewhere:
            _tell("another thread drew the batches than the one that took the steps: sample ids are unknown")
        if error is None and self.clock.step:
            self._anchor("end")
        self._collect()
        if self.probes or self.user_outcomes:
            self._write_probes()
        # Once more: what was counted while training ran, such as how often a stream was seeded again, is known now.
        self._journal.take_census(self.sources(), self.streams(), again=True)
        self._seal()
        members: dict[str, Any] = {"status": "completed" if error is None else "failed", "steps": self.clock.step}
        if error is not None:
            members["error"] = f"{type(error).__name__}: {error}"[:2000]
        self._trace.append("end", members)
        self._trace.close()
        write_manifest(self._directory, RUN, self._predicate(members["status"]), self._key)

    def _write_probes(self) -> None:
        (self._directory / "probe").mkdir()
        write_canonical(
            self._directory / "probe" / "probes.json",
            {
                "format": "probes-1",
                "probes": {name: probe.describe() for name, probe in self.probes.items()},
                "outcomes": sorted(self.user_outcomes),
                "warnings": sorted({warning for probe in self.probes.values() for warning in probe.warnings}),
            },
        )

    def _predicate(self, status: str) -> dict[str, Any]:
        # A run that went on after a cut is its first process's: its time is no single process's.
        first = self._reopened.view if self._reopened is not None else None
        return run_predicate(
            status=status,
            head=self._trace.head,
            lines=self._trace.lines,
            steps=self.clock.step,
            streams=self._journal.streams,
            census=self._journal.census,
            numerics=(self._environment if first is None else first.environment)["numerics"],
            program=self._program if first is None else first.start["program"],
            seed=None if self.settings.seed is None else str(self.settings.seed),
            started=self._started if first is None else None,
            finished=_now(),
            seconds=round(time.monotonic() - self._clock_start, 3) if first is None else None,
        )


def _anchored(index: int) -> bool:
    """Whether pass or epoch ``index`` (from 0) begins with an anchor: the first 16 do, then every 2nd, 4th, 8th, …"""
    return index % (1 << (index // 16).bit_length()) == 0


def _goes_on(begun: dict[str, Any] | None, position: int) -> bool:
    """Return whether a pass that was begun, and at the cut not ended, has batches left after ``position``."""
    if begun is None or position == 0:
        return False
    policy = begun["policy"] or {}
    length, size = policy.get("length"), policy.get("batch_size")
    if policy.get("kind") not in ("shuffled", "sequential") or length is None or size is None:
        return True
    return bool(position < (length // size if policy["drop_last"] else -(-length // size)))


def _new_directory(path: Path) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MemauditError(
            "the run directory exists and is not empty",
            where=str(path),
            why="a recording never writes over another one",
            next_step="name another directory with --out, or remove this one",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MemauditError("the run directory cannot be made", where=str(path), why=str(error)) from error
    return path.resolve()


def _tell(*lines: str) -> None:
    """Say something on stderr, apart from what the training says."""
    sys.stderr.write("".join(f"memaudit: {line}\n" for line in lines))


def _tell_command(directory: Path) -> None:
    """Tell ``memaudit record``, if it started this program, where the run is."""
    note = os.environ.get(NOTE)
    if note:
        with Path(note).open("a", encoding="utf-8") as file:
            file.write(f"{directory}\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
