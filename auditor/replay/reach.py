"""Reach: in which way a step is come back to, and where in the program the fork lies."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.errors import InconclusiveError, MemauditError
from auditor.evidence.run_view import RunView

WAYS = ("restore", "rerun", "fork")
"""``restore``: each cell begins from an anchor; ``rerun``: each runs the program from its start; ``fork``: one process
comes to the fork, by an anchor or from the start, and each cell is forked from it."""
AUTO = "auto"

_WORKER = re.compile(r"loader(\[\d+\])?\.worker\d+")

Event = dict[str, Any]


@dataclass(frozen=True)
class Reach:
    """How a cell comes to the fork."""

    way: str
    """One of :data:`WAYS`."""
    anchor: dict[str, Any] | None
    """The anchor's event, with its ``files``; None where the program runs from its start."""
    where: str
    """``pass``: the fork lies where a pass begins; ``step``: inside a pass, or in a loop, before the next batch."""
    before: int | None
    """The number of the pass before whose begin the fork lies; None for a fork inside, and where none follows."""
    last_step: int
    """The recorded program's last step."""
    refused: tuple[tuple[str, str], ...] = ()
    """The ways that were not taken because they cannot be, each with the reason."""

    @property
    def begins(self) -> int:
        """The step after which the way begins: the anchor's, or 0."""
        return 0 if self.anchor is None else int(self.anchor["step"])


def reach(run: RunView, at: int, horizon: int, way: str = AUTO, *, without: Sequence[tuple[str, str]] = ()) -> Reach:
    """Return how to come to step ``at`` of a run and ``horizon`` steps further.

    The fork lies after step ``at``, before the next batch is drawn: where that step ended the last pass in progress, at
    the begin of the pass from which the next step comes, so that it does not depend on the way. Among the anchors that
    a fresh process can enter, the latest one not after the fork is taken.

    Parameters
    ----------
    way
        One of :data:`WAYS`; or ``auto``: ``fork`` where the record allows it and no anchor stands right at the fork,
        else ``restore`` where an anchor can be entered, else ``rerun``.
    without
        Ways that turned out not to work, each with the reason (:class:`~auditor.replay.executors.trunk.TrunkRefused`).

    Raises
    ------
    MemauditError
        If the steps lie outside the program, or there is no such way.
    InconclusiveError
        If the way that was asked for, or any, is not possible.
    """
    if way not in (*WAYS, AUTO):
        raise MemauditError(f"there is no way called {way!r} to a step", next_step=f"use {', '.join((AUTO, *WAYS))}")
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
    before = _next_pass(events, at) if where == "pass" else None
    anchor = _anchor(run, events, at, where, before)
    refusals = _refusals(run, at + horizon, anchor) | dict(without)
    possible = {
        "restore": anchor is not None and "restore" not in refusals,
        "rerun": "rerun" not in refusals,
        "fork": "fork" not in refusals,
    }
    if way == AUTO:
        saves = anchor is None or anchor["step"] < at
        order = ("fork", "restore", "rerun") if saves else ("restore", "fork", "rerun")
        chosen = next((each for each in order if possible[each]), None)
    else:
        chosen = way if possible[way] else None
    if chosen is None:
        asked = WAYS if way == AUTO else (way,)
        raise InconclusiveError(
            f"step {at} cannot be come back to" + ("" if way == AUTO else f" by {way}"),
            where=str(run.path),
            why="; ".join(f"{each}: {refusals[each]}" for each in asked if each in refusals),
            next_step=_next_step(way, possible),
        )
    return Reach(
        chosen,
        None if chosen == "rerun" else anchor,
        where,
        before,
        last,
        tuple((each, refusals[each]) for each in WAYS if each in refusals),
    )


def _next_step(way: str, possible: dict[str, bool]) -> str:
    others = [each for each in WAYS if possible[each]]
    if way != AUTO and others:
        return f"use --reach {others[0]}"
    return "record with --seed, and with `for epoch in run.epochs(n)` around `for batch in run.batches(loader)`"


# What the record says against a way.


def _refusals(run: RunView, last: int, anchor: Event | None) -> dict[str, str]:
    """Return why ways are not possible, as far as the record tells."""
    refused: dict[str, str] = {}
    if anchor is None:
        refused["restore"] = (
            "no anchor at or before the fork can be entered: the program's passes are not under run.epochs(), so a "
            "fresh process cannot skip to them"
        )
    again = _not_from_the_start(run, last)
    if again is not None:
        refused["rerun"] = again
    live = _not_forked(run, last) or (again if anchor is None else None)
    if live is not None:
        refused["fork"] = live
    return refused


def _not_from_the_start(run: RunView, last: int) -> str | None:
    """Say why the program, started again, would not take the same steps; what is not certain is left to the gate."""
    unseeded = sorted(entry["name"] for entry in run.census["streams"] if _is_unseeded(entry))
    if unseeded:
        return f"nobody seeded {', '.join(unseeded)}: the program, started again, draws other numbers"
    for cut in run.history.cuts:
        if cut.event["from"] is None and 0 < cut.event["step"] < last:
            return f"after step {cut.event['step']} the recorded program went on from a checkpoint of its own"
    return None


def _is_unseeded(stream: Event) -> bool:
    # Python's generator does not tell whether it was seeded.
    return bool(
        stream["seeded_by"] == "the operating system"
        or (stream["seeded_by"] == "unknown" and stream["name"] != "python")
    )


def _not_forked(run: RunView, last: int) -> str | None:
    """Say why the live process of this program could not be forked exactly."""
    numerics = run.environment_at(last)["numerics"]
    streams = {entry["name"] for event in run.trace.of("census") for entry in event["streams"]}
    checks: tuple[tuple[bool, str], ...] = (
        (
            sys.platform != "linux",
            "a live process is forked on Linux only: elsewhere system libraries do not survive it",
        ),
        (
            numerics.get("threads") != 1,
            f"torch used {numerics.get('threads')} threads, and a forked process has but the one that forked it",
        ),
        (numerics.get("devices") != [], "there were devices other than the CPU, whose state no fork copies"),
        (
            any(_WORKER.fullmatch(name) for name in streams),
            "a data loader has workers: processes that a fork does not copy",
        ),
    )
    return next((reason for holds, reason in checks if holds), None)


# Anchors, and where the fork lies.


def _anchor(run: RunView, events: Sequence[Event], at: int, where: str, before: int | None) -> Event | None:
    """Return the latest anchor not after the fork that a fresh process can enter."""
    walked = any(event["event"] == "pass" for event in events)
    usable = [
        anchor.event
        for anchor in run.anchors
        if anchor.event["enter"] is not None
        and anchor.step <= at
        and not (anchor.step == at and _is_elsewhere(anchor.event, where, before, walked=walked))
    ]
    return max(usable, key=lambda event: (event["step"], event["seq"]), default=None)


def _is_elsewhere(anchor: Event, where: str, before: int | None, *, walked: bool) -> bool:
    """Say whether an anchor after the fork's own step lies at another place of the program than the fork, or after."""
    if where == "pass":
        passed = before is not None and anchor["pass"] is not None and anchor["pass"] > before
        return bool(anchor["at"] == "step") or passed
    loop = anchor["at"] == "start" and anchor["enter"] == "steps"  # before the first iteration, like the fork
    return anchor["at"] in ("start", "pass") and walked and not loop


def _between_passes(events: Sequence[Event]) -> set[int]:
    """Return the steps after which the program stands between two passes over its data.

    A pass inside another one, such as an evaluation in the training loop, does not end where the program's walk does;
    one that held no step tells nothing: the step before it belongs to what goes on around it. A pass that was left, by
    ``break``, ended there if no further batch was asked for.
    """
    between: set[int] = set()
    open_: set[int] = set()
    step = 0
    closed: tuple[int | None, int | None] = (None, None)
    for event in events:
        match event["event"]:
            case "step":
                step = event["step"]
                closed = event["pass"], event["position"]
            case "iter":
                if step == 0:
                    between.add(0)
                open_.add(event["pass"])
            case "pass":
                open_.discard(event["pass"])
                ended = event["complete"] or closed == (event["pass"], event["batches"])
                if not open_ and ended and event["last"] >= event["first"]:
                    between.add(event["last"])
    return between


def _next_pass(events: Sequence[Event], at: int) -> int | None:
    """Return the outermost pass in progress when step ``at + 1`` closes; if there is none, the first after ``at``."""
    open_: list[int] = []
    begun: list[int] = []
    step = 0
    for event in events:
        match event["event"]:
            case "step" if event["step"] > at:
                break
            case "step":
                step = event["step"]
            case "iter" if step == at:
                open_.append(event["pass"])
                begun.append(event["pass"])
            case "pass" if event["pass"] in open_:
                open_.remove(event["pass"])
    return min(open_ or begun, default=None)
