"""Where two runs consumed different samples, and which samples' content differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from auditor.compare.side import Event, Side
from auditor.compare.walk import Walk
from auditor.evidence.order_walk import batch_size_of

_Ids = Any


@dataclass(frozen=True)
class OrderDifference:
    """The first sample at which the ids of one pass differ."""

    pass_: int
    position: int
    """From 0, in samples."""
    ids: tuple[int | None, int | None]
    """A's and B's sample there; None where its pass is over."""
    same_multiset: bool
    """Whether both passes hold the same samples, in another order."""
    twice: tuple[tuple[int, ...], tuple[int, ...]]
    """Samples that come more often in A's pass than in B's, and the other way round; up to ten."""


@dataclass(frozen=True)
class SampleContent:
    """Which samples the batches have in common whose content differs though their ids are equal."""

    differing: int
    """Batches with equal ids and another content."""
    equal: int
    """Batches with equal ids and equal content."""
    samples: tuple[int, ...]
    """The samples that only differing batches hold, if every differing batch holds one of them; the one that all of
    them hold, if there is one."""
    by_chance: float
    """How many samples of a data set in which nothing of the kind was changed would look like that."""


class Orders:
    """The sample ids of both runs, as their order files keep them."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._kept: dict[tuple[int, int], _Ids | None] = {}

    @cached_property
    def _passes(self) -> tuple[dict[int, Event], dict[int, Event]]:
        return tuple({event["pass"]: event for event in side.passes()} for side in (self._walk.a, self._walk.b))  # type: ignore[return-value]

    def first_difference(self) -> OrderDifference | None:
        """Return the first sample that differs, in the first pass whose ids do; None where ids were not kept."""
        for number in sorted(self._passes[0].keys() & self._passes[1].keys()):
            events = self._passes[0][number], self._passes[1][number]
            if events[0]["sha256"] is not None and events[0]["sha256"] == events[1]["sha256"]:
                continue
            a, b = self._ids(0, number), self._ids(1, number)
            if a is None or b is None or events[0]["loader"] != events[1]["loader"]:
                return None
            length = min(a.size, b.size)
            unequal = np.flatnonzero(a[:length] != b[:length])
            if unequal.size == 0 and a.size == b.size:
                continue
            at = int(unequal[0]) if unequal.size else length
            return OrderDifference(
                number,
                at,
                (int(a[at]) if at < a.size else None, int(b[at]) if at < b.size else None),
                bool(a.size == b.size and np.array_equal(np.sort(a), np.sort(b))),
                (_more_often(a, b), _more_often(b, a)),
            )
        return None

    def content(self) -> SampleContent | None:
        """Return whose content differs, by the batches with equal ids; None where it cannot be told."""
        walk = self._walk
        same = np.frombuffer(bytes(walk.same_ids), np.uint8) == 1
        batches = np.frombuffer(bytes(walk.same_batch), np.uint8)
        differing, equal = np.flatnonzero(same & (batches == 0)), np.flatnonzero(same & (batches == 1))
        if not differing.size:
            return None
        in_equal: set[int] = set()
        for ids in self._of_steps(equal):
            if ids is None:
                return None
            in_equal.update(ids.tolist())
        suspects: set[int] = set()
        in_all: set[int] | None = None
        for ids in self._of_steps(differing):
            if ids is None:
                return None
            found = set(ids.tolist()) - in_equal
            if not found:
                return SampleContent(differing.size, equal.size, (), math.inf)
            suspects |= found
            in_all = found if in_all is None else in_all & found
        return SampleContent(
            differing.size,
            equal.size,
            tuple(sorted(in_all or suspects)) if equal.size else (),
            self._by_chance(differing),
        )

    def _by_chance(self, differing: Any) -> float:
        """Return how many innocent samples lie in a differing batch of every pass, if passes shuffle independently."""
        taken: dict[int, int] = {}
        for step, ids in zip(differing.tolist(), self._of_steps(differing), strict=True):
            number = self._walk.places[0][step]
            taken[number] = taken.get(number, 0) + (0 if ids is None else int(ids.size))
        sizes = {number: int(ids.size) for number in taken if (ids := self._ids(0, number)) is not None}
        return float(max(sizes.values(), default=0)) * math.prod(
            taken[number] / size for number, size in sizes.items() if size
        )

    def _of_steps(self, steps: Any) -> Iterator[_Ids | None]:
        """Yield the ids of these steps' batches in A; None where they cannot be told from the others of their pass."""
        passes, positions = self._walk.places
        reached: dict[int, int] = {}
        wanted = set(steps.tolist())
        for step, (number, position) in enumerate(zip(passes, positions, strict=True)):
            before, reached[number] = reached.get(number, 0), position
            if step not in wanted:
                continue
            size = self._batch_size(number)
            ids = self._ids(0, number) if size is not None else None
            yield None if ids is None or size is None else ids[before * size : position * size]

    def _batch_size(self, number: int) -> int | None:
        event = self._passes[0].get(number)
        ids = self._ids(0, number)
        return None if event is None or ids is None else batch_size_of(event, ids)

    def _ids(self, side: int, number: int) -> _Ids | None:
        if (side, number) not in self._kept:
            event = self._passes[side].get(number)
            run: Side = (self._walk.a, self._walk.b)[side]
            self._kept[side, number] = None if event is None else run.order_of(event)
        return self._kept[side, number]


_SHOWN = 10


def _more_often(a: _Ids, b: _Ids) -> tuple[int, ...]:
    """Return the samples that come more often in ``a`` than in ``b``."""
    ids, counts = np.unique(a, return_counts=True)
    others = dict(zip(*(each.tolist() for each in np.unique(b, return_counts=True)), strict=True))
    more = (i for i, n in zip(ids.tolist(), counts.tolist(), strict=True) if n > others.get(i, 0))
    return tuple(identity for identity, _ in zip(more, range(_SHOWN), strict=False))
