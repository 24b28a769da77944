"""A recording: the session that leaves a signed run directory behind."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np

from auditor.artifact import order_file
from auditor.artifact.canonical import encode_float, write_canonical
from auditor.artifact.digest import ALGORITHM, array_digest, digest_text
from auditor.artifact.trace import FORMAT as TRACE_FORMAT
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey, load_or_create_default, load_private
from auditor.evidence.manifest import RUN, write_manifest
from auditor.evidence.seal import seal_fields
from auditor.recorder import environment
from auditor.recorder.journal import Journal
from auditor.recorder.order import Walk
from auditor.recorder.session import Session
from auditor.recorder.settings import NOTE, OUT, Settings, program
from auditor.state.anchor import Snapshot, copied
from auditor.state.module import evaluation_modes
from auditor.state.source import Reading

_P = ParamSpec("_P")


def _guarded(
    method: Callable[Concatenate[Recording, _P], None],
) -> Callable[Concatenate[Recording, _P], None]:
    """A failure of the recorder's own ends the recording, loudly, and never the training."""

    @functools.wraps(method)
    def call(self: Recording, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if self.broken:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.break_off(error)

    return call


class Recording(Session):
    """Writes trace, order files, anchors, probes and, last, the signed manifest."""

    blocks = 0
    """Recordings begun in this process."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        Recording.blocks += 1
        self._block = Recording.blocks
        self.broken = False
        self._started = _now()
        self._clock_start = time.monotonic()
        self._key: SigningKey = load_or_create_default() if settings.key is None else load_private(settings.key)
        # The command names one directory; a program's further runs go beside it.
        beside = self._block > 1 and OUT in os.environ
        self._directory = _new_directory(
            settings.out.with_name(f"{settings.out.name}-{self._block}") if beside else settings.out
        )
        self._environment = environment.describe()
        text = write_canonical(self._directory / "environment.json", self._environment)
        _tell_command(self._directory)
        self._trace = TraceWriter(self._directory / "trace.jsonl")
        self._trace.append(
            "start",
            {
                "format": TRACE_FORMAT,
                "digest": ALGORITHM,
                "seed": None if settings.seed is None else str(settings.seed),
                "program": program(),
                "order": settings.order,
                "environment": hashlib.sha256(text).hexdigest(),
            },
        )
        self._journal = Journal(self._trace, self.contract_of)
        self._first_step_of_pass = 1
        self._last_anchor: tuple[int, str] | None = None
        self._walk_memory: dict[str, dict[str, Reading]] = {}

    def break_off(self, error: Exception) -> None:
        """Stop recording after a failure; what was written stays and is told as unfinished by a verifier."""
        self.broken = True
        _tell(
            f"recording stopped at step {self.clock.step}, the training goes on: {type(error).__name__}: {error}",
            f"{self._directory} holds what was recorded until then, as an unfinished run",
        )

    # Passes.

    def start_walk(self, loader: Any) -> Walk:
        """Take the anchor of the pass's start, then begin the walk."""
        self._at_pass_start()
        return Walk(loader, before_first_draw=self._before_first_draw)

    @_guarded
    def _at_pass_start(self) -> None:
        self._first_step_of_pass = self.clock.step + 1
        self._walk_memory = {"before_iter": {s.name: copied(s.read()) for s in self.streams()}}
        first = self.clock.step == 0
        if self._last_anchor not in ((self.clock.step, "start"), (self.clock.step, "pass")) and (
            first or _anchored(self.clock.passes)
        ):
            self._anchor("start" if first else "pass")

    @_guarded
    def _before_first_draw(self) -> None:
        self._walk_memory["before_draw"] = {s.name: copied(s.read()) for s in self.streams()}

    def first_step(self) -> int:
        """Take the first anchor of a loop without a loader."""
        first = super().first_step()
        self._at_first_step()
        return first

    @_guarded
    def _at_first_step(self) -> None:
        if self.clock.step == 0 and self._last_anchor is None:
            self._anchor("start")

    @_guarded
    def boundary(self) -> None:
        """Take an anchor where one is due inside a pass."""
        every = self.settings.anchor_every
        step = self.clock.step
        if every is None or step == 0 or step % every:
            return
        if self.walk is None or self._can_resume_inside():
            self._anchor("step")

    def _can_resume_inside(self) -> bool:
        """Whether the loader's position can be come back to: no workers, and ids to count by."""
        return self.walk is not None and self.walk.has_ids and self.walk.loader.num_workers == 0

    def end_pass(self, *, complete: bool) -> None:
        """Write the order file and the pass event; give the loader back."""
        if self.walk is not None:
            self._write_pass(complete=complete)
            self.walk.close()
            self.walk = None

    @_guarded
    def _write_pass(self, *, complete: bool) -> None:
        walk = self.walk
        if walk is None:
            return
        known = walk.has_ids and (bool(walk.delivered) or self.clock.position == 0)
        ids = np.asarray(walk.delivered, dtype=np.int64)
        file = sha256 = None
        if known and self.settings.order == "ids":
            file = f"order/pass-{self.clock.passes:06d}.npy"
            (self._directory / "order").mkdir(exist_ok=True)
            sha256 = hashlib.sha256(order_file.write(self._directory / file, ids.astype(np.uint64))).hexdigest()
        self._trace.append(
            "pass",
            {
                "pass": self.clock.passes,
                "epoch": self.clock.epoch,
                "first": self._first_step_of_pass,
                "last": self.clock.step,
                "batches": self.clock.position,
                "samples": len(ids) if known else None,
                "complete": complete,
                "policy": walk.policy,
                "file": file,
                "sha256": sha256,
                "multiset": digest_text(array_digest("ids", np.sort(ids))) if known else None,
            },
        )

    # Steps.

    @_guarded
    def close_step(self, loss: Any) -> None:
        """Write the step event, and a seal where one is due."""
        every = self.settings.leaves_every
        leaves = every is not None and (self.clock.step + 1) % every == 0
        self.write_step(self._journal, loss, leaves=leaves)
        if self.clock.step % self.settings.seal_every == 0:
            self._seal()

    def _seal(self) -> None:
        self._trace.append("seal", seal_fields(self._trace.head, self._trace.lines, self._key))
        self._trace.sync()

    # Anchors and probes.

    def _anchor(self, at: str) -> None:
        sources, streams = self.sources(), self.streams()
        self._journal.take_census(sources, streams)
        place = {
            "step": self.clock.step,
            "pass": self.clock.passes or None,
            "epoch": self.clock.epoch,
            "position": self.clock.position,
            "at": at,
            "enter": self._entrance(at),
        }
        loader_tensors, loader = self._loader_state(at)
        snapshot = Snapshot(
            place,
            {source.name: source.read() for source in sources},
            {stream.name: stream.read() for stream in streams},
            {keyword: evaluation_modes(module) for keyword, module in self.modules().items()},
            loader,
            loader_tensors,
        )
        path = f"anchors/step-{self.clock.step:06d}"
        if (self._directory / path).exists():
            # The start of the next pass, or the end, where an anchor inside the pass was taken after the same step.
            path += f"-{at}"
        files = snapshot.write(self._directory / path)
        digests = [
            {name: reading.digest() for name, reading in readings.items()}
            for readings in (snapshot.sources, snapshot.streams)
        ]
        self._trace.append(
            "anchor",
            {
                **place,
                "path": path,
                "files": files,
                "sources": {name: digest_text(digest) for name, digest in digests[0].items()},
                "streams": {name: digest_text(digest) for name, digest in digests[1].items()},
            },
        )
        self._journal.note_anchor(*digests)
        self._trace.sync()
        self._last_anchor = (self.clock.step, at)
        if at in ("start", "pass", "end"):
            self._measure()

    def _entrance(self, at: str) -> str | None:
        """Say how a fresh process can come back to this place: through run.epochs, run.steps, or not at all."""
        if at == "end" or self._block > 1:
            return None  # a fresh process would come to the program's first recording
        if self.clock.passes == 0:
            return "steps"
        if at == "start":
            return "epochs"  # nothing has to be skipped to come here
        if any(loader.persistent_workers for loader in self.loaders):
            return None  # such workers carry streams from pass to pass, and an anchor does not hold them
        return "epochs" if self.uses_epochs and self.clock.passes_in_epoch == 1 else None

    def _loader_state(self, at: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the streams before the walk began and before its first draw: what an order in progress came from."""
        if at != "step" or self.walk is None:
            return {}, None
        tensors: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for moment, readings in self._walk_memory.items():
            values[moment] = {name: reading.values for name, reading in readings.items()}
            for name, reading in readings.items():
                tensors.update({f"{moment}/{name}/{path}": tensor for path, tensor in reading.tensors.items()})
        return tensors, values

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
        if self.walk is not None:
            self.end_pass(complete=False)
        self._finish(error)

    @_guarded
    def _finish(self, error: BaseException | None) -> None:
        if self._last_anchor is None and not self.watched.objects:
            _tell("nothing was watched: call run.watch(model=…, optimizer=…)")
        if error is None and self.clock.step:
            self._anchor("end")
        if self.probes or self.user_outcomes:
            self._write_probes()
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
        return {
            "format": "run-1",
            "status": status,
            "trace": {"head": self._trace.head, "lines": self._trace.lines},
            "steps": self.clock.step,
            "contract": {"streams": self._journal.streams},
            "census": self._journal.census,
            "numerics": self._environment["numerics"],
            "program": program(),
            "seed": None if self.settings.seed is None else str(self.settings.seed),
            "started": self._started,
            "finished": _now(),
            "seconds": round(time.monotonic() - self._clock_start, 3),
        }


def _anchored(number: int) -> bool:
    """Whether pass ``number`` (from 1) begins with an anchor: all of the first 16, then every 2nd, 4th, 8th, …"""
    index = number - 1
    return index % (1 << (index // 16).bit_length()) == 0


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
