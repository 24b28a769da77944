"""A trace read as a stream: what the careful reader says of well-formed traces, and no traceback over the rest."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.trace import GENESIS
from auditor.evidence.trace_reader import read_trace
from auditor.evidence.trace_stream import LastStep, TraceStream, usable_event
from tests.support.build_pair import Script
from tests.support.build_run import RunBuilder

Event = dict[str, Any]
DIGEST = "A" * 22


def canonical(event: Event) -> bytes:
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def step_event(number: int, **members: Any) -> Event:
    plain = {"pass": None, "position": None, "ids": None, "batch": DIGEST, "sources": [DIGEST], "streams": [None]}
    return {"event": "step", "step": number, **plain, **members}


def chained(events: list[Event], write: Callable[[Event], bytes] = canonical) -> bytes:
    head, lines = GENESIS, []
    for seq, event in enumerate(events):
        lines.append(write({"prev": head, "seq": seq, **event}) + b"\n")
        head = hashlib.sha256(lines[-1]).hexdigest()
    return b"".join(lines)


def told(stream: TraceStream) -> tuple[list[Event], str | None, int | None, bool, str]:
    """Everything that one reading says; of a problem its kind and line."""
    events = list(stream)
    problem = stream.problem
    kind, line = (None, None) if problem is None else (problem.kind, problem.line)
    return events, kind, line, stream.cut_short, stream.head


def without_prev(events: list[Event]) -> list[Event]:
    return [{name: value for name, value in event.items() if name != "prev"} for event in events]


DIGESTS = st.none() | st.sampled_from([DIGEST, "B" * 21 + "A"])
COUNTS = st.integers(1, 2**53 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity", "-Infinity"])
STEPS = st.fixed_dictionaries(
    {
        "step": COUNTS,
        "pass": st.none() | COUNTS,
        "position": st.none() | COUNTS,
        "ids": DIGESTS,
        "batch": DIGESTS,
        "sources": st.lists(DIGESTS, max_size=3),
        "streams": st.lists(DIGESTS, max_size=3),
    },
    optional={
        "loss": NUMBERS,
        "also": st.lists(st.lists(COUNTS, min_size=2, max_size=2), min_size=1, max_size=2),
        "by_hand": COUNTS,
        "leaves": st.dictionaries(
            st.text(max_size=5), st.dictionaries(st.text(max_size=5), st.just(DIGEST), max_size=2), max_size=2
        ),
    },
).map(lambda members: {"event": "step", **members})
OUTCOMES = st.fixed_dictionaries(
    {
        "event": st.just("outcome"),
        "step": COUNTS,
        "probe": st.text(max_size=20),
        "values": st.dictionaries(st.text(max_size=20), NUMBERS, max_size=2),
        "predictions": DIGESTS,
    }
)
ENDS = st.fixed_dictionaries(
    {"event": st.just("end"), "status": st.just("failed"), "steps": COUNTS, "error": st.text(max_size=30)}
)
EVENTS = st.lists(STEPS | OUTCOMES | ENDS, max_size=6)


@given(EVENTS)
def test_the_stream_agrees_with_the_reader_on_well_formed_traces(events: list[Event]) -> None:
    data = chained(events)
    reading = read_trace(data)
    assert reading.problems == []
    found, kind, _, cut_short, head = told(TraceStream(data))
    assert (found, kind, cut_short, head) == (reading.events, None, False, reading.head)


def test_the_stream_agrees_with_the_reader_on_a_whole_run(tmp_path: Path) -> None:
    data = (RunBuilder(tmp_path / "run").build() / "trace.jsonl").read_bytes()
    reading = read_trace(data)
    stream = TraceStream(memoryview(data))
    assert (list(stream), stream.head) == (reading.events, reading.head)
    assert list(stream) == reading.events, "a stream can be gone through again"


@given(EVENTS, st.data())
def test_a_trace_cut_anywhere_tells_its_whole_lines(events: list[Event], data: st.DataObject) -> None:
    whole = chained(events)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    reading = read_trace(cut)
    found, kind, _, cut_short, head = told(TraceStream(cut))
    assert (found, kind, head) == (reading.events, None, reading.head)
    assert cut_short == (reading.cut_short is not None)


@settings(max_examples=300)
@given(st.lists(STEPS, min_size=3, max_size=4), st.data())
def test_a_changed_byte_is_noticed_at_its_line_or_the_next(events: list[Event], data: st.DataObject) -> None:
    whole = bytearray(chained(events))
    at = data.draw(st.integers(0, len(whole) - 1))
    line = whole[:at].count(b"\n")
    whole[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    stream = TraceStream(bytes(whole))
    found = list(stream)
    assert stream.problem is not None or stream.cut_short or line == len(events) - 1
    if stream.problem is not None:
        assert stream.problem.line in (line, line + 1)
        assert len(found) == stream.problem.line


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_events_or_a_problem(data: bytes, newline: bool) -> None:
    stream = TraceStream(data + (b"\n" if newline else b""))
    for event in stream:
        assert event["event"]
    assert stream.problem is None or stream.problem.where.startswith("trace.jsonl#/")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(
    [
        "event",
        "step",
        "seq",
        "prev",
        "pass",
        "position",
        "ids",
        "batch",
        "sources",
        "streams",
        "loss",
        "also",
        "by_hand",
    ]
)


@settings(max_examples=300)
@given(st.dictionaries(MEMBERS, JSON, min_size=1, max_size=3))
def test_members_of_any_type_are_a_problem_or_what_readers_count_on(members: Event) -> None:
    line = json.dumps({**step_event(1), "seq": 0, "prev": GENESIS, **members}).encode()
    event = usable_event(line)
    if isinstance(event, str) or event["event"] != "step":
        return
    assert type(event["step"]) is int
    assert all(each is None or type(each) is str for each in [event["ids"], event["batch"], *event["sources"]])
    assert all(each is None or type(each) is int for each in [event["pass"], event["position"]])
    float(event["step"])


@pytest.mark.parametrize(
    "members",
    [
        {"step": True},
        {"step": 1.0},
        {"step": "1"},
        {"step": None},
        {"step": 2**64},
        {"seq": 0.0},
        {"seq": False},
        {"pass": 1.5},
        {"pass": True},
        {"position": "1"},
        {"ids": 1},
        {"batch": []},
        {"sources": None},
        {"sources": [1]},
        {"sources": {}},
        {"streams": "A"},
        {"streams": [["A"]]},
        {"loss": None},
        {"loss": True},
        {"loss": []},
        {"also": {}},
        {"also": [[1]]},
        {"also": [[1, True]]},
        {"also": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_step_of_odd_types_is_refused(members: Event) -> None:
    stream = TraceStream(chained([step_event(1, **members)]))
    assert list(stream) == []
    assert stream.problem is not None
    assert stream.problem.kind == "line"


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", 1e308, -0.0, 5e-324, 3, 2**63, 2**64])
def test_a_loss_may_be_any_number_or_the_name_of_one(loss: object) -> None:
    stream = TraceStream(chained([step_event(1, loss=loss)]))
    assert [event["loss"] for event in stream] == [loss]
    assert stream.problem is None


def test_a_number_beyond_a_double_is_refused() -> None:
    stream = TraceStream(chained([step_event(1)]).replace(b'"step":1', b'"step":1' + b"0" * 400))
    assert list(stream) == []
    assert stream.problem is not None


@pytest.mark.parametrize("member", ["step", "pass", "position"])
@pytest.mark.parametrize("number", [2**53, 2**63, 2**64 - 1, -(2**63)])
def test_a_count_that_canonical_json_has_no_form_for_is_refused(member: str, number: int) -> None:
    """Counts of 64 bits overflowed the walk's arrays: a traceback for a file that anybody can write."""
    stream = TraceStream(chained([step_event(1, **{member: number})]))
    assert list(stream) == []
    assert stream.problem is not None


def test_by_hand_that_is_no_count_is_refused() -> None:
    stream = TraceStream(chained([step_event(1, by_hand={"event": "census"})]))
    assert list(stream) == []
    assert stream.problem is not None


def test_a_tensor_called_prev_is_no_break_of_the_chain() -> None:
    """Per-tensor digests stand before ``prev`` in a line; a parameter may have that name."""
    data = chained([step_event(1, leaves={"params": {"prev": DIGEST}}), step_event(2)])
    assert read_trace(data).problems == []
    stream = TraceStream(data)
    assert [event["step"] for event in stream] == [1, 2]
    assert stream.problem is None


@pytest.mark.parametrize("text", ['"prev":"', '\\"prev\\":\\"', '","prev":"' + "0" * 64 + '","seq":0'])
def test_a_text_that_looks_like_prev_is_none(text: str) -> None:
    outcome = {"event": "outcome", "step": 1, "probe": text, "values": {text: 1.0}, "predictions": None}
    end = {"event": "end", "status": "failed", "steps": 1, "error": text}
    for events in ([outcome, end], [end, outcome], [step_event(1, leaves={text: {text: DIGEST}}), end]):
        data = chained(events)
        assert told(TraceStream(data))[:2] == (read_trace(data).events, None)


def test_a_wrong_number_and_a_wrong_hash_are_breaks_of_the_chain() -> None:
    for members in ({"seq": 2}, {"prev": "1" * 64}, {"prev": ""}, {"prev": "0" * 63}, {"prev": "0" * 65}):
        stream = TraceStream(chained([step_event(1), step_event(2, **members)]))
        assert [event["step"] for event in stream] == [1]
        assert stream.problem is not None
        assert (stream.problem.kind, stream.problem.line) == ("chain", 1)


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trace_reader", "trace_stream"):
        monkeypatch.setattr(f"auditor.evidence.{module}.MAX_LINE_BYTES", 100)
    stream = TraceStream(b'{"a":"' + b"x" * (3 << 20))
    assert list(stream) == []
    assert stream.problem is not None


# Two traces beside one another.


def together(one: bytes, two: bytes) -> tuple[Any, Any]:
    """What two streams say that share their last step, read in turns as the walk does."""
    last = LastStep()
    streams = TraceStream(one, last), TraceStream(two, last)
    events: tuple[list[Event], list[Event]] = ([], [])
    pending = [(iter(stream), found) for stream, found in zip(streams, events, strict=True)]
    while pending:
        still = []
        for iterator, found in pending:
            event = next(iterator, None)
            if event is not None:
                found.append(dict(event))
                still.append((iterator, found))
        pending = still
    answers = []
    for stream, found in zip(streams, events, strict=True):
        problem = stream.problem
        kind, line = (None, None) if problem is None else (problem.kind, problem.line)
        answers.append((without_prev(found), kind, line, stream.cut_short, stream.head))
    return answers[0], answers[1]


def apart(data: bytes) -> Any:
    events, *rest = told(TraceStream(data))
    return (without_prev(events), *rest)


@settings(max_examples=200)
@given(st.lists(STEPS | OUTCOMES, max_size=5), st.lists(STEPS | OUTCOMES, max_size=5), st.integers(0, 5))
def test_two_streams_say_together_what_they_say_apart(one: list[Event], two: list[Event], common: int) -> None:
    first, second = chained(one), chained(one[:common] + two)
    assert together(first, second) == (apart(first), apart(second))
    assert together(first, first) == (apart(first), apart(first))


def without_kind(answers: tuple[Any, Any]) -> list[Any]:
    return [(events, *rest) for events, _, *rest in answers]


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=1, max_size=4), st.data())
def test_a_changed_byte_is_noticed_beside_the_honest_trace(events: list[Event], data: st.DataObject) -> None:
    honest = chained(events)
    changed = bytearray(honest)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    expected = apart(honest), apart(bytes(changed))
    # A hash made unreadable is a broken line to one that parses it, and a broken chain to one that need not.
    assert without_kind(together(honest, bytes(changed))) == without_kind(expected)
    assert without_kind(together(bytes(changed), honest)) == without_kind(expected[::-1])


def test_an_equal_text_with_another_prev_is_parsed_once_and_checked_twice() -> None:
    one = chained([{"event": "end", "status": "completed", "steps": 1}, step_event(1)])
    two = chained([{"event": "end", "status": "failed", "steps": 1}, step_event(1)])
    assert together(one, two) == (apart(one), apart(two))
    assert together(one, two)[1][1] is None
    forged = two.splitlines(keepends=True)[0] + one.splitlines(keepends=True)[1]
    assert together(one, forged)[1][1:3] == ("chain", 1)


def test_a_line_that_only_its_neighbour_makes_readable_is_refused() -> None:
    """With the hash put elsewhere the line is no JSON, and what is left of it is the text of a line that is."""
    honest = chained(
        [step_event(1)], lambda event: json.dumps({"prev": event["prev"], **event}, separators=(",", ":")).encode()
    )
    assert honest.startswith(b'{"prev":"' + GENESIS.encode())
    forged = b'{"prev"' + GENESIS.encode() + b':"' + honest[9 + 64 :]
    assert apart(forged)[1] == "line"
    assert together(honest, forged) == (apart(honest), apart(forged))


def test_a_run_whose_source_is_named_like_a_member_is_read(tmp_path: Path) -> None:
    def act(run: Script) -> None:
        run.anchor_now("start")
        for number in range(3):
            run.go({"prev": number, '"prev":"': number})

    kinds = {"params": "params", "prev": "other", '"prev":"': "other"}
    data = (Script(tmp_path / "run", act, sources=kinds).build() / "trace.jsonl").read_bytes()
    assert read_trace(data).problems == []
    assert apart(data)[1] is None
