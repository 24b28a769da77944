"""The first step and source at which two traces part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from auditor.evidence.run_view import Step


@dataclass(frozen=True)
class Divergence:
    """Where two traces part first."""

    step: int
    source: str
    """A source's name, ``stream.NAME``, ``order`` (sample ids), ``batch`` (content), or ``(end)`` where one stops."""


def first_divergence(first: Iterable[Step], second: Iterable[Step]) -> tuple[Divergence | None, int]:
    """Return where two sequences of steps part, and how many steps were compared equal.

    Both must begin with the same step. Within a step the order is causal: sample ids, batch content, streams, then
    sources in the census's order.
    """
    equal = 0
    other = iter(second)
    for one in first:
        two = next(other, None)
        if two is None or one.step != two.step:
            return Divergence(one.step, "(end)"), equal
        source = _difference(one, two)
        if source is not None:
            return Divergence(one.step, source), equal
        equal += 1
    extra = next(other, None)
    return (None if extra is None else Divergence(extra.step, "(end)")), equal


def _difference(one: Step, two: Step) -> str | None:
    if one.ids != two.ids:
        return "order"
    if one.batch != two.batch:
        return "batch"
    for name in sorted(one.streams.keys() | two.streams.keys()):
        if one.streams.get(name) != two.streams.get(name):
            return f"stream.{name}"
    for name in [*one.sources, *(name for name in two.sources if name not in one.sources)]:
        if one.sources.get(name) != two.sources.get(name):
            return name
    return None
