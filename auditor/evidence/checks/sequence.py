"""The sequence of a trace's events: whether they follow one another as a run makes them, cuts included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from auditor.artifact.run_directory import ANCHORS, MANIFEST, TRACE, is_inside
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.history import AnchorRecord, History
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.rules import Rule, register

Event = dict[str, Any]


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield the events that no recorder writes where they stand."""
    if examined.kind != RUN:
        return
    if TRACE not in examined.inventory:
        yield SEQUENCE.finding(TRACE, "there is no trace", evidence=Evidence.MISSING)
        return
    events = examined.trace.events
    if examined.trace.problems or (not events and MANIFEST not in examined.inventory):
        return  # broken lines are told by MA810 and MA811; nothing written yet is unfinished
    if not events or events[0]["event"] != "start":
        yield SEQUENCE.finding(f"{TRACE}#/0", "the trace does not begin with a start event")
    follower = _Follower(events)
    for event in events:
        yield from follower.follow(event)


class _Follower:
    """Goes through the events with the history so far beside it."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self.history = History()
        self._sizes = (-1, -1)
        self._positions: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._across: dict[int, int | None] = {}
        """The passes that were in progress at the last cut, with the position where that is known."""
        self._begun_since: set[int] = set()

    def follow(self, event: Event) -> Iterator[Finding]:
        """Yield what is wrong with the next event, and take it into the history."""
        where = f"{TRACE}#/{event['seq']}"
        match event["event"]:
            case "start" if event["seq"] != 0:
                yield SEQUENCE.finding(where, "a second start event")
            case "census":
                self._sizes = (len(event["sources"]), len(event["streams"]))
            case "iter":
                yield from self._iter(event, where)
            case "step":
                yield from self._step(event, where)
            case "pass":
                yield from self._pass(event, where)
            case "anchor":
                yield from self._anchor(event, where)
            case "stored" | "dropped":
                yield from self._files(event, where)
            case "end":
                yield from self._end(event, where)
        self.history.feed(event)
        if event["event"] == "resume":
            yield from self._resume(event, where)

    def _iter(self, event: Event, where: str) -> Iterator[Finding]:
        number, last = event["pass"], self.history.begun
        if number != last + 1:
            message = "the passes do not count up by one"
            yield SEQUENCE.finding(f"{where}/pass", message, expected=str(last + 1), found=str(number))
        if len(event["streams"]) != self._sizes[1]:
            message = f"the begin of pass {number} has another number of digests than the census has streams"
            yield SEQUENCE.finding(f"{where}/streams", message)
        self._positions.pop(number, None)
        self._across.pop(number, None)
        self._first[number] = self.history.step + 1
        self._begun_since.add(number)

    def _step(self, event: Event, where: str) -> Iterator[Finding]:
        number, last = event["step"], self.history.step
        if number != last + 1:
            message = "the steps do not count up by one"
            yield SEQUENCE.finding(f"{where}/step", message, expected=str(last + 1), found=str(number))
        if (len(event["sources"]), len(event["streams"])) != self._sizes:
            yield SEQUENCE.finding(where, f"step {number} has another number of digests than the census has entries")
        also = [(each, position) for each, position in event.get("also", ())]
        others = [each for each, _ in also]
        if others != sorted(set(others)) or event["pass"] in others:
            yield SEQUENCE.finding(f"{where}/also", f"step {number} names a pass twice, or not in ascending order")
        main = [] if event["pass"] is None else [(event["pass"], event["position"])]
        for each, position in (*main, *also):
            if each > self.history.begun:
                yield SEQUENCE.finding(where, f"step {number} consumed batches of pass {each}, which was not begun")
            elif position is not None:
                if position < self._positions.get(each, 0):
                    yield SEQUENCE.finding(where, f"step {number} goes back in pass {each}")
                self._positions[each] = position

    def _pass(self, event: Event, where: str) -> Iterator[Finding]:
        number, begun = event["pass"], self.history.open.get(event["pass"])
        if begun is None:
            yield SEQUENCE.finding(f"{where}/pass", f"pass {number} ends, and was not in progress")
            return
        for name in ("epoch", "loader"):
            if event[name] != begun[name]:
                message = f"pass {number} ends with another {name} than it began with"
                yield SEQUENCE.finding(f"{where}/{name}", message, expected=str(begun[name]), found=str(event[name]))
        if event["last"] > self.history.step:
            yield SEQUENCE.finding(f"{where}/last", f"pass {number} ends at a step that was not taken yet")
        elif event["last"] == self.history.step and event["batches"] < self._positions.get(number, 0):
            yield SEQUENCE.finding(f"{where}/batches", f"pass {number} has fewer batches than its steps consumed")
        if number in self._across:
            if "resumed" not in event:
                yield SEQUENCE.finding(where, f"pass {number} went on after a cut, and does not say so")
            elif self._across[number] not in (None, event["resumed"]["position"]):
                message = f"pass {number} went on from another position"
                found = str(event["resumed"]["position"])
                yield SEQUENCE.finding(
                    f"{where}/resumed/position", message, expected=str(self._across[number]), found=found
                )
        elif "resumed" in event:
            yield SEQUENCE.finding(f"{where}/resumed", f"pass {number} was in progress at no cut")
        elif event["first"] != self._first.get(number):
            message = f"pass {number} says another first step than it began with"
            expected = str(self._first.get(number))
            yield SEQUENCE.finding(f"{where}/first", message, expected=expected, found=str(event["first"]))

    def _anchor(self, event: Event, where: str) -> Iterator[Finding]:
        if event["step"] != self.history.step:
            message = "an anchor of another step than the last one"
            expected, found = str(self.history.step), str(event["step"])
            yield SEQUENCE.finding(f"{where}/step", message, expected=expected, found=found)
        if not is_inside(event["path"]) or not event["path"].startswith(f"{ANCHORS}/"):
            yield SEQUENCE.finding(f"{where}/path", f"an anchor lies outside {ANCHORS}/", found=event["path"][:200])
        before = self.history.anchor_at(event["path"])
        if before is not None and before.is_kept:
            yield SEQUENCE.finding(f"{where}/path", f"a second anchor is written over the one in {event['path']}")

    def _files(self, event: Event, where: str) -> Iterator[Finding]:
        anchor = self.history.anchor_at(event["path"])
        if anchor is None:
            yield SEQUENCE.finding(f"{where}/path", f"no anchor was taken in {event['path']}")
        elif event["event"] == "stored" and anchor.stored is not None:
            yield SEQUENCE.finding(f"{where}/path", f"the anchor in {event['path']} is stored twice")
        elif event["event"] == "dropped" and not anchor.is_kept:
            yield SEQUENCE.finding(f"{where}/path", f"the anchor in {event['path']} is dropped, and was not there")

    def _resume(self, event: Event, where: str) -> Iterator[Finding]:
        cut = self.history.cuts[-1]
        if cut.problem is not None:
            source = "the run went on" + (f" from {event['from']}" if event["from"] is not None else "")
            yield SEQUENCE.finding(where, f"{source} after step {event['step']}: {cut.problem}")
        if event["abandoned"] != len(cut.steps):
            message = "the cut abandoned another number of steps than stand after its point"
            expected, found = str(event["abandoned"]), str(len(cut.steps))
            yield SEQUENCE.finding(f"{where}/abandoned", message, expected=expected, found=found)
        known = {event["pass"]: event["position"]}
        self._across = {number: known.get(number) for number in self.history.open}
        self._begun_since = set()
        self._sizes = (-1, -1)
        self._positions = {}
        for each in self.history.timeline:
            if each["event"] == "step":
                main = [] if each["pass"] is None else [(each["pass"], each["position"])]
                for number, position in (*main, *each.get("also", ())):
                    self._positions[number] = position or 0

    def _end(self, event: Event, where: str) -> Iterator[Finding]:
        if event is not self._events[-1]:
            yield SEQUENCE.finding(where, "an end event, and the trace goes on after it")
        elif event["steps"] != self.history.step:
            message = "the end counts other steps than the trace"
            expected, found = str(event["steps"]), str(self.history.step)
            yield SEQUENCE.finding(f"{where}/steps", message, expected=expected, found=found)
        elif event["status"] != "interrupted":
            for number in sorted(self.history.open.keys() & self._begun_since):
                yield SEQUENCE.finding(where, f"pass {number} was begun and does not end")


def not_stored(history: History) -> list[AnchorRecord]:
    """Return the anchors that were taken after the last cut and never stored."""
    last = history.cuts[-1].event["seq"] if history.cuts else -1
    return [each for each in history.anchors if each.stored is None and each.event["seq"] > last]


SEQUENCE = register(
    Rule(
        "MA815",
        "the events do not make a run",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "start comes first and end last, steps and passes count up by one, a pass ends that was begun, each step and "
        "each pass has one digest for each entry of the census, an anchor is stored after it was taken, and a run that "
        "was cut goes on from what stands before the cut.",
        "No recorder writes such a trace: events were removed or made up.",
        "Get the trace again as it was recorded.",
        "run",
        check,
    )
)
