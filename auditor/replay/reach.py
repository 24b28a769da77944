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
    """The anchor's event, with its ``files``."""
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
    last = run.history.step
    if at + horizon > last:
        raise MemauditError(
            f"step {at} plus horizon {horizon} lies past the program's last step, {last}",
            where=str(run.path),
            next_step=f"use an --at of at most {last - horizon} with this horizon, or a shorter horizon"
            if last >= horizon
            else f"use a horizon of at most {max(last - at, 0)}",
        )
    events = list(run.events())
    where = "pass" if at in _between_passes(events) else "step"
    walked = any(event["event"] == "pass" for event in events)
    usable = [
        anchor.event
        for anchor in run.anchors
        if anchor.event["enter"] is not None
        and anchor.step <= at
        and not (anchor.step == at and _is_elsewhere(anchor.event, where, walked=walked))
    ]
    if not usable:
        raise InconclusiveError(
            f"no anchor at or before step {at} can be entered",
            where=str(run.path),
            why="the program's passes are not under run.epochs(), so a fresh process cannot skip to them",
            next_step="record with `for epoch in run.epochs(n)` around `for batch in run.batches(loader)`",
        )
    return Reach(max(usable, key=lambda event: (event["step"], event["seq"])), where, last)


def _is_elsewhere(anchor: dict[str, Any], where: str, *, walked: bool) -> bool:
    """Say whether an anchor after the fork's own step lies at another place of the program than the fork."""
    if where == "pass":
        return bool(anchor["at"] == "step")
    loop = anchor["at"] == "start" and anchor["enter"] == "steps"  # before the first iteration, like the fork
    return anchor["at"] in ("start", "pass") and walked and not loop


def _between_passes(events: list[dict[str, Any]]) -> set[int]:
    """Return the steps after which the program stands between two passes over its data.

    A pass inside another one, such as an evaluation in the training loop, does not end where the program's walk does;
    one that held no step tells nothing: the step before it belongs to what goes on around it.
    """
    between: set[int] = set()
    open_: set[int] = set()
    step = 0
    for event in events:
        match event["event"]:
            case "step":
                step = event["step"]
            case "iter":
                if step == 0:
                    between.add(0)
                open_.add(event["pass"])
            case "pass":
                open_.discard(event["pass"])
                if not open_ and event["complete"] and event["last"] >= event["first"]:
                    between.add(event["last"])
    return between
