"""What a recording and a replayed cell share: the objects watched, the clock, the walk, the probes, the steps."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from auditor.artifact.canonical import encode_float
from auditor.artifact.digest import array_digest, digest_text
from auditor.errors import MemauditError
from auditor.outcomes.probe import Probe, UserOutcome, content_digest
from auditor.recorder import contract
from auditor.recorder.journal import Journal
from auditor.recorder.order import Walk
from auditor.recorder.settings import Settings
from auditor.state.anchor import check_storable
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
    passes_in_epoch: int = 0
    """Passes begun in this epoch."""
    position: int = 0
    """Batches consumed in the pass in progress."""


@dataclass
class Consumed:
    """What was consumed since the last step closed: sample ids and content digests, one a batch."""

    ids: list[int] = field(default_factory=list)
    ids_known: bool = True
    contents: list[bytes | None] = field(default_factory=list)

    def members(self) -> dict[str, Any]:
        """Return the step event's ``ids`` and ``batch``."""
        known = self.ids_known and bool(self.contents)
        ids = digest_text(array_digest("ids", np.asarray(self.ids, dtype=np.int64))) if known else None
        contents = [content for content in self.contents if content is not None]
        if not contents or len(contents) != len(self.contents):
            return {"ids": ids, "batch": None}
        if len(contents) == 1:
            return {"ids": ids, "batch": digest_text(contents[0])}
        joined = np.frombuffer(b"".join(contents), dtype=np.uint8)
        return {"ids": ids, "batch": digest_text(array_digest("batches", joined))}


class Session(ABC):
    """One training under observation. The driver (an adapter) says what happens; the session decides what it means."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watched = Watched()
        self.probes: dict[str, Probe] = {}
        self.user_outcomes: dict[str, UserOutcome] = {}
        self.clock = Clock()
        self.walk: Walk | None = None
        self._loaders: list[weakref.ref[DataLoader[Any]]] = []
        self.consumed = Consumed()
        self.uses_epochs = False
        self._begun = False
        self._cached: tuple[object, list[Source]] | None = None

    # What the driver calls while the script sets up.

    def watch(self, objects: dict[str, Any]) -> None:
        """Watch objects by keyword; what cannot be captured is refused here, before any step."""
        for name, thing in objects.items():
            self.watched.add(name, thing)
            self._cached = None
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

    def first_epoch(self) -> int:
        """Return the epoch that ``run.epochs`` begins with: 0, or an anchor's."""
        self.uses_epochs = True
        return 0

    def enter_epoch(self, epoch: int) -> None:
        """Note that an epoch begins."""
        self.clock.epoch = epoch
        self.clock.passes_in_epoch = 0

    def begin_pass(self, loader: Any) -> None:
        """Begin a walk through a loader."""
        self._begin()
        self.clock.passes += 1
        self.clock.passes_in_epoch += 1
        self.clock.position = 0
        if isinstance(loader, DataLoader) and all(loader is not other for other in self.loaders):
            self._loaders.append(weakref.ref(loader))
        self.walk = self.start_walk(loader)

    @abstractmethod
    def start_walk(self, loader: Any) -> Walk:
        """Return the walk of a new pass; the moment before is a pass's start."""

    def first_step(self) -> int:
        """Return how many steps of ``run.steps`` are taken already: 0, or an anchor's."""
        self._begin()
        return 0

    def _begin(self) -> None:
        """Check, once, when the loop begins, what the script has shown."""
        if not self._begun:
            self._begun = True
            self.check_probes()

    @abstractmethod
    def boundary(self) -> None:
        """Do what is to be done between a step and the next batch."""

    def draw(self) -> Any:
        """Return the next batch of the walk, noting its ids and content.

        Raises
        ------
        StopIteration
            When the pass is over.
        """
        if self.walk is None:
            raise MemauditError("a batch is drawn outside run.batches()")
        batch, ids = self.walk.draw()
        self.clock.position += 1
        self.consume(ids, batch)
        return batch

    def consume(self, ids: list[int] | None, content: Any) -> None:
        """Note one batch: its sample ids (None: unknown) and what it holds."""
        if ids is None:
            self.consumed.ids_known = False
        else:
            self.consumed.ids += ids
        try:
            digest = None if content is None else content_digest(content)
        except (MemauditError, RecursionError):
            # A batch of the user's own classes: its content has no digest, and the step event says null.
            digest = None
        self.consumed.contents.append(digest)

    @abstractmethod
    def close_step(self, loss: Any) -> None:
        """Close one optimizer step."""

    @abstractmethod
    def end_pass(self, *, complete: bool) -> None:
        """End the walk; ``complete`` if it reached the loader's end."""

    @abstractmethod
    def finish(self, error: BaseException | None) -> None:
        """End the observation; ``error`` is what left the block, if anything did."""

    # What both kinds of session are made of.

    @property
    def loaders(self) -> list[DataLoader[Any]]:
        """The loaders walked so far that the program still holds, in the order of their first walk."""
        found = [reference() for reference in self._loaders]
        return [loader for loader in found if loader is not None]

    def sources(self) -> list[Source]:
        """Return the memory sources; found anew where slots, groups, modules or buffers came or went."""
        signature = tuple(_shape_of(thing) for thing in self.watched.objects.values())
        if self._cached is None or self._cached[0] != signature:
            self._cached = (signature, self.watched.sources())
        return self._cached[1]

    def streams(self) -> list[Stream]:
        """Return the random streams."""
        return self.watched.streams(self.loaders)

    def modules(self) -> dict[str, nn.Module]:
        """Return the watched modules by keyword."""
        return self.watched.modules()

    def contract_of(self, streams: list[Stream]) -> list[dict[str, Any]]:
        """Return the RNG contract."""
        return contract.describe(streams, self.settings, list(self.modules().values()), self.loaders)

    def write_step(self, journal: Journal, loss: Any, *, leaves: bool = False) -> None:
        """Count and write one step event."""
        self.clock.step += 1
        members: dict[str, Any] = {
            "step": self.clock.step,
            "pass": self.clock.passes or None,
            "position": self.clock.position,
            **self.consumed.members(),
        }
        if loss is not None:
            members["loss"] = encode_float(float(loss.detach() if isinstance(loss, torch.Tensor) else loss))
        self.consumed = Consumed()
        journal.step(members, self.sources(), self.streams(), leaves=leaves)

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


def _shape_of(thing: object) -> tuple[int, ...]:
    """Return what changes when an optimizer gets slots or groups, or a module gets submodules or buffers."""
    if isinstance(thing, torch.optim.Optimizer):
        slots = sum(len(state) for state in thing.state.values() if isinstance(state, Mapping))
        return (len(thing.state), slots, *(len(group) for group in thing.param_groups))
    if isinstance(thing, nn.Module):
        layers = list(thing.modules())
        return (len(layers), sum(len(layer._buffers) for layer in layers))
    return ()
