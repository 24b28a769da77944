"""The census: which memory sources and streams a training has, found from the objects it watches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state.discovery import Finder, Found, trained_modules
from auditor.state.generators import Loaders, StreamFinder
from auditor.state.held import GENERATORS
from auditor.state.kinds import ORDER
from auditor.state.optimizer import HyperSource, KeySource, SlotSource
from auditor.state.places import PlacedSource
from auditor.state.pulse import Pulse
from auditor.state.source import Reading, Source
from auditor.state.stateful import CONTAINERS, Stateful
from auditor.state.streams import Stream
from auditor.state.survey import Memory


class Watched:
    """The objects a training showed to the recorder, by the keyword they were shown under."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self._finder = StreamFinder()
        self._batch_size: int | None = None
        self._memories: dict[str, Memory] = {}
        self._pulse: Pulse | None = None
        self._felt: tuple[object, ...] = ()
        self._found: list[Found] = []
        self._sources: list[Source] = []
        self._generation = 0

    def add(self, name: str, thing: object) -> None:
        """Watch one more object.

        Raises
        ------
        MemauditError
            If nothing can be captured of it, or another object was watched under that name.
        """
        if thing is None:
            return
        if name in self.objects and self.objects[name] is not thing:
            raise MemauditError(
                f"two different objects are watched as {name!r}", next_step="give the second one a name of its own"
            )
        reason = _why_not(thing)
        if reason is not None:
            raise MemauditError(
                f"a {type(thing).__module__}.{type(thing).__qualname__} cannot be watched",
                where=f"run.watch({name}=…)",
                why=reason[0],
                next_step=reason[1],
            )
        self.objects[name] = thing
        self._pulse = None

    def with_batch_size(self, size: int | None) -> None:
        """Say how many samples a step consumes: the half-life of a queue follows from it."""
        if size != self._batch_size:
            self._batch_size = size
            self._pulse = None

    def modules(self) -> dict[str, nn.Module]:
        """Return the watched modules by keyword."""
        return {name: thing for name, thing in self.objects.items() if isinstance(thing, nn.Module)}

    def parameter_names(self) -> dict[int, str]:
        """Return the dotted name of every parameter of every watched module, by identity.

        With several modules the keyword comes first (``generator.layer1.weight``).
        """
        trained = trained_modules(self.objects)
        prefixed = len(trained) > 1
        return {
            id(parameter): f"{keyword}.{name}" if prefixed else name
            for keyword, module in trained.items()
            for name, parameter in module.named_parameters()
        }

    def signature(self) -> tuple[object, ...]:
        """Return what changes when sources come, go or are bound anew: to be asked at every step, and cheap."""
        if self._pulse is None or self._feel() != self._felt:
            self._find()
        return (self._generation,)

    def sources(self) -> list[Source]:
        """Return the memory sources there are now, in a fixed order: weights, statistics, optimizer, the rest."""
        self.signature()
        return list(self._sources)

    def _find(self) -> None:
        finder = Finder(self.objects, self.parameter_names(), self._memories, self._fail, self._batch_size)
        self._found = _named(finder.find())
        self._sources = sorted((entry.source for entry in self._found), key=_place_in_census)
        self._pulse = finder.pulse
        self._felt = self._feel()
        self._generation += 1

    def _feel(self) -> tuple[object, ...]:
        felt = () if self._pulse is None else self._pulse.feel()
        return (*self.objects, *map(id, self.objects.values()), felt)

    def _fail(self, keyword: str, path: str, reason: str) -> None:
        """Note an attribute that can be read no more: from now on the census says why."""
        self._memories.setdefault(keyword, Memory()).failed[path] = reason
        self._pulse = None

    def restore(self, readings: dict[str, Reading]) -> None:
        """Put every source back into the watched objects.

        Sources that are not there yet are made (an optimizer's slots, attributes made while training goes on), those
        that came later are taken away.

        Raises
        ------
        MemauditError
            If the program has a source that the anchor lacks, or the other way round, and neither can be mended.
        """
        self._pulse = None
        self.sources()
        live = {entry.source.name: entry for entry in self._found}
        meant = {name: self._meant(name, reading, live) for name, reading in readings.items()}
        taken = {id(source) for source in meant.values()}
        surplus = [entry.source for entry in self._found if id(entry.source) not in taken]
        surplus = [source for source in surplus if not _taken_away(source)]
        # Hyper-parameters and slots go before schedulers, whose own load_state_dict() may read them.
        for name in sorted(readings, key=lambda name: _place_in_census(meant[name])):
            meant[name].restore(readings[name])
        self._pulse = None
        if surplus:
            raise MemauditError(
                f"the program watches {surplus[0].name}, which the anchor lacks",
                next_step="replay the program and arguments that were recorded",
            )

    def _meant(self, name: str, reading: Reading, live: dict[str, Found]) -> Source:
        """Return the source of the program that an anchor's source goes into, made if it is not there yet."""
        base, keyword = _unbracketed(name)
        found: Source
        of = reading.values.get("of") if isinstance(reading.values, dict) else None
        for entry in self._found:
            if entry.base == base and entry.keyword in (keyword or of, None):
                found = entry.source
                return found
        if name in live:
            found = live[name].source
            return found
        if keyword is None and of is None:
            fitting: list[Source] = [entry.source for entry in self._found if entry.base == base]
            if len(fitting) == 1:
                return fitting[0]
        made = self._later(base, str(keyword or of or ""), reading) or self.slot_source(name)
        if made is None:
            raise MemauditError(
                f"the anchor holds {name}, which the program does not watch",
                next_step="replay the program and arguments that were recorded",
            )
        return made

    def slot_source(self, name: str) -> Source | None:
        """Return a source for an optimizer slot that may not exist yet, such as one an anchor holds; else None."""
        optimizers = [key for key, thing in self.objects.items() if isinstance(thing, torch.optim.Optimizer)]
        base, keyword = _unbracketed(name)
        kind, _, slot = base.partition(".")
        if keyword is None and len(optimizers) == 1:
            keyword = optimizers[0]
        if kind not in ("optimizer", "hyper") or not slot or keyword not in optimizers:
            return None
        finder = Finder(self.objects, self.parameter_names(), self._memories, self._fail, self._batch_size)
        return finder.future_slot(name, kind, slot, keyword)

    def _later(self, base: str, keyword: str, reading: Reading) -> Source | None:
        """Return a source for attributes that the program makes while it trains."""
        if keyword not in self.objects or not isinstance(reading.values, dict) or "held" not in reading.values:
            return None
        finder = Finder(self.objects, self.parameter_names(), self._memories, self._fail, self._batch_size)
        return finder.future_attributes(base, keyword)

    def streams(self, loaders: Loaders = ()) -> list[Stream]:
        """Return the random streams there are now, each once, named after where it was met."""
        return self._finder.find(self.objects, loaders)

    def look_again(self) -> None:
        """Have the next :meth:`streams` look for generators anew; without it, it looks where they were found."""
        self._finder.forget()


def _why_not(thing: object) -> tuple[str, str] | None:
    """Return why an object cannot be watched and what to do, or None if it can."""
    if isinstance(thing, torch.utils.data.DataLoader) and not isinstance(thing, Stateful):
        return "a loader is recorded where it is walked", "for batch in run.batches(loader): …"
    watchable = (nn.Module, torch.optim.Optimizer, torch.Tensor, *GENERATORS, *CONTAINERS)
    if isinstance(thing, watchable) or (isinstance(thing, Stateful) and not isinstance(thing, type)):
        return None
    if isinstance(thing, int | float | str | bytes | complex | tuple | frozenset | range):
        return (
            "it cannot be changed in place, so nothing could be put back into it",
            "watch the object that holds it, or keep it in a list, dict or tensor",
        )
    if isinstance(thing, type) or not hasattr(thing, "__dict__"):
        return (
            "it is no module, optimizer, tensor, generator or container, and has no attributes to read",
            "give it state_dict() and load_state_dict(), or watch the tensors in it",
        )
    return None


def _place_in_census(source: Source) -> tuple[int, str]:
    return ORDER.index(source.kind), source.name


def _named(found: list[Found]) -> list[Found]:
    """Name the sources: where several objects have one of a group, the keyword follows in brackets."""
    keywords: dict[str, set[str]] = {}
    for entry in found:
        keywords.setdefault(entry.group, set()).add(entry.keyword)
    named: list[Found] = []
    taken: set[str] = set()
    for entry in found:
        if entry.source is None:
            continue
        told_apart = entry.bracketed or len(keywords[entry.group]) > 1
        name = _bracketed(entry.base, entry.keyword) if told_apart else entry.base
        while name in taken:
            name += "'"
        taken.add(name)
        entry.source.name = name
        named.append(entry)
    return named


def _bracketed(name: str, keyword: str) -> str:
    head, dot, tail = name.partition(".")
    return f"{head}[{keyword}]{dot}{tail}"


def _unbracketed(name: str) -> tuple[str, str | None]:
    """Return a source's name without brackets, and the keyword in them."""
    head, bracket, rest = name.partition("[")
    if not bracket or "." in head:
        return name, None
    keyword, _, tail = rest.partition("]")
    return head + tail, keyword


def _taken_away(source: Source) -> bool:
    """Bring a source that an anchor lacks back to where it was then, which is not there; say whether that is done."""
    if isinstance(source, HyperSource):
        source.forget()
    elif isinstance(source, SlotSource | KeySource):
        source.restore(Reading({}))
    elif isinstance(source, PlacedSource) and source.vanishes:
        source.forget()
    else:
        return not source.captured
    return True
