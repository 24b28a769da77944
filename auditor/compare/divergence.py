"""The first step and source at which two traces part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from auditor.compare.causal_order import BATCH, END, IDS, STREAM, kind_by_name, rank
from auditor.evidence.run_view import Step


@dataclass(frozen=True)
class Divergence:
    """Where two traces part first."""

    step: int
    source: str
    """A source's name, ``stream.NAME``, ``ids`` (sample ids), ``batch`` (content), or ``(end)`` where one stops."""


def first_divergence(first: Iterable[Step], second: Iterable[Step]) -> tuple[Divergence | None, int]:
    """Return where two sequences of steps part, and how many steps were compared equal.

    Both must begin with the same step. Within a step the order is causal (:mod:`auditor.compare.causal_order`).
    """
    equal = 0
    other = iter(second)
    for one in first:
        two = next(other, None)
        if two is None or one.step != two.step:
            return Divergence(one.step, END), equal
        source = _difference(one, two)
        if source is not None:
            return Divergence(one.step, source), equal
        equal += 1
    extra = next(other, None)
    return (None if extra is None else Divergence(extra.step, END)), equal


def _difference(one: Step, two: Step) -> str | None:
    names = one.streams.keys() | two.streams.keys()
    differing = [f"{STREAM}{name}" for name in names if one.streams.get(name) != two.streams.get(name)]
    sources = one.sources.keys() | two.sources.keys()
    differing += [name for name in sources if one.sources.get(name) != two.sources.get(name)]
    differing += [IDS] * (one.ids != two.ids) + [BATCH] * (one.batch != two.batch)
    return min(differing, key=lambda name: (rank(kind_by_name(name)), name), default=None)
