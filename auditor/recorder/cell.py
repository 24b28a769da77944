"""A cell: the session that comes back to a step, intervenes, measures and stops."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.artifact.canonical import encode_float, write_canonical
from auditor.artifact.run_directory import TRACE
from auditor.artifact.trace import TraceWriter
from auditor.interventions.intervention import Branch, Intervention, Lasting
from auditor.interventions.order import Handout, OrderIntervention
from auditor.interventions.registry import make
from auditor.recorder.entry import Entry
from auditor.recorder.environment import numerics_class
from auditor.recorder.exchange import Exchange
from auditor.recorder.journal import Journal
from auditor.recorder.keyed import draws_are_keyed
from auditor.recorder.magnifier import FILE as MAGNIFIED
from auditor.recorder.magnifier import Magnifier
from auditor.recorder.order import Arrange, Walk
from auditor.recorder.passes import Pass
from auditor.recorder.rekeying import redraw
from auditor.recorder.session import Session
from auditor.recorder.settings import Settings
from auditor.state.anchor import Anchor, copied
from auditor.state.source import Reading
from auditor.state.streams import Stream

RESULT_FORMAT = "cell-result-1"

_CLOCKS = frozenset({"hyper", "scheduler", "scaler"})


class CellFinished(BaseException):
    """The cell has measured its last horizon; the program ends here."""


class Cell(Session):
    """Runs one arm for one unit inside the recorded program (docs/study.md).

    It comes to the fork from an anchor, or where ``cell.json`` names none from the program's start.

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
        self._forked = False
        self._done = False
        self._fork_report: dict[str, Any] = {"rekeyed": {}, "order_kept": None, "absent_streams": []}
        self._generators: list[object] = []
        self._receipts: dict[int, dict[str, Any]] = {}
        """By the place of the intervention in the arm."""
        self._lasting: list[Lasting] = []
        self._stepped_by: int | None = None
        """The thread that closed the last step."""
        self._reached: dict[int, int] = {}
        """Batches consumed when the last step closed, by pass."""
        self._horizons: dict[str, dict[str, dict[str, float | str]]] = {}
        self._reach_seconds = 0.0
        self._built: dict[str, Reading] = {}
        """Clocks and rates as the program built them, before its first loop began."""
        self._loops_began = False
        self._take(directory)
        _set_threads(self.description["threads"], self.description["interop_threads"])
        place = self.description["anchor"]
        if place is not None:
            self.entry = Entry(self, Anchor.read(run / place["path"], place["files"]), place["path"])
        self._trace = TraceWriter(directory / TRACE)
        self._journal = Journal(self._trace, self.contract_of, self.reseeding)

    def _take(self, directory: Path) -> None:
        """Become the cell that ``directory`` describes."""
        self._began = time.monotonic()
        self.directory = directory
        self.description: dict[str, Any] = json.loads((directory / "cell.json").read_text("utf-8"))
        self._interventions = [make(item) for item in self.description["do"]]
        self._orders = self._placed_orders()
        self._magnifier = Magnifier(directory / MAGNIFIED, self) if self.description.get("magnify") else None
        self._exchange = Exchange(directory, self.description)
        self._branch = Branch(
            self.watched,
            self.description["key"] or "recorded streams",
            streams=self.main_streams,
            redraw=partial(redraw, self),
            built=self._built,
            probes=self.probes,
            loaders=self.loaders.alive,
            given=lambda wanting: self._exchange.taken(self._interventions.index(wanting), wanting),
        )

    # Coming back to the step.

    @property
    def _is_back(self) -> bool:
        """Whether the program takes the recorded steps: it does not wait for an anchor to be restored."""
        return not self.waits_for_entry

    def watch(self, objects: dict[str, Any]) -> None:
        """Watch objects; what is shown after the first loop began is known as it is now."""
        super().watch(objects)
        if self._loops_began:
            self._note_built()

    def first_epoch(self, count: int) -> int:
        """Return the epoch that ``run.epochs(count)`` begins with: 0, or the anchor's."""
        self._note_built()
        return super().first_epoch(count)

    def check_begin(self) -> None:
        """Check, once, when the first loop begins, what the script has shown."""
        super().check_begin()
        self._note_built()

    def _note_built(self) -> None:
        """Keep clocks and rates as the program built them, whatever the way to the fork makes of them."""
        self._loops_began = True
        for source in self.sources():
            if source.kind in _CLOCKS and source.captured and source.name not in self._built:
                self._built[source.name] = copied(source.read())

    def before_pass(self, new: Pass) -> None:
        """Fork, if this is the place."""
        self._rekey_new(new)
        before = self.description["fork"].get("before")
        if not self.open and before in (None, new.number) and self._is_fork_place("pass"):
            self._fork(new)

    def begin_loop(self, count: int) -> int:
        """Fork before the first iteration, if the fork is there."""
        first = super().begin_loop(count)
        if self._is_back and self._is_fork_place("step"):
            self._fork()
        return first

    def entered(self, old: Pass) -> None:
        """Fork before the first batch of a pass that goes on, if the fork is where the anchor is."""
        if self._is_fork_place("step"):
            self._fork()
        elif self._forked and self.description["key"] is not None and old.walk is not None:
            # A second pass in progress, which the program came to after the fork.
            self._rekey_new(old)
            self._redraw(old)

    # The fork and what follows.

    def _is_fork_place(self, where: str) -> bool:
        fork = self.description["fork"]
        return not self._forked and bool(fork["where"] == where) and bool(fork["at"] == self.clock.step)

    def _fork(self, beginning: Pass | None = None) -> None:
        """Branch off; ``beginning`` is the pass that begins here, if one does."""
        self._forked = True
        self._reach_seconds = time.monotonic() - self._began
        if self.description["key"] is not None:
            self._rekey(beginning)
            for each in self.open:
                self._redraw(each)
        for intervention in self._interventions:
            if intervention.at in (None, self.clock.step):
                self._intervene(intervention)
        self._exchange.give(self.clock.step, self._branch)
        if self._magnifier is not None:
            self._magnifier.begin()

    def _intervene(self, intervention: Intervention) -> None:
        receipt = {**intervention.apply(self._branch), "at": self.clock.step, "steps_changed": None}
        self._receipts[self._interventions.index(intervention)] = receipt
        if isinstance(intervention, Lasting) and receipt["applied"]:
            self._lasting.append(intervention)

    def _redraw(self, old: Pass) -> None:
        """Have the rest of a pass in progress drawn anew, and arranged as the arm has it."""
        if old.walk is not None:
            old.walk.arrange = self.arrangement(old)
            old.moments["before_iter"] = self.read_streams()
            self._note_kept(old.walk.redraw())

    def _placed_orders(self) -> list[OrderIntervention]:
        """Return the arm's interventions on the order, each told where its steps lie."""
        found = []
        for number, intervention in enumerate(self._interventions):
            if isinstance(intervention, OrderIntervention):
                intervention.place = self.description["order"][number]
                found.append(intervention)
        return found

    def arrangement(self, of: Pass) -> Arrange | None:
        """Hand a pass's batches out as the arm's interventions on the order have it, one after the other."""
        if not self._forked or not self._orders:
            return None
        begins = of.walk is None

        def arrange(walk: Walk, source: Iterator[Any]) -> Iterator[Any]:
            handout = Handout(
                number=of.number,
                loader=of.loader,
                first=of.first,
                begins=begins,
                taken=len(walk.lengths),
                sampler=walk.known_sampler,
                keyed=draws_are_keyed(walk.loader.dataset),
                read=self.read_streams,
                write=self.set_streams,
            )
            for order in self._orders:
                source = order.arrange(source, handout, self._branch)
            return source

        return arrange

    def _note_kept(self, reason: str | None) -> None:
        """Report why an order was kept; each reason once."""
        known = self._fork_report["order_kept"]
        if reason is not None and reason not in (known or ""):
            self._fork_report["order_kept"] = reason if known is None else f"{known}; {reason}"

    def _rekey(self, beginning: Pass | None) -> None:
        key = self.description["key"]
        if self.entry is not None:
            self.entry.forget()
        streams = [stream for stream in super().main_streams() if not self._rests(stream, beginning)]
        self._generators = [_generator_of(stream) for stream in streams]
        self._fork_report["rekeyed"] = {stream.name: str(stream.rekey(key)) for stream in streams}
        # Workers that live on would keep streams that nobody re-keyed; those of passes in progress go with the redraw.
        self.loaders.forget_workers()

    def _rests(self, stream: Stream, beginning: Pass | None) -> bool:
        """Say whether a stream serves only loaders that are not being walked: it is re-keyed where they are next.

        Which of these a process knows depends on where it began; what is drawn, and told, must not.
        """
        walked = {each.loader for each in (*self.open, *([] if beginning is None else [beginning]))}
        return bool(stream.places) and all(
            place.loader is not None and place.loader not in walked for place in stream.places
        )

    def _is_rekeyed(self, stream: Stream) -> bool:
        generator = _generator_of(stream)
        return any(generator is known or generator == known for known in self._generators)

    def main_streams(self) -> list[Stream]:
        """Return the random streams of this process; after the fork of a unit, those that rest only once re-keyed."""
        streams = super().main_streams()
        if not self._forked or self.description["key"] is None:
            return streams
        return [stream for stream in streams if not self._rests(stream, None) or self._is_rekeyed(stream)]

    def _rekey_new(self, new: Pass) -> None:
        """Re-key the streams that appear after the fork, such as the generator of a loader not walked before."""
        key = self.description["key"]
        if self._forked and key is not None:
            for stream in super().main_streams():
                if not self._is_rekeyed(stream) and not self._rests(stream, new):
                    self._generators.append(_generator_of(stream))
                    seed = stream.rekey(f"{key}/pass {new.number}")
                    self._fork_report["rekeyed"][f"{stream.name} of pass {new.number}"] = str(seed)

    def between(self) -> None:
        """Fork where it is due."""
        if self._is_back and not self._done and self._is_fork_place("step"):
            self._fork()

    def boundary(self, of: Pass | None = None) -> None:
        """Measure where it is due; end the program after the last horizon."""
        super().boundary(of)
        self._act()
        if self._done:
            raise CellFinished

    def _act(self) -> None:
        if not self._is_back or self._done:
            return
        horizon = self.clock.step - self.description["fork"]["at"]
        if self._forked and horizon in self.description["horizons"] and str(horizon) not in self._horizons:
            self._measure(horizon)
            if horizon == max(self.description["horizons"]):
                missing = [h for h in self.description["horizons"] if str(h) not in self._horizons]
                self._write("failed", f"horizons {missing} were not measured") if missing else self._write("finished")

    def close_step(self, loss: Any) -> None:
        """Write the step event, for the gate and for diff; a cell that magnifies measures nothing, and ends here."""
        if self._done:
            return
        self._stepped_by = threading.get_ident()
        for lasting in self._lasting:
            lasting.steps_changed += lasting.after_step(self._branch)
        self._reached.update(self.consumed.positions)
        self.write_step(self._journal, loss)
        if self._forked:
            for order in self._orders:
                order.closed(self.clock.step, self._reached)
            for intervention in self._interventions:
                if intervention.at == self.clock.step > self.description["fork"]["at"]:
                    self._intervene(intervention)
            if self.clock.step > self.description["fork"]["at"]:
                self._exchange.give(self.clock.step, self._branch)
        if self._magnifier is not None and self._magnifier.is_looking:
            self._magnifier.close()
            if self.clock.step - self.description["fork"]["at"] >= max(self.description["horizons"]):
                self._write("finished")
                raise CellFinished

    def draw(self, of: Pass) -> Any:
        """Return the next batch, drawn as lasting interventions have it."""
        if self._stepped_by == threading.get_ident():
            for lasting in self._lasting:
                lasting.before_batch(self._branch)
        return super().draw(of)

    def consume(self, ids: list[int] | None, content: Any, of: Pass | None = None) -> None:
        """Note one batch."""
        super().consume(ids, content, of)
        if self._magnifier is not None and self._magnifier.is_looking and not self._done:
            self._magnifier.batch(ids, content, of)

    def after_pass(self, old: Pass, *, complete: bool) -> None:
        """Measure what is due after a pass left by ``break``."""
        if not self.open:
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

    def _told_receipts(self) -> list[dict[str, Any]]:
        """The receipts in the arm's order, with the number of later steps after which the lasting ones acted."""
        for lasting in self._lasting:
            self._receipts[self._interventions.index(lasting)]["steps_changed"] = lasting.steps_changed
        for order in self._orders:
            # Batches were still to come when it was applied.
            self._receipts.get(self._interventions.index(order), {}).update(order.receipt(self._reached))
        return [receipt for _, receipt in sorted(self._receipts.items())]

    def _write(self, status: str, error: str | None = None) -> None:
        self._done = True
        self._fork_report["absent_streams"] = [] if self.entry is None else sorted(self.entry.absent)
        self._trace.close()
        if self._magnifier is not None:
            self._magnifier.end()
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
                "receipts": self._told_receipts(),
                "fork": self._fork_report,
                "streams": self._journal.last_streams(),
                "given": self._exchange.given,
                "numerics": numerics_class(),
            },
        )


def _generator_of(stream: Stream) -> object:
    """Return what tells a stream from another one that may have taken its name: its generator, or else its name."""
    generator: object = getattr(stream, "generator", None)
    return stream.name if generator is None else generator


def _set_threads(threads: int, interop: int) -> None:
    """Use the recorded thread counts: they change bits."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != interop:
        torch.set_num_interop_threads(interop)
