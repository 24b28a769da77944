"""The logs of passes in progress: which of their sample ids the steps confirm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from auditor.artifact.order_file import Ids
from auditor.evidence.history import Event, History
from auditor.evidence.order_walk import Kept, OrderWalk

_BYTES = 8


@dataclass
class Agreement:
    """How far a log and the steps agree."""

    samples: int = 0
    """Ids that the steps confirm or cannot judge, from the first on."""
    step: int = 0
    """The last step whose ids the log holds; 0 if none."""
    position: int = 0
    """The position in the pass that was reached there."""
    contradicted: bool = False
    """Whether a step consumed other ids than the log has at its place."""
    _largest: int = 0
    _over: bool = False

    def take(self, outcome: bool | None, step: int, position: int, used: int, size: int, *, last: bool) -> None:
        """Take in what became of one step."""
        if self._over:
            return
        if outcome is True:
            self._largest = max(self._largest, used - self.samples)
            self.samples, self.step, self.position = used, step, position
        elif outcome is False:
            # The log is written after the step, and anew after a cut: it may end early. It contradicts the step
            # where it holds more than a step ever took, and something else.
            self._over = True
            self.contradicted = not last and size - self.samples >= self._largest > 0
        else:
            # Several passes of unknown batch size gave to one step: nothing tells their ids apart, from here on.
            self.samples, self.step, self.position = size, step, position


def part_ids(data: memoryview | bytes) -> Ids:
    """Return the ids of a log: little-endian integers of 8 bytes; what is left of one that was cut short is dropped."""
    return np.frombuffer(data, dtype="<u8", count=len(data) // _BYTES)


def agreements(history: History, parts: Mapping[int, Ids], kept: Mapping[int, Kept]) -> dict[int, Agreement]:
    """Return how far the log of each pass in progress agrees with the steps that count.

    ``kept`` is what was kept of the passes that ended: their batches may be in the same steps.
    """
    walk = OrderWalk({**kept, **{number: Kept(ids) for number, ids in parts.items()}})
    found = {number: Agreement() for number in parts}
    steps = [event for event in history.timeline if event["event"] == "step"]
    last = {number: event["step"] for event in steps for number in _consumed(event)}
    for event in steps:
        outcome = walk.advance(event)
        for number, position in _consumed(event).items():
            if number in found:
                size, used = int(parts[number].size), walk.used.get(number, 0)
                is_last = last[number] == event["step"]
                found[number].take(outcome, event["step"], position, used, size, last=is_last)
    return found


def _consumed(event: Event) -> dict[int, int]:
    """Return the passes that gave batches to a step, each with the position reached."""
    consumed = dict(event.get("also", ()))
    if event["pass"] is not None:
        consumed[event["pass"]] = event["position"] or 0
    return consumed
