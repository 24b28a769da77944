"""Two traces walked side by side, once: for every memory source the step at which it parted, and what led up to it."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from auditor.compare.causal_order import BATCH, END, IDS, LOSS, OUTCOME, STREAM, rank
from auditor.compare.side import Follower, Side, take
from auditor.compare.tensors import natural

Event = dict[str, Any]
_Digests = Mapping[str, str | None]

REMEMBERED = 16
"""How many steps before and after a parting are kept to explain it."""


@dataclass
class Parting:
    """Where one source, stream or outcome parted, and what its digests did around there."""

    name: str
    kind: str
    step: int
    """The first step after which it differs; 0: before the first."""
    at: str
    """``start``: in the anchor before the first step; ``pass``: where the pass of this step began; ``step``: when the
    step closed; ``end``: one run has no such step."""
    digests: list[tuple[str | None, str | None]]
    """A's and B's digest there and after the steps that follow."""
    before: list[tuple[str | None, str | None]]
    """The same after the steps before, the last one last."""
    differs: int = 1
    """After how many steps it differs."""
    last: int = 0
    """The last step after which it differs."""
    schedule: tuple[str, ...] = ()
    """Of what an update writes: the hyper-parameters that changed in the same step in both, and not shortly before."""
    leaf: str | None = None
    """The first tensor, ``SOURCE/PATH``, whose digests in the lines of this step differ, where both lines have them."""

    @property
    def moved(self) -> tuple[bool, bool]:
        """Whether it changed in A and in B when they parted; both where nothing stands before."""
        if not self.before:
            return True, True
        return self.digests[0][0] != self.before[-1][0], self.digests[0][1] != self.before[-1][1]

    @property
    def key(self) -> tuple[int, int, str]:
        """What sorts partings by step, then in causal order."""
        # What is set before the first step went into the schedule's state; later the schedule sets it.
        set_first = self.at == "start" and self.kind == "hyper"
        return self.step, rank("scheduler") - 1 if set_first else rank(self.kind), self.name


@dataclass
class Losses:
    """Both losses step by step; NaN where a step gave none."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    a: array[float] = field(default_factory=lambda: array("d"))
    b: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, a: float, b: float) -> None:
        """Note the losses of one step."""
        self.steps.append(step)
        self.a.append(a)
        self.b.append(b)

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        return zip(self.steps, self.a, self.b, strict=True)


@dataclass
class Walk:
    """What walking both traces showed."""

    a: Side
    b: Side
    shared: frozenset[str]
    """Sources and streams that both runs name in a census."""
    equal: int = 0
    """Steps that both have and that are equal in everything, before the first that is not."""
    compared: int = 0
    """Steps that both have."""
    partings: dict[str, Parting] = field(default_factory=dict)
    """By name: sources, ``stream.NAME``, ``ids``, ``batch``, ``loss``, ``outcome.PROBE``, ``(end)``."""
    one_sided: set[str] = field(default_factory=set)
    """What of ``ids``, ``batch`` and ``loss`` some steps have in one run only: not compared there."""
    idle: list[str] = field(default_factory=list)
    """Streams that differ and that nobody draws from: no difference to the training."""
    same_ids: bytearray = field(default_factory=bytearray)
    """One byte a compared step: 1 equal sample ids, 0 other ones, 2 unknown in both."""
    same_batch: bytearray = field(default_factory=bytearray)
    """The same of the batch's content."""
    places: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))
    """Pass and position of each compared step in A; 0 where there is none."""
    losses: Losses = field(default_factory=Losses)
    """From the step on at which anything parted."""
    cuts: tuple[list[tuple[int, Event]], list[tuple[int, Event]]] = field(default_factory=lambda: ([], []))
    """The cuts of A and of B: the step that followed, and the ``resume`` event."""
    starts: tuple[dict[str, list[Any]], dict[str, list[Any]]] = field(default_factory=lambda: ({}, {}))
    """By stream, its digests where the passes of A and of B began: (step that followed, digest)."""

    @property
    def first(self) -> Parting | None:
        """The first parting in causal order, or None."""
        return min(self.partings.values(), key=lambda each: each.key, default=None)

    def sorted(self) -> list[Parting]:
        """Return every parting, by step and in causal order."""
        return sorted(self.partings.values(), key=lambda each: each.key)


def walk(a: Side, b: Side) -> Walk:
    """Read both traces once, step beside step, in flat memory.

    A stream that differs from the start parts where it is first drawn from, or, where sources differ from the start as
    well, with them; one that nobody draws from is idle.
    """
    walker = _Walker(a, b)
    walker.run()
    return walker.result


class _Walker:
    def __init__(self, a: Side, b: Side) -> None:
        self.result = Walk(a, b, a.names & b.names)
        self.a, self.b = Follower(a), Follower(b)
        self._remembered: deque[tuple[_State, _State]] = deque(maxlen=REMEMBERED)
        self._waiting: dict[str, Parting] = {}
        """Streams that differ from the start and were not drawn from yet."""
        self._recent: list[Parting] = []
        """Partings whose following digests are still being kept."""

    def run(self) -> None:
        a, b, result = self.a, self.b, self.result
        first = True
        while True:
            more = a.advance(), b.advance()
            if first:
                self._start()
                first = False
            if not all(more) or a.step["step"] != b.step["step"]:
                break
            self._step()
        self._outcomes()
        if any(more):
            step = min(each.step["step"] for each, has in zip((a, b), more, strict=True) if has)
            self._part(END, step, "end", None, None)
        for each in (a, b):
            while each.advance():  # what stands beside the steps of the longer run is wanted too
                pass
        result.idle = sorted(self._waiting)

    def _start(self) -> None:
        """Compare the anchors before the first step."""
        a, b = self.a, self.b
        if a.first_sources is None or b.first_sources is None:
            return
        differing = [
            name
            for name in sorted(self.result.shared)
            if not name.startswith(STREAM) and a.first_sources.get(name) != b.first_sources.get(name)
        ]
        for name in differing:
            self._part(name, 0, "start", a.first_sources.get(name), b.first_sources.get(name))
        for name in sorted(a.first_streams.keys() & b.first_streams.keys()):
            if a.first_streams[name] != b.first_streams[name]:
                full, pair = f"{STREAM}{name}", (a.first_streams[name], b.first_streams[name])
                self._waiting[full] = Parting(full, "stream", 0, "start", [pair], [])

    def _step(self) -> None:
        a, b, result = self.a, self.b, self.result
        one, two = a.step, b.step
        take(a, b)
        self._outcomes()
        for label, each in enumerate((a, b)):
            if each.cut is not None:
                result.cuts[label].append((each.step["step"], each.cut))
        if a.begun or b.begun:
            self._begin(one["step"])
        result.compared += 1
        same_ids, same_batch = one["ids"] == two["ids"], one["batch"] == two["batch"]
        if None in (one["ids"], two["ids"]):
            same_ids = self._unknown(IDS, same=same_ids)
        if None in (one["batch"], two["batch"]):
            same_batch = self._unknown(BATCH, same=same_batch)
        same_loss = one.get("loss") == two.get("loss")
        if not same_loss and None in (one.get("loss"), two.get("loss")):
            same_loss = self._unknown(LOSS, same=False)
        result.same_ids.append(2 if None in (one["ids"], two["ids"]) else same_ids)
        result.same_batch.append(2 if None in (one["batch"], two["batch"]) else same_batch)
        # Of what a step takes from several passes, or names itself, the main pass does not tell the samples.
        result.places[0].append(0 if "also" in one or "by_hand" in one else one["pass"] or 0)
        result.places[1].append(one["position"] or 0)
        same = (
            same_ids
            and same_batch
            and a.sources == b.sources
            and a.streams == b.streams
            and same_loss
            and a.source_names == b.source_names
            and a.stream_names == b.stream_names
        )
        if not same:
            self._differences(one, two, same_ids=same_ids, same_batch=same_batch, same_loss=same_loss)
        if self._recent:
            self._follow()
        if result.partings:
            result.losses.add(one["step"], _number(one.get("loss")), _number(two.get("loss")))
        else:
            result.equal += 1
        state = _State.of(a)
        self._remembered.append((state, state if one is two and a.streams is b.streams else _State.of(b)))

    def _unknown(self, name: str, *, same: bool) -> bool:
        """Note what only one run recorded: nothing can be said of it, so it is taken as the same."""
        if not same:
            self.result.one_sided.add(name)
        return True

    def _differences(self, one: Event, two: Event, *, same_ids: bool, same_batch: bool, same_loss: bool) -> None:
        a, b, step = self.a, self.b, int(one["step"])
        if not same_ids:
            self._part(IDS, step, "step", one["ids"], two["ids"])
        if not same_batch:
            self._part(BATCH, step, "step", one["batch"], two["batch"])
        if not same_loss:
            self._part(LOSS, step, "step", str(one.get("loss")), str(two.get("loss")))
        if a.source_names == b.source_names:
            for name, x, y in zip(a.source_names, a.sources, b.sources, strict=True):
                if x != y:
                    self._part(name, step, "step", x, y)
        else:
            self._by_name(step, a.by_source(), b.by_source())
        if a.streams != b.streams or a.stream_names != b.stream_names:
            self._streams(step, "step", a.by_stream(), b.by_stream())

    def _by_name(self, step: int, a: _Digests, b: _Digests) -> None:
        for name in a.keys() | b.keys():
            if a.get(name) != b.get(name) and name in self.result.shared:
                self._part(name, step, "step", a.get(name), b.get(name))

    def _streams(self, step: int, at: str, a: _Digests, b: _Digests) -> None:
        for short in a.keys() | b.keys():
            name = f"{STREAM}{short}"
            if a.get(short) == b.get(short) or name not in self.result.shared:
                continue
            waiting = self._waiting.get(name)
            if waiting is None and not self._remembered and None in (self.a.first_sources, self.b.first_sources):
                waiting = self._waiting[name] = Parting(name, "stream", 0, "start", [(a.get(short), b.get(short))], [])
                continue
            if waiting is not None:
                if waiting.digests[0] == (a.get(short), b.get(short)):
                    continue
                self._drawn(name, step)
            self._part(name, step, at, a.get(short), b.get(short))

    def _drawn(self, name: str, step: int) -> None:
        """A stream that differs from the start is drawn from: it counts from here on, or from the start."""
        waiting = self._waiting.pop(name)
        if any(each.at == "start" for each in self.result.partings.values()):
            waiting.last = step
            self.result.partings[name] = waiting

    def _begin(self, step: int) -> None:
        """Compare the streams where passes began before this step."""
        for label, each in enumerate((self.a, self.b)):
            for streams in each.begun:
                for name, digest in streams.items():
                    self.result.starts[label].setdefault(f"{STREAM}{name}", []).append((step, digest))
        ends = self.a.by_stream(), self.b.by_stream()
        for streams, others in zip(self.a.begun, self.b.begun, strict=False):
            # A loader with workers draws its order where the pass begins, one without in the walk: once the step has
            # closed they agree again, and nothing parted.
            lasting = [name for name in streams.keys() & others.keys() if ends[0].get(name) != ends[1].get(name)]
            self._streams(step, "pass", *({name: each[name] for name in lasting} for each in (streams, others)))

    def _outcomes(self) -> None:
        others = {(each["step"], each["probe"]): each for each in self.b.outcomes}
        for one in self.a.outcomes:
            two = others.get((one["step"], one["probe"]))
            if two is not None and (one["values"], one["predictions"]) != (two["values"], two["predictions"]):
                name = f"{OUTCOME}.{one['probe']}" if one["probe"] else OUTCOME
                self._part(
                    name, one["step"], "step", *(f"{each['predictions']} {each['values']}" for each in (one, two))
                )

    def _part(self, name: str, step: int, at: str, a: str | None, b: str | None) -> None:
        known = self.result.partings.get(name)
        if known is not None:
            known.differs += known.last != step
            known.last = step
            return
        before = [(one.digest(name), two.digest(name)) for one, two in self._remembered]
        found = Parting(name, self.result.a.kind_of(name), step, at, [(a, b)], before, last=step)
        found.leaf = self._leaf(name) if at == "step" else None
        if found.kind in ("optimizer", "params"):
            found.schedule = tuple(filter(self._changes_now, self.a.source_names))
        self.result.partings[name] = found
        if found.kind not in ("loss", "outcome", "end"):
            self._recent.append(found)

    def _changes_now(self, name: str) -> bool:
        """Say whether a hyper-parameter changes in this step in both runs alike, and did not in the steps before."""
        if not name.startswith("hyper") or not self._remembered:
            return False
        earlier = {state.digest(name) for pair in self._remembered for state in pair}
        now = {_State.of(side).digest(name) for side in (self.a, self.b)}
        return len(earlier) == len(now) == 1 and not earlier & now

    def _leaf(self, name: str) -> str | None:
        one, two = (side.step.get("leaves", {}).get(name, {}) for side in (self.a, self.b))
        differing = (path for path in one.keys() | two.keys() if one.get(path) != two.get(path))
        first = min(differing, key=natural, default=None) if one and two else None
        return None if first is None else f"{name}/{first}"

    def _follow(self) -> None:
        one, two = _State.of(self.a), _State.of(self.b)
        for each in self._recent:
            # The step at which it parted has its digests already, but not where a pass began or at the start.
            if each.at != "step" or each.step != one.step:
                each.digests.append((one.digest(each.name), two.digest(each.name)))
        self._recent = [each for each in self._recent if len(each.digests) <= REMEMBERED]


class _State(NamedTuple):
    """One run's digests after a step."""

    step: int
    places: dict[str, int]
    """Where a source stands in ``sources``."""
    sources: list[str | None]
    stream_places: dict[str, int]
    streams: list[str | None]
    ids: str | None
    batch: str | None

    @classmethod
    def of(cls, side: Follower) -> _State:
        """Return the state that a run has now."""
        event = side.step
        return cls(
            event["step"],
            side.source_places,
            side.sources,
            side.stream_places,
            side.streams,
            event["ids"],
            event["batch"],
        )

    def digest(self, name: str) -> str | None:
        """Return the digest of a source, stream, the sample ids or the batch; None where there is none."""
        if name == IDS:
            return self.ids
        if name == BATCH:
            return self.batch
        if name.startswith(STREAM):
            place = self.stream_places.get(name.removeprefix(STREAM))
            return None if place is None else self.streams[place]
        place = self.places.get(name)
        return None if place is None else self.sources[place]


def _number(loss: Any) -> float:
    """Return a loss as a number; NaN without one. Numbers that are not finite are texts in the trace."""
    if isinstance(loss, str):
        return {"Infinity": float("inf"), "-Infinity": float("-inf")}.get(loss, float("nan"))
    return float("nan") if loss is None else float(loss)
