"""One of the two runs, opened to be compared: what stands beside its steps, and its state from step to step."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from auditor.artifact import order_file, run_directory, strict_json
from auditor.artifact.resources import validator
from auditor.artifact.run_directory import Inventory
from auditor.compare.causal_order import kind_of
from auditor.errors import InconclusiveError, MemauditError, NothingToAuditError
from auditor.evidence import manifest as manifests
from auditor.evidence.history import History
from auditor.evidence.run_view import AnchorView, stored_anchors
from auditor.evidence.trace_stream import LastStep, TraceStream, usable_event

Event = dict[str, Any]


class Side:
    """One run. What the trace says beside its steps (anchors, passes, cuts) is there once the steps were gone through.

    Parameters
    ----------
    path
        The run directory; an unfinished or damaged one too.
    last_step
        Shared by two sides that are walked together: steps that are equal are parsed once.

    Raises
    ------
    NothingToAuditError
        If there is no trace.
    InconclusiveError
        If not even the first line of the trace can be used.
    """

    def __init__(self, path: Path, last_step: LastStep | None = None) -> None:
        self.path = path
        # A link to the latest run is how people name it; inside of the run no link is followed.
        self.inventory: Inventory = run_directory.scan(Path(os.path.realpath(path)))
        if run_directory.TRACE not in self.inventory:
            raise NothingToAuditError(
                "no run directory",
                where=str(path),
                why=f"it has no {run_directory.TRACE}",
                next_step="memaudit record --out RUN -- python train.py",
            )
        data = self.inventory.open(run_directory.TRACE).data
        self.trace = TraceStream(data, last_step)
        first = next(iter(self.trace), None)
        if first is None or first["event"] != "start":
            why = self.trace.problem.message if self.trace.problem else "it does not begin with a start event"
            raise InconclusiveError(
                "the trace cannot be read",
                where=f"{path}/{run_directory.TRACE}",
                why=why,
                next_step=f"memaudit verify {path}",
            )
        self.start: Event = first
        self.end: Event | None = None
        self.steps = 0
        """Steps gone through so far; void ones are not counted."""
        self.damage: dict[str, str] = {}
        """Files that are not what the trace says they are, with what is wrong."""
        self.censuses: list[Event] = list(_found(data, "census"))
        self._is_cut = next(_found(data, "resume"), None) is not None
        # Which steps are void is known only where the cut stands: one reading more.
        self.history = History.of(map(_slim, self.trace)) if self._is_cut else History()

    @property
    def status(self) -> str:
        """``completed``, ``failed``, ``interrupted``, ``unfinished``, or ``broken`` where the trace is."""
        if self.trace.problem is not None:
            return "broken"
        return "unfinished" if self.end is None else str(self.end["status"])

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every memory source that any census of the run names."""
        return {entry["name"]: entry["kind"] for census in self.censuses for entry in census["sources"]}

    @cached_property
    def names(self) -> frozenset[str]:
        """Every memory source and ``stream.NAME`` that any census of the run names."""
        streams = {f"stream.{entry['name']}" for census in self.censuses for entry in census["streams"]}
        return frozenset(self.kinds) | streams

    @cached_property
    def census(self) -> Event:
        """The last census."""
        return self.censuses[-1] if self.censuses else {"sources": [], "streams": []}

    def kind_of(self, name: str) -> str:
        """Return the kind of a source, stream or what else parts."""
        return kind_of(name, self.kinds)

    def events(self) -> Iterator[Event]:
        """Yield every event that counts and every census and cut, in order; what else the trace says is noted."""
        void = self.history.void
        for event in self.trace:
            kind = event["event"]
            if kind == "step":
                if event["seq"] in void:
                    continue
                self.steps += 1
            elif kind == "end":
                self.end = event
            elif not self._is_cut and kind not in ("seal", "census"):
                self.history.feed(event)
            if event["seq"] not in void:
                yield event

    @property
    def anchors(self) -> list[AnchorView]:
        """The anchors that count and whose files are there, in the order they were taken."""
        return stored_anchors(self.history, self.inventory)

    def passes(self) -> list[Event]:
        """The ``pass`` events that count, by number."""
        found = [event for event in self.history.timeline if event["event"] == "pass"]
        return sorted(found, key=lambda event: int(event["pass"]))

    def order_of(self, event: Event) -> order_file.Ids | None:
        """Return the sample ids of a pass by its event, as consumed; None where they were not kept or are damaged."""
        name = event["file"]
        if name is None or not self.is_intact(name, event["sha256"]):
            return None
        try:
            return order_file.read(self.inventory.open(name).data, name)
        except MemauditError as error:
            self.damage[name] = error.what
            return None

    def is_intact(self, name: str, sha256: str | None) -> bool:
        """Say whether a file is there and has the hash that the trace gives it; note it if not."""
        if name in self.damage:
            return False
        try:
            found = self.inventory.open(name).sha256
        except MemauditError as error:
            self.damage[name] = error.what
            return False
        if found != sha256:
            self.damage[name] = "it is not the file whose hash the trace has"
            return False
        return True

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json; empty, and noted, where it is damaged."""
        name = run_directory.ENVIRONMENT
        return self._document(name, "environment") if self.is_intact(name, self.start["environment"]) else {}

    def environments_after_cuts(self) -> list[tuple[int, dict[str, Any]]]:
        """Return each other environment in which the run went on, with the step after which it did."""
        found = []
        for cut in self.history.cuts:
            other = cut.event["environment"]
            if other is not None and self.is_intact(other["file"], other["sha256"]):
                found.append((int(cut.event["step"]), self._document(other["file"], "environment")))
        return [(step, environment) for step, environment in found if environment]

    @cached_property
    def probes(self) -> dict[str, Any]:
        """The probes by name, as probe/probes.json describes them."""
        name = run_directory.PROBES
        return dict(self._document(name, "probes").get("probes", {})) if name in self.inventory else {}

    @cached_property
    def manifest(self) -> manifests.Manifest | None:
        """The manifest; None where there is none, or none that can be read."""
        name = run_directory.MANIFEST
        if name not in self.inventory:
            return None
        try:
            return manifests.parse(self.inventory.bytes_of(name))
        except MemauditError as error:
            self.damage[name] = error.what
            return None

    def _document(self, name: str, form: str) -> dict[str, Any]:
        """Return a JSON file of the run that fits its schema; empty, and noted, where it does not."""
        try:
            value: dict[str, Any] = strict_json.parse_canonical(self.inventory.bytes_of(name), name)
        except MemauditError as error:
            self.damage[name] = error.what
            return {}
        problem = next(iter(validator(form).iter_errors(value)), None)
        if problem is not None:
            self.damage[name] = f"it breaks its format: {problem.message[:200]}"
        return value if problem is None else {}


class Follower:
    """The state of one run after each step: :meth:`advance` goes to the next step, :func:`take` brings digests forward.

    Lists of digests are never changed in place.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self._events = side.events()
        self.step: Event = {}
        """The ``step`` event reached."""
        self.source_names: list[str] = []
        self.sources: list[str | None] = []
        """Digest by position in ``source_names``; None where none was written yet."""
        self.source_places: dict[str, int] = {}
        self.stream_names: list[str] = []
        self.stream_places: dict[str, int] = {}
        self.streams: list[str | None] = []
        self.begun: list[dict[str, str | None]] = []
        """The streams' digests where passes began since the last step."""
        self.outcomes: list[Event] = []
        """The ``outcome`` events since the last step."""
        self.first_sources: dict[str, str] | None = None
        self.first_streams: dict[str, str] = {}
        """The digests of the anchor before the first step; None and empty without one."""
        self.cut: Event | None = None
        """The ``resume`` event since the last step, if there is one."""

    def advance(self) -> bool:
        """Go to the next step; False where there is none."""
        self.begun, self.outcomes, self.cut = [], [], None
        for event in self._events:
            match event["event"]:
                case "step":
                    self.step = event
                    return True
                case "iter":
                    self.streams = carry(self.streams, event["streams"])
                    self.begun.append(self.by_stream())
                case "census":
                    sources, streams = self.by_source(), self.by_stream()
                    self.source_names = [entry["name"] for entry in event["sources"]]
                    self.stream_names = [entry["name"] for entry in event["streams"]]
                    self.source_places = {name: place for place, name in enumerate(self.source_names)}
                    self.stream_places = {name: place for place, name in enumerate(self.stream_names)}
                    self.sources = [sources.get(name) for name in self.source_names]
                    self.streams = [streams.get(name) for name in self.stream_names]
                case "anchor":
                    if event["step"] == 0 and self.first_sources is None:
                        self.first_sources, self.first_streams = event["sources"], event["streams"]
                    self.sources = [event["sources"].get(n, d) for n, d in self._by_source()]
                    self.streams = [event["streams"].get(n, d) for n, d in self._by_stream()]
                case "resume":
                    self.cut = event
                    self.sources, self.streams = [None] * len(self.sources), [None] * len(self.streams)
                case "outcome":
                    self.outcomes.append(event)
        return False

    def by_source(self) -> dict[str, str | None]:
        """The sources' digests by name."""
        return dict(self._by_source())

    def by_stream(self) -> dict[str, str | None]:
        """The streams' digests by name."""
        return dict(self._by_stream())

    def _by_source(self) -> Iterator[tuple[str, str | None]]:
        return zip(self.source_names, self.sources, strict=True)

    def _by_stream(self) -> Iterator[tuple[str, str | None]]:
        return zip(self.stream_names, self.streams, strict=True)


def take(a: Follower, b: Follower) -> None:
    """Bring the digests of both runs forward to the steps they reached; what is equal in both is worked out once."""
    if a.step is b.step and a.sources is b.sources and a.streams is b.streams:
        a.sources = b.sources = carry(a.sources, a.step["sources"])
        a.streams = b.streams = carry(a.streams, a.step["streams"])
        return
    for side in (a, b):
        side.sources = carry(side.sources, side.step["sources"])
        side.streams = carry(side.streams, side.step["streams"])
    if (a.source_names, a.sources) == (b.source_names, b.sources):
        b.source_names, b.sources = a.source_names, a.sources
    if (a.stream_names, a.streams) == (b.stream_names, b.streams):
        b.stream_names, b.streams = a.stream_names, a.streams


def carry(last: list[str | None], written: list[str | None]) -> list[str | None]:
    """Return the digests in force after a line, in a new list; null means unchanged."""
    if len(written) != len(last):
        written = (written + [None] * len(last))[: len(last)]
    return [old if new is None else new for old, new in zip(last, written, strict=True)]


def _slim(event: Event) -> Event:
    """Return what a history needs of an event: of a million steps the digests would fill the memory."""
    if event["event"] != "step":
        return event
    return {name: event[name] for name in ("event", "seq", "step", "pass", "position")}


def _found(data: memoryview, kind: str) -> Iterator[Event]:
    """Yield the events of one kind, found by their bytes: quotes in a text are escaped, so nothing else looks so."""
    mark = f'"event":"{kind}"'.encode()
    text: Any = data.obj if isinstance(data.obj, mmap.mmap) else bytes(data)
    position = text.find(mark)
    while position >= 0:
        begin, end = text.rfind(b"\n", 0, position) + 1, text.find(b"\n", position)
        if end < 0:
            return
        event = usable_event(text[begin : end + 1])
        # The bytes may also stand deeper in a line, or belong to a key given twice.
        if not isinstance(event, str) and event["event"] == kind:
            yield event
        position = text.find(mark, end)
