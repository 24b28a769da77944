"""Reach: from which anchor a step is come back to, and where in the program the fork lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from auditor.errors import InconclusiveError, MemauditError
from auditor.evidence.run_view import RunView


@dataclass(frozen=True)
class Reach:
    """How a cell comes to the fork."""

    anchor: dict[str, Any]
    """The anchor's event."""
    where: str
    """``pass``: the fork lies where the next pass begins; ``step``: inside a pass, before the next batch."""
    last_step: int
    """The recorded program's last step."""


def reach(run: RunView, at: int, horizon: int) -> Reach:
    """Return how to come to step ``at`` of a run and ``horizon`` steps further.

    The fork lies after step ``at``, before the next batch is drawn: where that step ended a pass, at the next pass's
    start. Among the anchors that a fresh process can enter, the latest one not after the fork is taken.

    Raises
    ------
    MemauditError
        If the steps lie outside the program.
    InconclusiveError
        If no anchor can be entered.
    """
    steps = [event["step"] for event in run.trace.of("step")]
    last = max(steps, default=0)
    if at + horizon > last:
        raise MemauditError(
            f"step {at} plus horizon {horizon} lies past the program's last step, {last}",
            where=str(run.path),
            next_step=f"use an --at of at most {last - horizon} with this horizon, or a shorter horizon"
            if last >= horizon
            else f"use a horizon of at most {max(last - at, 0)}",
        )
    ends = {event["last"] for event in run.trace.of("pass") if event["complete"]}
    walked = bool(run.trace.of("pass"))
    where = "pass" if walked and (at in ends or at == 0) else "step"
    usable = [
        event
        for event in run.trace.of("anchor")
        if event["enter"] is not None
        and event["step"] <= at
        and not (event["step"] == at and event["at"] == "step" and where == "pass")
        and not (event["step"] == at and event["at"] in ("start", "pass") and where == "step" and walked)
    ]
    if not usable:
        raise InconclusiveError(
            f"no anchor at or before step {at} can be entered",
            where=str(run.path),
            why="the program's passes are not under run.epochs(), so a fresh process cannot skip to them",
            next_step="record with `for epoch in run.epochs(n)` around `for batch in run.batches(loader)`",
        )
    return Reach(max(usable, key=lambda event: (event["step"], event["seq"])), where, last)
