"""What a recording and a replayed cell share: the objects watched, the clock, the walk, the probes, the steps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from auditor.artifact.canonical import encode_float
from auditor.errors import MemauditError
from auditor.outcomes.probe import Probe, UserOutcome, content_digest
from auditor.recorder import contract
from auditor.recorder.entry import Entry
from auditor.recorder.journal import Journal
from auditor.recorder.keyed import set_pass
from auditor.recorder.order import Arrange, ProgramError, Walk, policy_of
from auditor.recorder.passes import Consumed, Continued, Loaders, Pass, Readings
from auditor.recorder.reseeding import Reseeding
from auditor.recorder.settings import Settings
from auditor.recorder.workers import WorkerTable
from auditor.state.anchor import check_storable, copied
from auditor.state.census import Watched
from auditor.state.source import Source
from auditor.state.streams import Stream


@dataclass
class Clock:
    """Where in the training the program is."""

    step: int = 0
    """Optimizer steps taken."""
    passes: int = 0
    """Passes begun."""
    epoch: int | None = None
    """The epoch of ``run.epochs`` in progress, from 0; None outside."""
    epoch_loop: int = 0
    """Loops over ``run.epochs`` begun."""
    closed: int = 0
    """Passes ended in this epoch (without ``run.epochs``: in the program), those inside another loop not counted."""
    loop: int = 0
    """Loops over ``run.steps`` begun, counted in the same way."""
    iteration: int | None = None
    """The iteration of the ``run.steps`` loop in progress; None outside."""


class Session(ABC):
    """One training under observation. The driver (an adapter) says what happens; the session decides what it means."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watched = Watched()
        self.probes: dict[str, Probe] = {}
        self.user_outcomes: dict[str, UserOutcome] = {}
        self.clock = Clock()
        self.open: list[Pass] = []
        """The passes in progress, in the order of their begin."""
        self.loaders = Loaders()
        self.consumed = Consumed()
        self.entry: Entry | None = None
        """The anchor to come back to, if there is one."""
        self.continued: Continued | None = None
        """The pass that the program itself goes on with, until it begins."""
        self._met: dict[str, Stream] = {}
        self._consumers: dict[str, dict[str, None]] = {}
        self.reseeding = Reseeding()
        self._batch_size: int | None = None
        self.interrupted = False
        """Whether an interrupt came while something was being counted and written: it is then not whole."""
        self.draws_elsewhere = False
        """Whether another thread draws the batches than the one that takes the steps."""
        self._drawn_by: int | None = None
        self._begun = False
        self._closed_in: set[int] | None = None

    # What the driver calls while the script sets up.

    def watch(self, objects: dict[str, Any]) -> None:
        """Watch objects by keyword; what cannot be captured is refused here, before any step."""
        for name, thing in objects.items():
            self.watched.add(name, thing)
        for source in self.watched.sources():
            try:
                reading = source.read()
                check_storable(reading)
                reading.digest()
            except MemauditError as error:
                raise MemauditError(
                    error.what, where=f"{source.name}, {error.where}", why=error.why, next_step=error.next_step
                ) from error

    def add_probe(self, probe: Probe) -> None:
        """Measure one more probe."""
        if probe.name in self.probes:
            raise MemauditError(
                f"two probes are called {probe.name!r}",
                where="run.probe(…)",
                next_step="give each a name: run.probe(…, name=…)",
            )
        self.probes[probe.name] = probe

    def add_outcome(self, outcome: UserOutcome) -> None:
        """Measure one more scalar of the user's."""
        self.user_outcomes[outcome.name] = outcome

    def check_probes(self) -> None:
        """Refuse a probe on state that is not watched: a replay could not bring it back.

        Raises
        ------
        MemauditError
            If a probed model holds a parameter or buffer of no watched object.
        """
        known = {id(tensor) for source in self.sources() for tensor in source.read().tensors.values()}
        for probe in self.probes.values():
            for name, tensor in [*probe.model.named_parameters(), *probe.model.named_buffers()]:
                if id(tensor) not in known:
                    raise MemauditError(
                        f"the model of probe {probe.name!r} is not watched",
                        where=name,
                        why="an anchor would not hold it, and a replay could not bring it back",
                        next_step="name it to run.watch(…) too, for example as ema= or teacher=",
                    )

    # What the driver calls while the script trains.

    def first_epoch(self, count: int) -> int:
        """Return the epoch that ``run.epochs(count)`` begins with: 0, or an anchor's."""
        self.clock.epoch_loop += 1
        return 0 if self.entry is None else self.entry.enter_epochs(self.clock.epoch_loop, count)

    def enter_epoch(self, epoch: int | None) -> None:
        """Note that an epoch begins; None: that the loop over epochs is over."""
        self.clock.epoch = epoch
        self.clock.closed = self.clock.loop = 0
        self.clock.iteration = None
        if self.entry is not None and self.entry.restored:
            for old in self.entry.give_up():
                self.after_pass(old, complete=False)

    def begin_pass(self, loader: Any) -> Pass:
        """Begin a walk through a loader; a bare one (number 0) where nothing is to be noted."""
        self._begin()
        if self.is_quiet or (self.entry is not None and self.waits_for_entry and not self.entry.is_here):
            return Pass(0, None, None, 0, bare=iter(loader))
        failure: Exception
        try:
            return self._begin_pass(loader)
        except ProgramError as error:
            failure = error.error
        except Exception as error:
            if not self.survives(error):
                raise
            return Pass(0, None, None, 0, bare=iter(loader))
        raise failure  # not inside the handler: the program's exception is to look as it would without memaudit

    def _begin_pass(self, loader: Any) -> Pass:
        number = self.loaders.number_of(loader)
        self.watched.look_again()
        entered = None if self.entry is None else self.entry.claim(loader, number)
        if entered is not None:
            self.open.append(entered)
            self.entered(entered)
            return entered
        new = Pass(self.clock.passes + 1, self.clock.epoch, number, self.clock.step + 1)
        continued = self._take_continued(loader, new)
        if continued is None:
            self.before_pass(new)
        set_pass(loader, new.number)
        new.moments["before_iter"] = self.read_streams()

        def before_draw() -> None:
            new.moments["before_draw"] = self.read_streams()

        table = self.table_of(number)
        anew = isinstance(loader, DataLoader) and loader.num_workers and getattr(loader, "_iterator", None) is None
        if self.entry is not None:
            walk = self.entry.build(loader, number, before_draw, self.arrangement(new))
        else:
            if anew:
                table.states.clear()
                table.born = new.moments["before_iter"]
            walk = Walk(loader, table, before_first_draw=before_draw, arrange=self.arrangement(new))
        if not walk.has_ids:
            new.workers = {} if anew else dict(table.states)
        new.walk = walk
        try:
            self.open.append(new)
            if continued is not None:
                walk.take_over(continued)
            else:
                self.clock.passes = new.number
                self.after_iter(new)
        except BaseException:
            self.interrupted = True
            raise
        return new

    def _take_continued(self, loader: Any, new: Pass) -> Continued | None:
        """Make ``new`` the pass that the program goes on with by itself, if this is its loader."""
        continued = self.continued
        if continued is None or continued.length != policy_of(loader)["length"]:
            return None
        self.continued = None
        new.number, new.first, new.position = continued.number, continued.first, continued.position
        new.resumed_at = continued.position
        return continued

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is noted any more."""
        return False

    def survives(self, error: Exception) -> bool:
        """Return whether the program goes on after a failure of the observer's own."""
        return False

    @abstractmethod
    def before_pass(self, new: Pass) -> None:
        """Do what is to be done where a new pass begins; ``new`` is not counted yet."""

    def arrangement(self, of: Pass) -> Arrange | None:
        """Return what a pass's batches are to be handed out by, if not by its loader's own order."""
        return None

    def after_iter(self, new: Pass) -> None:  # noqa: B027 -- a hook that most sessions have no use for
        """Do what is to be done when a new pass's iterator stands."""

    def entered(self, old: Pass) -> None:  # noqa: B027 -- a hook that most sessions have no use for
        """Do what is to be done when a pass in progress goes on in this process."""

    def begin_loop(self, count: int) -> int:
        """Return the first iteration of ``run.steps(count)``: 0, or an anchor's."""
        self._begin()
        self.clock.loop += 1
        first = 0 if self.entry is None else self.entry.enter_loop(self.clock.loop, count)
        self.clock.iteration = first
        return first

    def end_loop(self) -> None:
        """Note that a loop over ``run.steps`` is over."""
        self.clock.iteration = None

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.check_begin()

    def check_begin(self) -> None:
        """Check, once, when the loop begins, what the script has shown."""
        self.check_probes()

    def boundary(self, of: Pass | None = None) -> None:
        """Act between a step and the next batch: once a step, where a loop that the step closed in goes on.

        A pass that began after the step closed (an evaluation in the loop's body) is not where its loop goes on; nor
        is a loop of another thread's.
        """
        if self._closed_in is None or self.draws_elsewhere:
            return
        if of is None or of.number in self._closed_in:
            self._closed_in = None
            self.between()

    @abstractmethod
    def between(self) -> None:
        """Do what is to be done between a step and the next batch."""

    def draw(self, of: Pass) -> Any:
        """Return the next batch of a pass, noting its ids and content.

        Raises
        ------
        StopIteration
            When the pass is over.
        """
        if of.bare is not None:
            return next(of.bare)
        if of.walk is None:
            raise MemauditError("a batch is drawn from a pass that is over")
        batch, ids = of.walk.draw()
        of.position += 1
        self._drawn_by = threading.get_ident()
        if self._closed_in is not None and of.number in self._closed_in:
            self._closed_in = None
        try:
            self.consume(None if self.draws_elsewhere else ids, batch, of)
        except Exception as error:
            if not self.survives(error):
                raise
        return batch

    def consume(self, ids: list[int] | None, content: Any, of: Pass | None = None) -> None:
        """Note one batch: its sample ids (None: unknown) and what it holds."""
        if self.is_quiet:
            return
        try:
            digest = None if content is None else content_digest(content)
        except (MemauditError, RecursionError):
            # A batch of the user's own classes: its content has no digest, and the step event says null.
            digest = None
        self.consumed.add(of, ids, digest)

    @property
    def waits_for_entry(self) -> bool:
        """Whether the program is still on its way to the anchor it is to come back to."""
        return self.entry is not None and not self.entry.restored

    def step(self, loss: Any) -> None:
        """Close one optimizer step.

        Raises
        ------
        MemauditError
            If the program is not where it was to come back to: it would train from the start, unseen.
        """
        self._begin()
        if self.waits_for_entry:
            raise MemauditError(
                "the program took a step before the place it was to come back to",
                where="" if self.entry is None else self.entry.path,
                why="steps outside run.batches() and run.steps() cannot be skipped",
                next_step="take every optimizer step inside the loop over run.batches(loader) or run.steps(n)",
            )
        if self._drawn_by not in (None, threading.get_ident()):
            # A thread of the program's own draws ahead: nobody can say which batches this step consumed.
            self.draws_elsewhere = True
            self.consumed.ids_known = False
        self.close_step(loss)

    @abstractmethod
    def close_step(self, loss: Any) -> None:
        """Close one optimizer step."""

    def end_pass(self, old: Pass, *, complete: bool) -> None:
        """End a walk; ``complete`` if it reached the loader's end."""
        if old not in self.open:
            return
        try:
            self.open.remove(old)
            if self.clock.iteration is None and not self.open:
                self.clock.closed += 1
            self.after_pass(old, complete=complete)
        except BaseException:
            self.interrupted = True
            raise
        if old.walk is not None:
            loader = old.walk.loader
            old.walk.close()
            if isinstance(loader, DataLoader) and not loader.persistent_workers:
                self.table_of(old.loader).states.clear()  # its workers are gone

    @abstractmethod
    def after_pass(self, old: Pass, *, complete: bool) -> None:
        """Do what is to be done where a pass ends; its walk still stands."""

    @abstractmethod
    def finish(self, error: BaseException | None) -> None:
        """End the observation; ``error`` is what left the block, if anything did."""

    # What both kinds of session are made of.

    def table_of(self, number: int | None) -> WorkerTable:
        """Return what is known of a loader's workers."""
        return self.loaders.tables.setdefault(number, WorkerTable()) if number is not None else WorkerTable()

    def sources(self) -> list[Source]:
        """Return the memory sources; found anew where they came, went or were bound anew."""
        return self.watched.sources()

    def main_streams(self) -> list[Stream]:
        """Return the random streams of this process, those of loaders that are gone among them.

        They stay in the contract; and a program that builds its loader in a function has let go of it at the end.
        """
        for stream in self.watched.streams(self.loaders.alive()):
            self._met[stream.name] = stream
        return list(self._met.values())

    def streams(self) -> list[Stream]:
        """Return the random streams, with those of loaders' workers, and those an anchor holds for later."""
        waiting = [] if self.entry is None else self.entry.absent.values()
        return [*self.main_streams(), *waiting, *self.loaders.worker_streams()]

    def read_streams(self) -> Readings:
        """Return copies of what orders are drawn from: this process's streams, and watched samplers (with a slash)."""
        readings = {stream.name: copied(stream.read()) for stream in self.main_streams()}
        return readings | {f"/{source.name}": copied(source.read()) for source in self._samplers()}

    def set_streams(self, readings: Readings) -> None:
        """Set those of this process's streams and watched samplers that ``readings`` knows."""
        for stream in self.main_streams():
            if stream.name in readings:
                stream.restore(readings[stream.name])
        for source in self._samplers():
            if f"/{source.name}" in readings:
                source.restore(readings[f"/{source.name}"])

    def _samplers(self) -> list[Source]:
        return [source for source in self.sources() if source.kind == "order" and source.captured]

    def modules(self) -> dict[str, nn.Module]:
        """Return the watched modules by keyword."""
        return self.watched.modules()

    def contract_of(self, streams: list[Stream]) -> list[dict[str, Any]]:
        """Return the RNG contract; who drew from a stream once stays named, also after a loader is gone."""
        modules = list(self.modules().values())
        entries = contract.describe(streams, self.settings, modules, self.loaders.alive(), self.reseeding)
        for entry in entries:
            known = self._consumers.setdefault(entry["name"], {})
            known.update(dict.fromkeys(entry["consumers"]))
            entry["consumers"] = list(known)
        return entries

    def write_step(self, journal: Journal, loss: Any, *, leaves: bool = False) -> None:
        """Count and write one step event."""
        self.clock.step += 1
        main = self._main_pass()
        if self._batch_size is None and self.consumed.samples:
            self._batch_size = self.consumed.samples  # a queue forgets by the batch
            self.watched.with_batch_size(self._batch_size)
        members: dict[str, Any] = {
            "step": self.clock.step,
            "pass": main,
            "position": 0 if main is None else self.consumed.positions.get(main, self._position_of(main)),
            **self.consumed.members(main),
        }
        if loss is not None:
            members["loss"] = encode_float(float(loss.detach() if isinstance(loss, torch.Tensor) else loss))
        self.consumed = Consumed()
        self._closed_in = {each.number for each in self.open}
        journal.step(members, self.sources(), self.streams(), leaves=leaves)

    def _main_pass(self) -> int | None:
        """Return the pass a step belongs to: the first one in progress that gave it a batch, else the likeliest."""
        open_ = [each.number for each in self.open]
        gave = [number for number in open_ if number in self.consumed.positions]
        return next(iter(gave or open_ or sorted(self.consumed.positions, reverse=True)), None)

    def _position_of(self, number: int) -> int:
        return next((each.position for each in self.open if each.number == number), 0)

    def measure(self, keep: Callable[[str, np.ndarray[Any, Any]], None]) -> dict[str, dict[str, float]]:
        """Return the outcomes of every probe, and of the user's own under ``""``; predictions go to ``keep``."""
        streams = self.streams()
        measured: dict[str, dict[str, float]] = {}
        for name, probe in self.probes.items():
            measurement = probe.measure(streams)
            measured[name] = measurement.values
            keep(name, measurement.predictions)
        if self.user_outcomes:
            measured[""] = {name: outcome.measure(streams) for name, outcome in self.user_outcomes.items()}
        return measured
