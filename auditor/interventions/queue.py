"""Interventions on queues, banks and replay buffers: buffers with a pointer, tensors, deques and lists."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.state.kinds import is_pointer
from auditor.state.places import PlacedSource
from auditor.state.source import Source
from auditor.state.stateful import ContainerSource, TensorSource
from auditor.state.survey import Place
from auditor.state.values import decode, encode

_POINTER_WORD = re.compile(r"_?(ptr|pointer)_?", re.IGNORECASE)


class Entries(ABC):
    """The entries of one queue, in places numbered from 0."""

    path: str

    @abstractmethod
    def filled(self) -> list[int]:
        """Return the places that hold an entry."""

    @abstractmethod
    def by_age(self) -> list[int]:
        """Return the same places from the oldest entry to the newest.

        Raises
        ------
        NotApplicable
            If nobody can tell.
        """

    @abstractmethod
    def move(self, into: list[int], out_of: list[int]) -> None:
        """Put into each place the entry that stood in the other."""

    @abstractmethod
    def clear(self, places: list[int]) -> None:
        """Empty these places."""

    @abstractmethod
    def flush(self) -> None:
        """Make it as it was before its first entry."""


@dataclass
class Ring(Entries):
    """Tensors of equal length that are written to at a pointer, or one tensor alone. An empty place is all zeros."""

    path: str
    tensors: list[tuple[torch.Tensor, int]]
    """With the dimension that counts entries."""
    pointer: Place | None

    @property
    def length(self) -> int:
        """Return how many places there are."""
        tensor, axis = self.tensors[0]
        return tensor.shape[axis]

    def filled(self) -> list[int]:
        """Return the places where not all tensors are zero."""
        used = torch.zeros(self.length, dtype=torch.bool)
        for tensor, axis in self.tensors:
            used |= (tensor.detach().movedim(axis, 0).reshape(self.length, -1) != 0).any(dim=1).cpu()
        return [int(place) for place in used.nonzero()]

    def by_age(self) -> list[int]:
        """Return the places from the pointer on, round to it."""
        if self.pointer is None:
            raise NotApplicable(
                f"{self.path} has no pointer: which of its entries are the newest is not known; of=… picks another"
            )
        filled, begin = set(self.filled()), int(self.pointer.value())
        return [place for step in range(self.length) if (place := (begin + step) % self.length) in filled]

    def move(self, into: list[int], out_of: list[int]) -> None:
        """Copy entries in place."""
        with torch.no_grad():
            for tensor, axis in self.tensors:
                into_, out_ = (torch.tensor(each, dtype=torch.int64, device=tensor.device) for each in (into, out_of))
                tensor.index_copy_(axis, into_, tensor.index_select(axis, out_))

    def clear(self, places: list[int]) -> None:
        """Fill places with zeros; the pointer stays."""
        with torch.no_grad():
            for tensor, axis in self.tensors:
                tensor.index_fill_(axis, torch.tensor(places, dtype=torch.int64, device=tensor.device), 0)

    def flush(self) -> None:
        """Fill everything with zeros, and point to the first place."""
        self.clear(list(range(self.length)))
        if self.pointer is not None:
            value = self.pointer.value()
            if isinstance(value, torch.Tensor):
                with torch.no_grad():
                    value.zero_()
            else:
                self.pointer.holder[self.pointer.key] = 0


@dataclass
class Line(Entries):
    """A deque or list; what is appended last is the newest."""

    path: str
    items: Any

    def filled(self) -> list[int]:
        """Return all places."""
        return list(range(len(self.items)))

    def by_age(self) -> list[int]:
        """Return them in their order."""
        return self.filled()

    def move(self, into: list[int], out_of: list[int]) -> None:
        """Put entries elsewhere; one that is put into several places is copied."""
        old = list(self.items)
        new, used = list(old), {*range(len(old))} - {*into}
        for place, source in zip(into, out_of, strict=True):
            new[place] = _copy(old[source]) if source in used else old[source]
            used.add(source)
        self._set(new)

    def clear(self, places: list[int]) -> None:
        """Remove the entries."""
        gone = set(places)
        self._set([item for place, item in enumerate(self.items) if place not in gone])

    def flush(self) -> None:
        """Remove all entries."""
        self.items.clear()

    def _set(self, items: list[Any]) -> None:
        self.items.clear()
        self.items.extend(items)


class QueueIntervention(Intervention):
    """What changes to a queue share: finding its entries, and their order.

    A queue is a tensor or array whose ``axis`` counts entries (its longest side, if not said; as in the census), with
    the pointer of the same name (``queue`` and ``queue_labels`` with ``queue_ptr``; ``ptr`` belongs to all beside it),
    which says where the next entry goes; or a tensor alone; or a deque or list that is appended to. ``of`` picks one of
    a module's queues by its path.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Change every queue; none if one of them cannot be."""
        queues = [each for source in sources for each in self._entries(source)]
        if not queues:
            raise NotApplicable(f"{self.source} holds no {self.arguments['of'] or 'queue'} at this step")
        generator = branch.generator(self)
        if not any(each.filled() for each in queues) and self.action != "flush":
            raise NotApplicable(f"{self.source} is empty at this step")
        for act in [self.prepared(each, generator) for each in queues]:
            act()

    @abstractmethod
    def prepared(self, queue: Entries, generator: torch.Generator) -> Callable[[], None]:
        """Return what changes a queue when it is called; refuse here, before anything is changed."""

    def _entries(self, source: Source) -> list[Entries]:
        places = {place.path: place for place in _places(source)}
        pointers = {path: place for path, place in places.items() if is_pointer(_last(path))}
        rings: dict[str, Ring] = {}
        lines: list[Line] = []
        met: set[int] = set()
        for path, place in places.items():
            value = place.value()
            if path in pointers or value is None or (self.arguments["of"] or path) != path or id(value) in met:
                continue
            met.add(id(value))
            owner = _pointer_of(path, pointers)
            if isinstance(value, deque | list):
                if owner is not None:
                    raise NotApplicable(f"{path} is a list with a pointer: what the pointer means is not known")
                lines.append(Line(path or source.name, value))
                continue
            tensor = _tensor(path, value)
            key = owner.path if owner is not None else f"/{path}"
            ring = rings.setdefault(key, Ring(path or source.name, [], owner))
            ring.tensors.append((tensor, self._axis(path, tensor)))
        for ring in rings.values():
            _check(ring)
        return [*rings.values(), *lines]

    def _axis(self, path: str, tensor: torch.Tensor) -> int:
        axis = self.arguments["axis"]
        if tensor.dim() == 1:
            return 0
        if axis is not None:
            if axis >= tensor.dim():
                raise NotApplicable(f"{path} has {tensor.dim()} dimensions, none of which is {axis}")
            return int(axis)
        longest = [index for index, size in enumerate(tensor.shape) if size == max(tensor.shape)]
        if len(longest) > 1:
            raise NotApplicable(f"which dimension of {path}, {tuple(tensor.shape)}, counts entries? axis=…")
        return longest[0]


class FlushQueue(QueueIntervention):
    """Empty a queue: zeros and a pointer to the first place, or a deque or list without entries.

    Its kind, size and pointer's place are held fixed. Where a program fills a new queue with something else (random
    unit vectors in MoCo, arXiv 1911.05722, section 3), zeros are not how it began: they are entries that are like
    nothing. "Flush" among the queue tweaks of "Training Memory in Deep Neural Networks" (arXiv 2601.21624).
    """

    def prepared(self, queue: Entries, generator: torch.Generator) -> Callable[[], None]:
        """Return the flush."""
        return queue.flush


class ShuffleQueue(QueueIntervention):
    """Permute the entries of a queue among the places that are filled; tensors with one pointer move together.

    Which entries there are is carried, the pointer held fixed: what is lost is which entry is replaced next, and, in a
    bank with a place for each sample, whose entry it is. The permutation, any but the one that changes nothing, is
    drawn from a stream of the intervention's own. An all-zero place counts as empty. "Shuffle" among the queue tweaks
    of arXiv 2601.21624.
    """

    def prepared(self, queue: Entries, generator: torch.Generator) -> Callable[[], None]:
        """Return the permutation."""
        filled = queue.filled()
        order = filled
        while order == filled and len(filled) > 1:
            order = [filled[place] for place in torch.randperm(len(filled), generator=generator).tolist()]
        return lambda: queue.move(filled, order)


class AgeQueue(QueueIntervention):
    """Make a queue older by n ``entries``: the newest n are lost, and copies of the oldest kept stand in for them.

    What the last n replaced is gone, so the queue of n entries before cannot be had; this one holds nothing newer than
    it did. Length and pointer are held fixed: the copies stand, oldest first and round again, where the newest stood.
    An all-zero place counts as empty. "Age" among the queue tweaks of arXiv 2601.21624.
    """

    def prepared(self, queue: Entries, generator: torch.Generator) -> Callable[[], None]:
        """Return the replacement."""
        by_age, count = queue.by_age(), self.arguments["entries"]
        kept = by_age[:-count]
        if not kept:
            raise NotApplicable(f"{queue.path} holds {len(by_age)} entries: none would be older")
        newest = by_age[-count:]
        return lambda: queue.move(newest, [kept[place % len(kept)] for place in range(len(newest))])


class TruncateQueue(QueueIntervention):
    """Keep the newest ``length`` entries of a queue alone: a shorter memory, until it has filled again.

    The others become zeros in a tensor, whose size and pointer are held fixed, and are removed from a deque or list.
    An all-zero place counts as empty. A dial of the queue's half-life, length / (2 · batch size) steps.
    """

    def prepared(self, queue: Entries, generator: torch.Generator) -> Callable[[], None]:
        """Return the cut."""
        gone = queue.by_age()[: -self.arguments["length"]]
        return lambda: queue.clear(gone)


def _places(source: Source) -> list[Place]:
    """Return where a source's queues and pointers stand.

    Raises
    ------
    NotApplicable
        If it is an object whose other attributes have a meaning that is not known.
    """
    if isinstance(source, TensorSource):
        return [Place("", {"": source.tensor}, "")]
    if isinstance(source, ContainerSource) and isinstance(source.container, deque | list | np.ndarray):
        return [Place("", {"": source.container}, "")]
    if isinstance(source, PlacedSource) and isinstance(source.root, nn.Module):
        return [*source.registered, *source.places]
    raise NotApplicable(
        f"{source.name} is none of a module's buffers and attributes, a tensor, a deque or a list: what its parts mean "
        "is not known"
    )


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _pointer_of(path: str, pointers: dict[str, Place]) -> Place | None:
    """Return the pointer beside a queue whose name the queue's begins with, or that has no name but ``ptr``."""
    fitting = []
    for pointer, place in pointers.items():
        stem = _POINTER_WORD.sub("", _last(pointer))
        begins = _last(path).startswith(stem) and not _last(path)[len(stem) :][:1].isalnum()
        if pointer.rpartition(".")[0] == path.rpartition(".")[0] and (begins or not stem):
            fitting.append((len(stem), place))
    return max(fitting, key=lambda each: each[0])[1] if fitting else None


def _tensor(path: str, value: Any) -> torch.Tensor:
    """Return the live tensor, or a tensor over the memory of a live array."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and value.flags.writeable:
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor) or isinstance(value, nn.Parameter) or not value.dim():
        raise NotApplicable(f"what {path or 'it'} means, of type {type(value).__name__}, is not known")
    return value


def _check(ring: Ring) -> None:
    lengths = {tensor.shape[axis] for tensor, axis in ring.tensors}
    if len(lengths) > 1:
        raise NotApplicable(
            f"{ring.path} and others share a pointer and have {sorted(lengths)} entries: of=… picks one"
        )
    if ring.pointer is None:
        return
    value = ring.pointer.value()
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point():
        whole = value.dtype is not torch.bool
    if not whole or not 0 <= int(value) <= ring.length:
        raise NotApplicable(f"{ring.pointer.path} does not point to one of the {ring.length} entries of {ring.path}")


def _copy(entry: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    encoded = encode(entry, tensors)
    return decode(encoded, {path: tensor.detach().clone() for path, tensor in tensors.items()})
