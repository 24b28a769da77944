"""Reading a trace that nobody has to trust: form, chain and schema of every line; nothing is lost before a defect."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from auditor.artifact import strict_json
from auditor.artifact.resources import schema
from auditor.artifact.run_directory import TRACE
from auditor.artifact.trace import GENESIS

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_LINE_BYTES = 64 << 20
MAX_PROBLEMS = 100
"""Past this many the trace is broken beyond use, and more lines say nothing new."""

EVENTS = (
    "start",
    "census",
    "iter",
    "step",
    "pass",
    "anchor",
    "stored",
    "dropped",
    "outcome",
    "seal",
    "resume",
    "end",
)


@dataclass(frozen=True)
class Problem:
    """One defect of a trace."""

    kind: str
    """``chain`` or ``line``."""
    line: int
    """From 0, as ``seq`` counts."""
    message: str
    pointer: str = ""
    expected: str | None = None
    found: str | None = None

    @property
    def where(self) -> str:
        """The place, as findings name it."""
        return f"{TRACE}#/{self.line}{self.pointer}"


@dataclass
class TraceReading:
    """What a trace says, and what is wrong with it."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """The events whose lines are well-formed, in order."""
    problems: list[Problem] = field(default_factory=list)
    cut_short: int | None = None
    """The number of the last line if it lacks its newline, else None."""
    head: str = GENESIS
    """SHA-256 of the last whole line, newline included."""
    lines: int = 0
    """Whole lines."""

    @property
    def end(self) -> dict[str, Any] | None:
        """The ``end`` event, if the trace has one and nothing comes after it."""
        last = self.events[-1] if self.events else None
        return last if last is not None and last["event"] == "end" else None

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one kind, in order."""
        return [each for each in self.events if each["event"] == event]


def read_trace(data: memoryview | bytes) -> TraceReading:
    """Return everything a trace's bytes say; defects are listed, not raised."""
    reading = TraceReading()
    for number, (line, whole) in enumerate(lines(memoryview(data))):
        if not whole:
            reading.cut_short = number
            break
        if len(reading.problems) >= MAX_PROBLEMS:
            reading.problems.append(Problem("line", number, "too many broken lines; the rest was not read"))
            break
        _read_line(reading, number, line)
    return reading


def lines(view: memoryview) -> Iterator[tuple[bytes, bool]]:
    """Yield each line with its newline, and whether it has one."""
    # find() needs an object that memoryview is not; blocks keep memory small for traces of many gigabytes.
    block, rest, offset = 1 << 20, b"", 0
    while offset < len(view):
        chunk = rest + bytes(view[offset : offset + block])
        offset += block
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            yield piece + b"\n", True
        rest = pieces[-1]
        if len(rest) > MAX_LINE_BYTES:
            yield rest, True  # refused for its size where it is read; what follows cannot be told apart from it
            return
    if rest:
        yield rest, False


def _read_line(reading: TraceReading, number: int, line: bytes) -> None:
    previous, reading.head = reading.head, hashlib.sha256(line).hexdigest()
    reading.lines += 1
    name = f"line {number + 1} of {TRACE}"
    try:
        event = strict_json.parse_canonical(line, name, max_bytes=MAX_LINE_BYTES)
    except strict_json.StrictJsonError as error:
        why = f" ({error.why})" if error.why else ""
        reading.problems.append(Problem("line", number, f"{name}: {error.what}{why}"))
        return
    if not isinstance(event, dict) or event.get("event") not in EVENTS:
        reading.problems.append(Problem("line", number, f"{name} is no event this version knows", "/event"))
        return
    if event.get("seq") != number or isinstance(event.get("seq"), bool):
        reading.problems.append(
            Problem("chain", number, f"{name} is numbered wrongly", "/seq", str(number), str(event.get("seq"))[:40])
        )
    if event.get("prev") != previous:
        reading.problems.append(
            Problem(
                "chain",
                number,
                f"{name} does not follow from the line before it",
                "/prev",
                str(event.get("prev"))[:64],
                previous,
            )
        )
    error_found = None if _is_plain_step(event) else next(iter(validator_of(event["event"]).iter_errors(event)), None)
    if error_found is not None:
        pointer = "".join(f"/{part}" for part in error_found.absolute_path)
        message = error_found.message[:200]
        reading.problems.append(
            Problem("line", number, f"{name} breaks the format of {event['event']}: {message}", pointer)
        )
        return
    if event["event"] == "seal" and event["head"] != event["prev"]:
        reading.problems.append(
            Problem("chain", number, f"{name} seals another line", "/head", event["head"], event["prev"])
        )
    reading.events.append(event)


_DIGEST = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_HASH = re.compile(r"[0-9a-f]{64}")
_PLAIN_STEP = {"event", "seq", "prev", "step", "pass", "position", "ids", "batch", "sources", "streams"}


def _is_plain_step(event: dict[str, Any]) -> bool:
    """Say whether an event is a step whose members fit the schema, for the many that do.

    A step is nearly every line, and the schema takes 0.4 ms for one; this takes a tenth. Whatever is not accepted
    here goes to the schema, so this may only be stricter.
    """
    members = set(event)
    if event["event"] != "step" or members - {"loss", "also", "by_hand"} != _PLAIN_STEP:
        return False
    loss, also = event.get("loss", 0.0), event.get("also", [[1, 0]])
    return (
        _is_count(event["step"], 1)
        and (event["pass"] is None or _is_count(event["pass"], 1))
        and (event["position"] is None or _is_count(event["position"], 0))
        and type(loss) in (int, float)
        and _is_count(event.get("by_hand", 1), 1)
        and type(also) is list
        and bool(also)
        and all(
            type(each) is list and len(each) == 2 and _is_count(each[0], 1) and _is_count(each[1], 0) for each in also
        )
        and type(event["prev"]) is str
        and _HASH.fullmatch(event["prev"]) is not None
        and _is_count(event["seq"], 0)
        and type(event["sources"]) is list
        and type(event["streams"]) is list
        and all(
            digest is None or (type(digest) is str and _DIGEST.fullmatch(digest) is not None)
            for digest in (event["ids"], event["batch"], *event["sources"], *event["streams"])
        )
    )


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


@cache
def validator_of(event: str) -> Validator:
    """Return the validator of one kind of event: its own part of the schema, for speed and for plain messages."""
    from jsonschema import Draft202012Validator

    whole = schema("trace-event")
    return Draft202012Validator({"$schema": whole["$schema"], "$ref": f"#/$defs/{event}", "$defs": whole["$defs"]})
