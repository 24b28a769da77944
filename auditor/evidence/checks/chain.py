"""The trace: its chain, its lines, the order of its events, its end, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from auditor.artifact.run_directory import MANIFEST, TRACE
from auditor.evidence.examination import RUN, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield the defects of the trace, whether the run ended, and what the signed statement says otherwise."""
    if examined.kind != RUN:
        return
    if TRACE not in examined.inventory:
        yield SEQUENCE.finding(TRACE, "there is no trace", evidence=Evidence.MISSING)
        return
    trace = examined.trace
    for problem in trace.problems:
        rule = CHAIN if problem.kind == "chain" else LINE
        yield rule.finding(problem.where, problem.message, expected=problem.expected, found=problem.found)
    if not trace.problems and trace.lines:
        yield Claim(
            "the trace is one unbroken chain",
            Evidence.PROVED,
            TRACE,
            f"{count(trace.lines, 'line')}, each holding the SHA-256 of the line before it",
        )
    yield from _ending(examined)
    if not trace.problems:
        yield from _sequence(trace.events)
    if examined.manifest is not None and examined.manifest_error is None:
        yield from _against_manifest(examined)


def _ending(examined: Examination) -> Iterator[Finding | Claim]:
    trace = examined.trace
    unsigned = MANIFEST not in examined.inventory
    steps = sum(1 for event in trace.events if event["event"] == "step")
    if trace.cut_short is not None:
        yield CUT_SHORT.finding(
            f"{TRACE}#/{trace.cut_short}",
            f"the last line, line {trace.cut_short + 1}, is cut short; the "
            f"{count(trace.lines, 'line')} before it can be read",
            evidence=Evidence.INCONCLUSIVE if unsigned else Evidence.CONTRADICTED,
        )
    if trace.problems:
        return
    if trace.end is None or unsigned:
        what = "has no end event" if trace.end is None else "has no manifest"
        yield UNFINISHED.finding(
            TRACE if trace.end is None else MANIFEST,
            f"the run is unfinished: it {what}; {count(steps, 'step')} can be read",
            hint="memaudit rule MA808",
        )
        return
    status = trace.end["status"]
    message = f"{status} after {count(trace.end['steps'], 'step')}"
    if status == "failed":
        message += f": {trace.end.get('error', 'no reason given')}"
        yield FAILED_RUN.finding(f"{TRACE}#/{trace.lines - 1}", f"the program ended with an exception ({message})")
    yield Claim("the run ended by itself", examined.attested, TRACE, message)


def _sequence(events: list[dict[str, Any]]) -> Iterator[Finding]:
    """Check that the events follow one another as a run makes them."""
    if not events or events[0]["event"] != "start":
        yield SEQUENCE.finding(f"{TRACE}#/0", "the trace does not begin with a start event")
    sources, streams, step, passes = -1, -1, 0, 0
    for event in events:
        where = f"{TRACE}#/{event['seq']}"
        match event["event"]:
            case "start" if event["seq"] != 0:
                yield SEQUENCE.finding(where, "a second start event")
            case "end" if event is not events[-1]:
                yield SEQUENCE.finding(where, "an end event, and the trace goes on after it")
            case "end" if event["steps"] != step:
                yield SEQUENCE.finding(
                    f"{where}/steps",
                    "the end counts other steps than the trace",
                    expected=str(event["steps"]),
                    found=str(step),
                )
            case "census":
                sources, streams = len(event["sources"]), len(event["streams"])
            case "step":
                if event["step"] != step + 1:
                    yield SEQUENCE.finding(
                        f"{where}/step",
                        "the steps do not count up by one",
                        expected=str(step + 1),
                        found=str(event["step"]),
                    )
                step = event["step"]
                if (len(event["sources"]), len(event["streams"])) != (sources, streams):
                    yield SEQUENCE.finding(
                        where, f"step {step} has another number of digests than the census has entries"
                    )
            case "pass":
                if event["pass"] != passes + 1:
                    yield SEQUENCE.finding(
                        f"{where}/pass",
                        "the passes do not count up by one",
                        expected=str(passes + 1),
                        found=str(event["pass"]),
                    )
                passes = event["pass"]
                if event["last"] > step:
                    yield SEQUENCE.finding(f"{where}/last", f"pass {passes} ends at a step that was not taken yet")
            case "anchor" if event["step"] != step:
                yield SEQUENCE.finding(
                    f"{where}/step",
                    "an anchor of another step than the last one",
                    expected=str(step),
                    found=str(event["step"]),
                )


def _against_manifest(examined: Examination) -> Iterator[Finding]:
    manifest, trace = examined.manifest, examined.trace
    if manifest is None or trace.problems:
        return
    predicate = manifest.predicate
    start = trace.events[0] if trace.events and trace.events[0]["event"] == "start" else {}
    census = (trace.of("census") or [{"sources": [], "streams": []}])[-1]
    end = trace.end or {}
    pairs: list[tuple[str, Any, Any]] = [
        ("trace/head", _member(predicate, "trace", "head"), trace.head),
        ("trace/lines", _member(predicate, "trace", "lines"), trace.lines),
        ("steps", predicate.get("steps"), end.get("steps")),
        ("status", predicate.get("status"), end.get("status")),
        ("seed", predicate.get("seed"), start.get("seed")),
        ("program", predicate.get("program"), start.get("program")),
        ("census", predicate.get("census"), census["sources"]),
        ("contract/streams", _member(predicate, "contract", "streams"), census["streams"]),
    ]
    for name, signed, found in pairs:
        if signed != found:
            yield DISAGREES.finding(
                f"{MANIFEST}#/payload/predicate/{name}",
                f"the signed statement says another {name.replace('/', ' ')} than the trace",
                expected=str(signed)[:80],
                found=str(found)[:80],
            )


def _member(value: dict[str, Any], outer: str, inner: str) -> Any:
    nested = value.get(outer)
    return nested.get(inner) if isinstance(nested, dict) else None


UNFINISHED = register(
    Rule(
        "MA808",
        "the run is unfinished",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "The trace has an end event and the directory a manifest.",
        "A run that was killed and a run that somebody cut back look alike; neither can pass. Its "
        "seals still prove a prefix.",
        "Record the run again, or report its sealed prefix as what it is.",
        "run",
        check,
    )
)
CUT_SHORT = register(
    Rule(
        "MA809",
        "the last line of the trace is cut short",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "The trace ends with a newline.",
        "The recorder was stopped while it wrote, or the file was cut. The lines before it are unaffected.",
        "Get the whole file; if the run was killed, what stands before the cut is all there is.",
        "run",
        check,
    )
)
CHAIN = register(
    Rule(
        "MA810",
        "the trace's chain is broken",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each line's `prev` is the SHA-256 of the bytes of the line before it, and `seq` counts the lines.",
        "A line was changed, added, removed or moved after it was written.",
        "Get the trace again as it was recorded. `head -n N trace.jsonl | tail -n 1 | sha256sum` shows a link.",
        "run",
        check,
    )
)
LINE = register(
    Rule(
        "MA811",
        "a line of the trace is malformed",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each line is one event in canonical JSON that fits its schema, below the limits on size and depth.",
        "A line that readers could take in two ways says nothing.",
        "Get the trace again as it was recorded.",
        "run",
        check,
    )
)
DISAGREES = register(
    Rule(
        "MA813",
        "the manifest and the trace disagree",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Head, number of lines, steps, status, seed, program, census and contract are the same in both.",
        "Two signed accounts of one run cannot differ.",
        "Get the directory again as it was signed; if it is as it was, report a bug in what wrote it.",
        "run",
        check,
    )
)
SEQUENCE = register(
    Rule(
        "MA815",
        "the events do not make a run",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "start comes first and end last, steps and passes count up by one, each step has one digest "
        "for each entry of the census.",
        "No recorder writes such a trace: events were removed or made up.",
        "Get the trace again as it was recorded.",
        "run",
        check,
    )
)
FAILED_RUN = register(
    Rule(
        "MA820",
        "the program ended with an exception",
        Level.WARNING,
        Confidence.CERTAIN,
        Evidence.ATTESTED,
        "The end event's status is `completed`.",
        "What was recorded is whole, and the training is not.",
        "Nothing to mend in the record; do not report the run as a finished one.",
        "run",
        check,
    )
)
