"""The trace of a run is broken where the runs part: what was changed there may be all that differs."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.situation import CERTAIN, Cause, Situation


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause for each run whose trace breaks at the step at which they part; other damage is a note."""
    first = situation.first
    for label, side in (("A", situation.walk.a), ("B", situation.walk.b)):
        problem = side.trace.problem
        if problem is not None and first is not None and (first.kind == "end" or first.step >= situation.walk.compared):
            evidence = f"{label}: {problem.message}; nothing after it is compared"
            yield Cause("corruption", CERTAIN, (evidence,), first.name, first.step)
