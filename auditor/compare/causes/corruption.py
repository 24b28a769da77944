"""A file of a run is not what its trace says it is, or the trace itself is broken."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.situation import CERTAIN, Cause, Situation


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause for each run with damage; damage can make runs part that never did, so it is told first."""
    for label, side in (("A", situation.walk.a), ("B", situation.walk.b)):
        evidence = [f"{label}: {path}: {what}" for path, what in sorted(side.damage.items())]
        if side.trace.problem is not None:
            evidence.append(f"{label}: {side.trace.problem.message}; nothing after it is compared")
        if evidence:
            yield Cause("corruption", CERTAIN, tuple(evidence))
