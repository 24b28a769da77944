"""A cell: the session that comes back to an anchor, intervenes, measures and stops."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.artifact.canonical import encode_float, write_canonical
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError
from auditor.interventions.registry import make
from auditor.recorder.environment import numerics_class
from auditor.recorder.journal import Journal
from auditor.recorder.order import Walk, forget_workers
from auditor.recorder.session import Session
from auditor.recorder.settings import Settings
from auditor.state.anchor import Anchor
from auditor.state.restore import restore_sources, restore_streams
from auditor.state.source import Reading
from auditor.state.streams import GeneratorStream

RESULT_FORMAT = "cell-result-1"


class CellFinished(BaseException):
    """The cell has measured its last horizon; the program ends here."""


class Cell(Session):
    """Runs one arm for one unit inside the recorded program (docs/study.md).

    Parameters
    ----------
    settings
        The program's settings as recorded; nothing is written to its ``out``.
    directory
        The cell's directory; it holds ``cell.json``.
    run
        The run directory with the anchors.
    """

    def __init__(self, settings: Settings, directory: Path, run: Path) -> None:
        super().__init__(settings)
        self._began = time.monotonic()
        self.directory = directory
        self.description: dict[str, Any] = json.loads((directory / "cell.json").read_text("utf-8"))
        _set_threads(self.description["threads"], self.description["interop_threads"])
        place = self.description["anchor"]
        self._anchor = Anchor.read(run / place["path"], place["files"])
        self._place = place
        self._interventions = [make(item) for item in self.description["do"]]
        self._trace = TraceWriter(directory / "trace.jsonl")
        self._journal = Journal(self._trace, self.contract_of)
        self._restored = False
        self._forked = False
        self._done = False
        self._fork_report: dict[str, Any] = {"rekeyed": {}, "order_kept": None, "absent_streams": []}
        self._generators: list[torch.Generator] = []
        self._receipts: list[dict[str, Any]] = []
        self._horizons: dict[str, dict[str, dict[str, float | str]]] = {}
        self._reach_seconds = 0.0

    # Coming back to the anchor.

    def first_epoch(self) -> int:
        """Begin with the anchor's epoch."""
        super().first_epoch()
        return int(self._place["epoch"] or 0)

    def begin_pass(self, loader: Any) -> None:
        """Begin a walk; where it was resumed at the fork itself, fork before its first batch."""
        super().begin_pass(loader)
        if self._is_fork_place("step"):
            self._fork()

    def start_walk(self, loader: Any) -> Walk:
        """Restore, if this is the anchor's pass; fork, if this is the place; begin the walk."""
        if self._restored:
            self._rekey_new()
            if self._is_fork_place("pass"):
                self._fork()
            return Walk(loader)
        if self._place["pass"] is None:
            raise MemauditError("the program walks a loader where the recorded one did not", where=self._place["path"])
        self.clock.passes = self._place["pass"]
        if self._place["at"] == "step":
            return self._resume_inside(loader)
        self._restore()
        if self._is_fork_place("pass"):
            self._fork()
        return Walk(loader)

    def _resume_inside(self, loader: Any) -> Walk:
        self._set_streams("before_iter")
        walk = Walk(loader, skip=self._place["position"], before_first_draw=lambda: self._set_streams("before_draw"))
        walk.fast_forward()
        self.clock.position = self._place["position"]
        self._restore()
        return walk

    def _set_streams(self, moment: str) -> None:
        """Set every stream to what it was before the walk in progress began, or before its first draw."""
        values = self._anchor.values["loader"][moment]
        for stream in self.streams():
            prefix = f"{moment}/{stream.name}/"
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in self._anchor.loader_tensors.items()
                if name.startswith(prefix)
            }
            if stream.name in values:
                stream.restore(Reading(tensors, values[stream.name]))

    def first_step(self) -> int:
        """Restore in front of the loop; begin with the anchor's step."""
        super().first_step()
        if not self._restored:
            self._restore()
        return self.clock.step

    def _restore(self) -> None:
        restore_sources(self._anchor, self.watched)
        self._cached = None
        self._fork_report["absent_streams"] = restore_streams(self._anchor, self.streams())
        self.clock.step = self._place["step"]
        self._restored = True

    # The fork and what follows.

    def _is_fork_place(self, where: str) -> bool:
        fork = self.description["fork"]
        return not self._forked and bool(fork["where"] == where) and bool(fork["at"] == self.clock.step)

    def _fork(self) -> None:
        self._forked = True
        self._reach_seconds = time.monotonic() - self._began
        if self.description["key"] is not None:
            if self.walk is not None and self.description["fork"]["where"] == "step":
                self._fork_report["order_kept"] = self.walk.redraw(self._rekey)
            else:
                self._rekey()
        for intervention in self._interventions:
            self._receipts.append(intervention.apply(self.watched))
            self._cached = None

    def _rekey(self) -> None:
        key = self.description["key"]
        streams = self.streams()
        self._fork_report["rekeyed"] = {stream.name: str(stream.rekey(key)) for stream in streams}
        self._generators = [stream.generator for stream in streams if isinstance(stream, GeneratorStream)]
        for loader in self.loaders:
            if self.walk is None or loader is not self.walk.loader:
                forget_workers(loader)  # workers that live on would keep streams that nobody re-keyed

    def _rekey_new(self) -> None:
        """Re-key the streams that appear after the fork, such as the generator of a loader not walked before."""
        key = self.description["key"]
        if self._forked and key is not None:
            for stream in self.streams():
                if isinstance(stream, GeneratorStream) and all(stream.generator is not g for g in self._generators):
                    self._generators.append(stream.generator)
                    seed = stream.rekey(f"{key}/pass {self.clock.passes}")
                    self._fork_report["rekeyed"][f"{stream.name} of pass {self.clock.passes}"] = str(seed)

    def boundary(self) -> None:
        """Fork or measure where it is due; end the program after the last horizon."""
        self._act()
        if self._done:
            raise CellFinished

    def _act(self) -> None:
        if not self._restored or self._done:
            return
        if self._is_fork_place("step"):
            self._fork()
        horizon = self.clock.step - self.description["fork"]["at"]
        if self._forked and horizon in self.description["horizons"] and str(horizon) not in self._horizons:
            self._measure(horizon)
            if horizon == max(self.description["horizons"]):
                missing = [h for h in self.description["horizons"] if str(h) not in self._horizons]
                self._write("failed", f"horizons {missing} were not measured") if missing else self._write("finished")

    def close_step(self, loss: Any) -> None:
        """Write the step event, for the gate and for diff."""
        if self._done:
            return
        if not self._restored:
            raise MemauditError(
                "the program took a step before the place it was to come back to",
                where=self._place["path"],
                why="steps outside run.batches() and run.steps() cannot be skipped",
                next_step="take every optimizer step inside the loop over run.batches(loader) or run.steps(n)",
            )
        self.write_step(self._journal, loss)

    def end_pass(self, *, complete: bool) -> None:
        """Give the loader back; measure what is due after a pass left by ``break``."""
        if self.walk is not None:
            self.walk.close()
            self.walk = None
        self._act()

    def _measure(self, horizon: int) -> None:
        predictions = self.directory / "predictions"
        predictions.mkdir(exist_ok=True)

        def keep(name: str, array: np.ndarray[Any, Any]) -> None:
            np.save(predictions / f"{name}-h{horizon:06d}.npy", array.astype("<f8"), allow_pickle=False)

        self._horizons[str(horizon)] = {
            probe: {name: encode_float(value) for name, value in values.items()}
            for probe, values in self.measure(keep).items()
        }

    def finish(self, error: BaseException | None) -> None:
        """Write what is known if the program ended before the cell was done."""
        if self._done:
            return
        if error is None:
            # A loop left by `break` ends without coming back for the next batch.
            self._act()
        if not self._done:
            reason = (
                "the program ended before the last horizon" if error is None else f"{type(error).__name__}: {error}"
            )
            self._write("failed", reason[:2000])

    def _write(self, status: str, error: str | None = None) -> None:
        self._done = True
        self._trace.close()
        total = time.monotonic() - self._began
        # Apart from the result, which is a function of the cell's description alone.
        write_canonical(
            self.directory / "timing.json",
            {"reach": round(self._reach_seconds, 3), "roll": round(total - self._reach_seconds, 3)},
        )
        write_canonical(
            self.directory / "result.json",
            {
                "format": RESULT_FORMAT,
                "status": status,
                "error": error,
                "arm": self.description["arm"],
                "unit": self.description["unit"],
                "horizons": self._horizons,
                "probes": {name: probe.describe() for name, probe in self.probes.items()},
                "receipts": self._receipts,
                "fork": self._fork_report,
                "numerics": numerics_class(),
            },
        )


def _set_threads(threads: int, interop: int) -> None:
    """Use the recorded thread counts: they change bits."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != interop:
        torch.set_num_interop_threads(interop)
