"""Where two magnified executions part: the first batch, module call, gradient or piece of state that differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from auditor.compare.causal_order import IDS, kind_by_name, rank
from auditor.errors import InconclusiveError
from auditor.replay.magnified import Account, Line

_MOVED_BY_UPDATES = frozenset({"hyper", "optimizer", "params"})
"""The kinds that nothing but an update and the program's own hand changes: no module does while it runs."""

Phase = Literal["between steps", "batch", "forward", "backward", "update"]
_Key = tuple[str, int]
"""A call: the module's path, and which of its calls in the step."""


@dataclass(frozen=True)
class Place:
    """What parted first."""

    step: int
    phase: Phase
    module: str | None = None
    """The module whose own computation parted: its watched name and its path (``model.layer2.conv1``)."""
    call: int | None = None
    """Which of its calls in that step, from 1."""
    tensor: str | None = None
    """``SOURCE/PATH``, ``gradients/PARAMETER`` or ``batch/PATH``."""
    chunk: int | None = None
    """Which mebibyte of that tensor parts first, from 0; None where it has only one, or its shape differs."""
    source: str | None = None
    """The memory source, ``stream.NAME``, ``order``, ``batch`` or ``gradients``; None in ``forward``."""

    def to_json(self) -> dict[str, Any]:
        """Return its members, none left out."""
        return asdict(self)


def first_difference(one: Path, two: Path) -> tuple[Place | None, list[str]]:
    """Return what parts first in two ``magnified.jsonl``, and what is to be said of it; None if nothing does.

    Both begin after the same step. Within a step batches are compared first, then the rest in the order it happened.

    Raises
    ------
    InconclusiveError
        If a file is not what the format says, or the two do not begin after the same step.
    """
    first, second = Account(one), Account(two)
    if first.begins != second.begins:
        raise InconclusiveError("two executions do not begin after the same step", where=f"{one}, {two}")
    place, notes = _compare(first, second)
    hidden = sorted(first.compiled | second.compiled)
    if hidden:
        notes.append(f"torch.compile ran {', '.join(hidden)}: the modules inside were not seen")
    return place, notes


def _compare(first: Account, second: Account) -> tuple[Place | None, list[str]]:
    for one, two in zip_longest(first.steps(), second.steps()):
        if one is None or two is None:
            return None, ["one execution ended before the other, and until then nothing parts"]
        found = _in_step(one, two)
        if found is not None:
            # Read to the end: what could not be seen stands there.
            for rest in (first, second):
                rest.finish()
            return found
    return None, []


# One step.


def _in_step(one: list[Line], two: list[Line]) -> tuple[Place, list[str]] | None:
    step = int(one[0]["step"])
    if one[0].get("moment") == two[0].get("moment") == "entry":
        found = _state(step, one[0], two[0], called=False, seen=set())
        if found is not None:
            return found
    batches = [[line for line in lines if line["event"] == "batch"] for lines in (one, two)]
    for before, after in zip_longest(*batches):
        if before is None or after is None:
            return Place(step, "batch", source=IDS), ["one of the two drew more batches in this step"]
        place = _batch(step, before, after)
        if place is not None:
            return place, []
    rest = [[line for line in lines if line["event"] != "batch"] for lines in (one, two)]
    calls, seen = _Calls(*rest), set[str]()
    for index, (before, after) in enumerate(zip_longest(*rest)):
        if before is None or after is None or _about(before) != _about(after):
            return _other_path(step, rest[0][index:], rest[1][index:])
        match before["event"]:
            case "state":
                found = _state(step, before, after, called=calls.begun, seen=seen)
                seen |= before["sources"].keys() if before["moment"] != "entry" else set()
            case "call" | "answer":
                found = calls.compare(step, before, after)
            case "gradients":
                found = _gradients(step, before, after)
            case _:
                found = None
        if found is not None:
            return found
    return None


def _batch(step: int, one: Line, two: Line) -> Place | None:
    if one["ids"] != two["ids"]:
        return Place(step, "batch", source=IDS)
    if one["digest"] == two["digest"]:
        return None
    path, chunk = _first_leaf(one, two)
    tensor = None if path is None else f"batch/{path}" if path else "batch"
    return Place(step, "batch", tensor=tensor, chunk=chunk, source="batch")


def _state(step: int, one: Line, two: Line, *, called: bool, seen: set[str]) -> tuple[Place, list[str]] | None:
    moment = one["moment"]
    entry = ["the two executions begin with different state"] if moment == "entry" else []
    streams = [dict(line["streams"]) for line in (one, two)]
    for name in sorted(streams[0].keys() & streams[1].keys()):
        if streams[0][name] != streams[1][name]:
            phase = _phase(moment, "stream", called=called)
            return Place(step, phase, source=f"stream.{name}"), entry or _after_a_call(f"stream.{name}", phase)
    sources = [line["sources"] for line in (one, two)]
    parted = [
        name
        for name in dict.fromkeys((*sources[0], *sources[1]))
        if sources[0].get(name, {}).get("digest") != sources[1].get(name, {}).get("digest")
    ]
    if not parted:
        return None
    name = min(parted, key=lambda each: rank(kind_by_name(each)))
    path, chunk = _first_leaf(*(source.get(name, {"leaves": [], "chunks": {}}) for source in sources))
    place = Place(
        step,
        _phase(moment, kind_by_name(name), called=called),
        tensor=None if path is None else f"{name}/{path}",
        chunk=chunk,
        source=name,
    )
    notes = entry or _after_a_call(name, place.phase)
    if moment == "end":
        notes.append(
            f"{name} parts after the optimizer's last update, before the end of the step"
            if name in seen
            else f"{name} is read where a step ends: when in this step it parts is not known"
        )
    elif moment == "before update" and kind_by_name(name) in _MOVED_BY_UPDATES:
        notes.append(f"{name} was changed inside the loop's body, before the optimizer's update")
    return place, notes


def _after_a_call(name: str, phase: Phase) -> list[str]:
    return [f"{name} parts after the first call of a module in this step; no call's answer does"] * (phase == "forward")


def _phase(moment: str, kind: str, *, called: bool) -> Phase:
    """Return where in a step state was changed that parts at a moment and not before it."""
    if moment in ("after update", "end"):
        return "update"
    if kind in _MOVED_BY_UPDATES or not called or moment == "entry":
        return "between steps"
    return "forward"


class _Calls:
    """The calls of one step in both executions."""

    def __init__(self, one: list[Line], two: list[Line]) -> None:
        self.begun = False
        """Whether a module was called."""
        self._inside: dict[_Key, _Key | None] = {}
        self._keywords = [
            {_key(line): line["keywords"] for line in lines if line["event"] == "answer"} for lines in (one, two)
        ]

    def compare(self, step: int, one: Line, two: Line) -> tuple[Place, list[str]] | None:
        """Return which module parts, if a call's inputs or its answer do."""
        self.begun = True
        key = _key(one)
        if one["event"] == "call":
            self._inside[key] = None if one["inside"] is None else (one["inside"][0], one["inside"][1])
            members = ["inputs"]
        else:
            members = ["keywords", "outputs"]
        if all(one[name] == two[name] for name in members):
            return None
        # Keyword arguments are written where a call ends: those of the calls around this one stand further down.
        around = [each for each in self._around(key) if self._keywords[0].get(each) != self._keywords[1].get(each)]
        given = around[-1] if around else key if one["event"] == "call" else None
        if given is None:
            return Place(step, "forward", module=key[0], call=key[1]), []
        outer = self._inside.get(given)
        if outer is None:
            note = f"already the inputs of {given[0]} differ: the program computed them differently from equal batches"
            return Place(step, "forward", module=given[0], call=given[1]), [note]
        note = f"the inputs of {given[0]} differ, nothing before does: {outer[0]} computed them in its own forward"
        return Place(step, "forward", module=outer[0], call=outer[1]), [note]

    def _around(self, key: _Key) -> Iterator[_Key]:
        """Yield a call and those it lies in, the outermost last."""
        seen: set[_Key] = set()
        at: _Key | None = key
        while at is not None and at not in seen:
            seen.add(at)
            yield at
            at = self._inside.get(at)


def _key(line: Line) -> _Key:
    return line["module"], line["call"]


def _gradients(step: int, one: Line, two: Line) -> tuple[Place, list[str]] | None:
    pairs = [dict(line["leaves"]) for line in (one, two)]
    names = list(dict.fromkeys((*pairs[0], *pairs[1])))
    parted = [name for name in names if pairs[0].get(name) != pairs[1].get(name)]
    if not parted:
        return None
    # The last one: gradients are computed from the outputs back, and parameters are listed from the inputs on.
    name = parted[-1]
    chunk = _first_chunk(one["chunks"].get(name), two["chunks"].get(name))
    notes = [f"{len(parted)} of {len(names)} gradients differ just before the update, every module's outputs are equal"]
    return Place(step, "backward", tensor=f"gradients/{name}", chunk=chunk, source="gradients"), notes


def _other_path(step: int, one: list[Line], two: list[Line]) -> tuple[Place, list[str]]:
    """Return where one execution goes on with something else than the other; the lists begin there."""
    told = f"here the two do different things: A {_words(one)} and B {_words(two)}"
    # Whoever comes to the other's next line sooner does something more before it.
    phases: list[Phase] = ["forward", "backward", "update"]
    found = min(
        (
            (_until(other, lines), phases.index(_does(lines[0])), lines[0])
            for lines, other in ((one, two), (two, one))
            if lines
        ),
        key=lambda each: each[:2],
    )[2]
    module, call = (found["module"], found["call"]) if found["event"] in ("call", "answer") else (None, None)
    if found["event"] == "state" and found["moment"] == "before call":
        module = found["of"]
    return Place(step, _does(found), module=module, call=call), [told]


def _until(lines: list[Line], others: list[Line]) -> float:
    """Return after how many lines ``others`` comes to what ``lines`` begins with; infinitely many if never."""
    if not lines:
        return 0
    return next((index for index, line in enumerate(others) if _about(line) == _about(lines[0])), math.inf)


def _does(line: Line) -> Phase:
    if line["event"] in ("call", "answer") or line.get("moment") == "before call":
        return "forward"
    return "backward" if line["event"] == "gradients" else "update"


def _words(lines: list[Line]) -> str:
    """Say what an execution does next."""
    if not lines or lines[0].get("moment") == "end":
        return "has ended the step"
    line = lines[0]
    if line["event"] == "call":
        return f"calls {line['module']}"
    if line["event"] == "answer":
        return f"comes back from {line['module']}"
    if line.get("moment") == "before call":
        return f"calls {line['of']}"
    optimizer = line["of"] or "an optimizer that is not watched"
    return f"comes {'back from' if line.get('moment') == 'after update' else 'to'} an update of {optimizer}"


def _about(line: Line) -> tuple[Any, ...]:
    """Return what a line is about, without what it found."""
    return tuple(line.get(name) for name in ("event", "moment", "of", "module", "call"))


# One source.


def _first_leaf(one: Line, two: Line) -> tuple[str | None, int | None]:
    """Return the path of the first tensor that differs or is in one only, and the chunk; None if none does."""
    leaves = [dict(entry["leaves"] or ()) for entry in (one, two)]
    for path in dict.fromkeys((*leaves[0], *leaves[1])):
        if leaves[0].get(path) != leaves[1].get(path):
            return path, _first_chunk(one["chunks"].get(path), two["chunks"].get(path))
    return None, None


def _first_chunk(one: Iterable[str] | None, two: Iterable[str] | None) -> int | None:
    pairs = enumerate(zip(one or (), two or (), strict=False))
    return next((index for index, (before, after) in pairs if before != after), None)
