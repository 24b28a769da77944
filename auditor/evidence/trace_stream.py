"""A trace read once, line by line, in flat memory: for those who use what it says and leave the verdict to verify.

The chain is followed, so a line that was changed is noticed. Every event but steps goes through the schema; of a step,
nearly every line, only the types of its members are looked at: a few microseconds instead of forty.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from auditor.artifact.canonical import MAX_SAFE_INTEGER
from auditor.artifact.run_directory import TRACE
from auditor.artifact.trace import GENESIS
from auditor.evidence.trace_reader import EVENTS, MAX_LINE_BYTES, Problem, lines, validator_of

Event = dict[str, Any]
_STEP = frozenset({"event", "seq", "prev", "step", "pass", "position", "ids", "batch", "sources", "streams"})
_SOMETIMES = frozenset({"loss", "also", "by_hand"})
_TEXT = frozenset({str, type(None)})
_LOSS = frozenset({int, float, str})
_PREV = re.compile(rb',"prev":"([0-9a-f]{64})","seq":')
"""Where a plain step has the hash: quotes inside of texts are escaped, and no member of it holds anything like this."""


@dataclass
class LastStep:
    """The last step that was parsed, for two streams that are read side by side: equal lines are parsed once."""

    content: bytes = b""
    """Its line without the hash of the line before it."""
    event: Event = field(default_factory=dict)


class TraceStream:
    """The events of a trace, one after the other, up to the first defect.

    Once it has been gone through, ``problem`` says what that was (None where the trace ends well), ``cut_short``
    whether the last line lacks its newline, ``head`` is the SHA-256 of the last whole line read.
    """

    def __init__(self, data: memoryview | bytes, last_step: LastStep | None = None) -> None:
        self._data = memoryview(data)
        self._last_step = last_step or LastStep()
        self.problem: Problem | None = None
        self.cut_short = False
        self.head = GENESIS

    def __iter__(self) -> Iterator[Event]:
        self.problem, self.cut_short, self.head = None, False, GENESIS
        sha256 = hashlib.sha256
        for number, (line, whole) in enumerate(lines(self._data)):
            if not whole:
                self.cut_short = True
                return
            event, previous = self._parsed(line)
            if isinstance(event, str):
                self._stop("line", number, event)
                return
            if event["seq"] != number or previous != self.head:
                self._stop("chain", number, "does not follow from the line before it")
                return
            self.head = sha256(line).hexdigest()
            yield event

    def _parsed(self, line: bytes) -> tuple[Event | str, str]:
        """Return the event of a line, or what is wrong with it; and its ``prev``, which a shared event may not have."""
        last = self._last_step
        found = _PREV.search(line)
        content = b"" if found is None else line[: found.start(1)] + line[found.end(1) :]
        if found is not None and content == last.content:
            return last.event, found[1].decode()
        event = usable_event(line)
        if isinstance(event, str):
            return event, ""
        if found is not None and event["event"] == "step" and event.keys() - _SOMETIMES == _STEP:
            last.content, last.event = content, event
        return event, event["prev"]

    def _stop(self, kind: str, number: int, what: str) -> None:
        self.problem = Problem(kind, number, f"line {number + 1} of {TRACE} {what}")


def usable_event(line: bytes) -> Event | str:
    """Return the event that one line holds, or what keeps it from being one."""
    try:
        # Longer lines are refused by the trace reader too; orjson is not asked to look at them.
        event = orjson.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except orjson.JSONDecodeError:
        event = None
    if type(event) is not dict or event.get("event") not in EVENTS:
        return "is no event this version knows"
    if event["event"] == "step" and event.keys() - _SOMETIMES == _STEP:
        return event if _is_usable_step(event) else "breaks the format of step"
    error = next(iter(validator_of(event["event"]).iter_errors(event)), None)
    return event if error is None else f"breaks the format of {event['event']}: {error.message[:200]}"


def _is_usable_step(event: Event) -> bool:
    """Say whether the members of a step event have the types that its readers count on."""
    return (
        type(event["seq"]) is int
        and type(event["prev"]) is str
        and _is_count(event["step"])
        and (event["pass"] is None or _is_count(event["pass"]))
        and (event["position"] is None or _is_count(event["position"]))
        and {type(event["ids"]), type(event["batch"])} <= _TEXT
        and type(event["sources"]) is list
        and type(event["streams"]) is list
        and set(map(type, event["sources"])) <= _TEXT
        and set(map(type, event["streams"])) <= _TEXT
        and type(event.get("loss", 0.0)) in _LOSS
        and _is_count(event.get("by_hand", 1))
        and ("also" not in event or (type(event["also"]) is list and all(_is_pair(each) for each in event["also"])))
    )


def _is_pair(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_is_count, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SAFE_INTEGER
