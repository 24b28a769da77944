"""Finding the memory sources of watched objects, and saying of which kind each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state import module as modules
from auditor.state.half_life import own_half_life, queue_half_life, queue_length
from auditor.state.held import GENERATORS
from auditor.state.kinds import attribute_kind, module_kind, object_kind, queue_buffers
from auditor.state.known import Known
from auditor.state.optimizer import HyperSource, KeySource, SlotSource, WatchedOptimizer
from auditor.state.places import PlacedSource
from auditor.state.pulse import Pulse
from auditor.state.source import Source, UncapturedSource
from auditor.state.stateful import CONTAINERS, ContainerSource, Stateful, StatefulSource, TensorSource
from auditor.state.survey import OPTIMIZER_HOOKS, Memory, Place, Survey, Surveyor, registered_places


@cache
def _optimizer_internals() -> frozenset[str]:
    """Return what torch.optim.Optimizer itself puts on an optimizer.

    Not at import: making the first optimizer brings torch._dynamo, over a second of it.
    """
    own = vars(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    return frozenset(own) | {"step", "_opt_called", "_step_count", "base_optimizer"}


@dataclass
class Found:
    """A source (None: one that may come) and its name before brackets."""

    group: str
    """Sources of several keywords in one group are told apart by the keyword in brackets."""
    keyword: str
    base: str
    source: Any
    bracketed: bool = False
    """Whether the keyword is always said."""


class Finder:
    """Looks once through everything that is watched.

    Parameters
    ----------
    objects
        The watched objects by keyword.
    names
        Dotted names of the trained parameters by identity.
    memories
        What was learnt of each object before, by keyword; it is added to.
    on_failure
        Told of an attribute that turned out to be unreadable: keyword, path, reason.
    batch_size
        Samples a step, where known.
    """

    def __init__(
        self,
        objects: Mapping[str, Any],
        names: Mapping[int, str],
        memories: dict[str, Memory],
        on_failure: Callable[[str, str, str], None],
        batch_size: int | None,
    ) -> None:
        self._objects = objects
        self._names = names
        self._memories = memories
        self._on_failure = on_failure
        self._batch_size = batch_size
        self._known = Known(placed=_registered(objects))
        self._entered = {id(thing) for thing in objects.values()} | {
            id(layer) for thing in objects.values() if isinstance(thing, nn.Module) for layer in thing.modules()
        }
        self.pulse = Pulse()

    def find(self) -> list[Found]:
        """Return what there is, object by object."""
        return [found for keyword, thing in self._objects.items() for found in self._of(keyword, thing)]

    def future_slot(self, name: str, kind: str, slot: str, keyword: str) -> Source:
        """Return a source for an optimizer's slot or hyper-parameter that is not there yet."""
        optimizer = self._objects[keyword]
        inner, dot, rest = slot.partition(".")
        while dot and isinstance(vars(optimizer).get(inner), torch.optim.Optimizer):
            optimizer, slot = vars(optimizer)[inner], rest
            inner, dot, rest = slot.partition(".")
        watched = WatchedOptimizer(optimizer, self._names, self._known)
        return HyperSource(name, watched, slot) if kind == "hyper" else SlotSource(name, watched, slot)

    def future_attributes(self, base: str, keyword: str) -> Source:
        """Return a source for attributes that are not there yet."""
        return self._placed(base, base.partition(".")[0], keyword, [], [])

    def _of(self, keyword: str, thing: Any) -> Iterator[Found]:
        if isinstance(thing, nn.Module):
            yield from self._of_module(keyword, thing)
        elif isinstance(thing, torch.optim.Optimizer):
            yield from self._of_optimizer(keyword, thing)
        elif not isinstance(thing, GENERATORS):
            kind = object_kind(keyword, thing)
            yield Found(kind, keyword, kind, self._of_object(keyword, kind, thing))

    # Modules.

    def _of_module(self, keyword: str, module: nn.Module) -> Iterator[Found]:
        self.pulse.module(module)
        surveyor = Surveyor(self._known, self._entered, self._memory(keyword), strict=False)
        surveyor.module(module)
        self._feel(surveyor.found)
        survey, left = surveyor.found, surveyor.found.left
        kind = module_kind(keyword, module)
        if kind != "params":
            registered = [*registered_places(module), *survey.registered]
            source = self._placed(kind, kind, keyword, registered, survey.places, left=list(left))
            _averages(source, module)
            yield Found(kind, keyword, kind, source)
        else:
            yield Found("params", keyword, "params", modules.ParamsSource("params", module))
            if modules.batch_norms(module):
                yield Found("bn", keyword, "bn", modules.BatchNormSource("bn", module))
            for hyper in modules.layer_hypers(module):
                yield Found(hyper.name, keyword, hyper.name, hyper)
            others = modules.other_buffer_names(module)
            queues = queue_buffers(others)
            if set(others) - queues:
                buffers = modules.BuffersSource("buffers", module, set(others) - queues)
                yield Found("buffers", keyword, "buffers", buffers)
            yield from self._of_attributes(keyword, module, survey, queues)
        for path, reason in left.items():
            base = f"{kind if kind != 'params' else attribute_kind(path)}.{path}"
            yield Found(base, keyword, base, UncapturedSource(base, base.partition(".")[0], reason))

    def _of_attributes(self, keyword: str, module: nn.Module, survey: Survey, queues: set[str]) -> Iterator[Found]:
        """Yield one source a kind of plain attribute; registered queues join the kind ``queue``."""
        left = survey.left
        by_kind: dict[str, tuple[list[Place], list[Place]]] = {}
        for place in registered_places(module):
            if place.path in queues:
                by_kind.setdefault("queue", ([], []))[0].append(place)
        for index, places in enumerate((survey.registered, survey.places)):
            for place in places:
                by_kind.setdefault(attribute_kind(place.path), ([], []))[index].append(place)
        for path in left:
            # A source of which something is left out says so in every anchor, so that restoring leaves it alone.
            by_kind.setdefault(attribute_kind(path), ([], []))
        for kind, (registered, attributes) in by_kind.items():
            own_left = [path for path in left if attribute_kind(path) == kind]
            source = self._placed(kind, kind, keyword, registered, attributes, left=own_left)
            if kind == "queue":
                source.decay = self._queue_decay([place.value() for place in (*registered, *attributes)])
            yield Found(kind, keyword, kind, source)

    # Optimizers.

    def _of_optimizer(
        self, keyword: str, optimizer: torch.optim.Optimizer, prefix: str = "", seen: tuple[Any, ...] = ()
    ) -> Iterator[Found]:
        self.pulse.optimizer(optimizer)
        watched = WatchedOptimizer(optimizer, self._names, self._known)

        def slot(name: str, source: Source) -> Found:
            return Found("optimizer", keyword, f"optimizer.{prefix}{name}", source)

        if not prefix:
            yield Found("optimizer", keyword, "optimizer", None)
            unnamed = [
                Place(f"group{index}.param{position}", group["params"], position)
                for index, group in enumerate(optimizer.param_groups)
                for position, parameter in enumerate(group["params"])
                if not self._is_watched(parameter)
            ]
            if unnamed:
                source = self._placed("params", "params", keyword, unnamed, [])
                yield Found("params of optimizers", keyword, "params", source, bracketed=True)
        # A wrapper may hand out what it wraps as its own: `state` as a property. Said once, under the wrapper's name.
        same_state = any(optimizer.state is other.state for other in seen)
        for name in [] if same_state else watched.slots():
            yield slot(name, SlotSource("", watched, name))
        for name in [] if same_state else watched.own_keys():
            yield slot(name, KeySource("", watched, name))
        unlisted = None if same_state else watched.unlisted()
        if unlisted is not None:
            yield slot("unlisted", UncapturedSource("", "optimizer", unlisted))
        shared = any(optimizer.param_groups is other.param_groups for other in seen)
        for name in [] if shared else watched.hyper_names():
            yield Found("hyper", keyword, f"hyper.{prefix}{name}", HyperSource("", watched, name))
        yield from self._on_optimizer(keyword, optimizer, prefix, (*seen, optimizer))

    def _on_optimizer(
        self, keyword: str, optimizer: torch.optim.Optimizer, prefix: str, seen: tuple[Any, ...]
    ) -> Iterator[Found]:
        """Yield what hooks remember, a third-party optimizer's plain attributes, and what is in one that it wraps."""
        torchs_own = type(optimizer).__module__.startswith("torch.optim.")
        inner = {
            name: value
            for name, value in ({} if torchs_own else vars(optimizer)).items()
            if isinstance(value, torch.optim.Optimizer) and all(value is not other for other in seen)
        }
        for name, value in inner.items():
            if id(value) not in self._entered:
                yield from self._of_optimizer(keyword, value, f"{prefix}{name}.", seen)
        skipped = self._entered | {
            id(part) for each in (*seen, *inner.values()) for part in (each, each.state, each.param_groups)
        }
        surveyor = Surveyor(self._known, skipped, self._memory(keyword), strict=False)
        if not torchs_own:
            surveyor.attributes(optimizer, prefix.removesuffix("."), hidden=_optimizer_internals() | inner.keys())
        surveyor.hooks(optimizer, prefix.removesuffix("."), OPTIMIZER_HOOKS)
        self._feel(surveyor.found)
        modules_kept: dict[str, list[Place]] = {}
        for place in surveyor.found.registered:
            kept = prefix + place.path.removeprefix(prefix).partition(".")[0]
            modules_kept.setdefault(kept, []).append(place)
        for path, places in modules_kept.items():
            source = self._placed("", "optimizer", keyword, places, [])
            yield Found("optimizer", keyword, f"optimizer.{path}", source)
        for place in surveyor.found.places:
            source = self._placed("", "optimizer", keyword, [], [place])
            yield Found("optimizer", keyword, f"optimizer.{place.path}", source)
        for path, reason in surveyor.found.left.items():
            base = f"optimizer.{path}"
            yield Found("optimizer", keyword, base, UncapturedSource(base, "optimizer", reason))

    # Other objects.

    def _of_object(self, keyword: str, kind: str, thing: Any) -> Source:
        if isinstance(thing, torch.Tensor):
            return TensorSource(kind, kind, thing, self._batch_size)
        if isinstance(thing, CONTAINERS):
            return ContainerSource(kind, kind, thing, self._known, self._batch_size)
        if isinstance(thing, Stateful):
            return StatefulSource(kind, kind, thing, self._known)
        surveyor = Surveyor(self._known, self._entered - {id(thing)}, self._memory(keyword), strict=True)
        try:
            surveyor.attributes(thing)
        except MemauditError as error:
            raise MemauditError(
                error.what, where=f"{keyword}, {error.where}", why=error.why, next_step=error.next_step
            ) from error
        self._feel(surveyor.found)
        source = self._placed(kind, kind, keyword, surveyor.found.registered, surveyor.found.places, strict=True)
        if kind == "queue":
            source.decay = self._queue_decay([place.value() for place in surveyor.found.places])
        _averages(source, thing)
        return source

    # What they share.

    def _placed(
        self,
        name: str,
        kind: str,
        keyword: str,
        registered: list[Place],
        places: list[Place],
        *,
        left: list[str] | None = None,
        strict: bool = False,
    ) -> PlacedSource:
        def failed(path: str, reason: str) -> None:
            self._on_failure(keyword, path, reason)

        return PlacedSource(
            name,
            kind,
            self._objects[keyword],
            keyword,
            registered=registered,
            places=places,
            left=left,
            known=self._known,
            on_failure=None if strict else failed,
        )

    def _memory(self, keyword: str) -> Memory:
        return self._memories.setdefault(keyword, Memory())

    def _feel(self, survey: Survey) -> None:
        self.pulse.containers(survey.sizes, survey.filled)
        self.pulse.entered(survey.entered)
        self.pulse.places([*survey.places, *survey.types])

    def _queue_decay(self, held: list[Any]) -> Callable[[], float | None]:
        lengths = [length for length in map(queue_length, held) if length]
        return lambda: queue_half_life(max(lengths, default=None), self._batch_size)

    def _is_watched(self, parameter: torch.Tensor) -> bool:
        alias = self._known.alias(parameter)
        return alias is not None and not alias[0].startswith("/")


def _averages(source: PlacedSource, thing: Any) -> None:
    """Say how long an averaging object remembers, where it says so itself."""
    if source.kind in ("ema", "teacher"):
        source.decay = lambda: own_half_life(thing)
        source.lifetime = "its decay's half-life; the decay is not known"
    elif source.kind == "swa":
        source.lifetime = "the run: a mean with equal weights"


def trained_modules(objects: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Return the watched modules whose parameters are the weights, by keyword."""
    found = {name: thing for name, thing in objects.items() if isinstance(thing, nn.Module)}
    return {name: module for name, module in found.items() if module_kind(name, module) == "params"}


def _registered(objects: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield where every registered tensor is found, under a name that another process finds it by."""
    for keyword, thing in objects.items():
        if isinstance(thing, nn.Module):
            for place in registered_places(thing):
                yield f"{keyword}/{place.path}", place.value
        elif isinstance(thing, torch.Tensor):
            yield f"{keyword}/value", partial(objects.get, keyword)
    for keyword, thing in objects.items():
        if isinstance(thing, torch.optim.Optimizer):
            for index, group in enumerate(thing.param_groups):
                for position in range(len(group["params"])):
                    name = f"/{keyword}/group{index}.param{position}"
                    yield name, Place(name, group["params"], position).value
