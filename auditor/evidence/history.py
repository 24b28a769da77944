"""The history of a run that may have been cut and gone on: which events count, and which a ``resume`` event made void.

A recorder that was killed between two anchors, or whose program came back to a checkpoint of its own, does some steps
again. What it did the first time stays in the trace and in its chain, and is void (docs/run-directory.md, "Cuts").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_TIMELINE = {"step", "iter", "pass", "anchor", "outcome"}
"""The events that can become void; the others keep books."""


@dataclass(frozen=True)
class Cut:
    """One cut, and what it made void."""

    event: Event
    """The ``resume`` event."""
    void: tuple[Event, ...]
    """The events it made void, in order."""
    anchor: Event | None
    """The event of the anchor that the run came back to; None where the program restored itself, or there is none."""
    problem: str | None = None
    """Why it does not follow from what stands before it, or None."""

    @property
    def steps(self) -> list[Event]:
        """The step events it made void."""
        return [event for event in self.void if event["event"] == "step"]


@dataclass
class AnchorRecord:
    """What the trace says of one anchor over time."""

    event: Event
    stored: Event | None = None
    dropped: Event | None = None
    void: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether its files are said to be on the disk."""
        return self.stored is not None and self.dropped is None


@dataclass
class History:
    """The events of a trace, with those that are void told from those that count; fed one event at a time."""

    timeline: list[Event] = field(default_factory=list)
    """The steps, passes, anchors and outcomes that count so far, in order."""
    void: set[int] = field(default_factory=set)
    """The ``seq`` of every void event."""
    cuts: list[Cut] = field(default_factory=list)
    step: int = 0
    """Steps taken so far, void ones not counted."""
    begun: int = 0
    """The highest number of a pass begun so far."""
    open: dict[int, Event] = field(default_factory=dict)
    """The passes in progress: number to ``iter`` event."""
    anchors: list[AnchorRecord] = field(default_factory=list)
    """Every anchor in order, void ones among them."""
    _events: list[Event] = field(default_factory=list)
    _at_path: dict[str, AnchorRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """Return the history that a trace tells."""
        history = cls()
        for event in events:
            history.feed(event)
        return history

    def events(self) -> Iterator[Event]:
        """Yield every event that counts, in order."""
        return (event for event in self._events if event["seq"] not in self.void)

    def anchor_at(self, path: str) -> AnchorRecord | None:
        """Return the last anchor taken under a path."""
        return self._at_path.get(path)

    def feed(self, event: Event) -> None:
        """Take in the next event of the trace."""
        self._events.append(event)
        kind = event["event"]
        if kind in _TIMELINE:
            self.timeline.append(event)
        self._count(event)
        match kind:
            case "anchor":
                record = AnchorRecord(event)
                self.anchors.append(record)
                self._at_path[event["path"]] = record
            case "stored":
                if event["path"] in self._at_path:
                    self._at_path[event["path"]].stored = event
            case "dropped":
                if event["path"] in self._at_path:
                    self._at_path[event["path"]].dropped = event
            case "resume":
                self._cut(event)

    def _cut(self, event: Event) -> None:
        """Make void what a ``resume`` event says was abandoned."""
        anchor, problem = None, None
        if event["from"] is not None:
            record = self._at_path.get(event["from"])
            if record is None or record.void:
                problem = "no such anchor was taken"
            elif record.stored is None:
                problem = "the anchor was never stored"
            elif record.dropped is not None:
                problem = "the anchor was dropped before"
            else:
                anchor = record.event
                problem = _unlike(event, anchor)
        elif event["step"] > self.step:
            problem = "that step was not taken yet"
        kept, void = _after_anchor(self.timeline, event, anchor) if anchor else _after_step(self.timeline, event)
        self.timeline = kept
        self.void.update(each["seq"] for each in void)
        self.cuts.append(Cut(event, tuple(void), anchor, problem))
        for each in self.anchors:
            each.void = each.void or each.event["seq"] in self.void
        self._recount()

    def _recount(self) -> None:
        self.step = self.begun = 0
        self.open = {}
        for event in self.timeline:
            self._count(event)

    def _count(self, event: Event) -> None:
        match event["event"]:
            case "step":
                self.step = event["step"]
            case "iter":
                self.begun = max(self.begun, event["pass"])
                self.open[event["pass"]] = event
            case "pass":
                self.open.pop(event["pass"], None)


def _unlike(event: Event, anchor: Event) -> str | None:
    """Return how a ``resume`` event and the anchor it names differ, or None."""
    for name in ("step", "pass", "position"):
        held = anchor[name] if name != "position" else anchor[name] or 0
        if event[name] != held:
            return f"its anchor is of another {name}"
    return None


def _after_anchor(timeline: list[Event], cut: Event, anchor: Event) -> tuple[list[Event], list[Event]]:
    """Part the events at an anchor: outcomes measured there stay, all else that came after it is void."""
    kept: list[Event] = []
    void: list[Event] = []
    for event in timeline:
        later = event["seq"] > anchor["seq"]
        stays = not later or (event["event"] == "outcome" and event["step"] <= cut["step"])
        (kept if stays else void).append(event)
    return kept, void


def _after_step(timeline: list[Event], cut: Event) -> tuple[list[Event], list[Event]]:
    """Part the events at a step: a pass goes on only if the cut stands inside it."""
    kept: list[Event] = []
    void: list[Event] = []
    inside = cut["pass"] if cut["position"] > 0 else None
    reached, begun_later = cut["step"] == 0, set[int]()
    for event in timeline:
        match event["event"]:
            case "iter":
                # A pass begun after the step, and not the one that goes on.
                stays = not reached or event["pass"] == inside
                (begun_later.discard if stays else begun_later.add)(event["pass"])
            case "pass":
                number = event["pass"]
                stays = event["last"] <= cut["step"] and number != inside and number not in begun_later
            case _:
                stays = event["step"] <= cut["step"]
        if event["event"] == "step" and event["step"] >= cut["step"]:
            reached = True
        (kept if stays else void).append(event)
    return kept, void
