"""The trace: its chain, its lines, its end, and what the manifest says of it."""

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
        return  # MA815 says so
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
    if examined.manifest is not None and examined.manifest_error is None:
        yield from _against_manifest(examined)


def _ending(examined: Examination) -> Iterator[Finding | Claim]:
    trace = examined.trace
    unsigned = MANIFEST not in examined.inventory
    steps = examined.history.step
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
    if status == "interrupted":
        yield INTERRUPTED.finding(f"{TRACE}#/{trace.lines - 1}", _interrupted(examined))
        return
    if status == "failed":
        message += f": {trace.end.get('error', 'no reason given')}"
        yield FAILED_RUN.finding(f"{TRACE}#/{trace.lines - 1}", f"the program ended with an exception ({message})")
    yield Claim("the run ended by itself", examined.attested, TRACE, message)


def _interrupted(examined: Examination) -> str:
    """Say where a run was interrupted, and how much of it no seal of the recording covers."""
    events = examined.trace.events
    # The last seal is the one of the closing itself.
    seals = [event["seq"] for event in events if event["event"] == "seal"][:-1]
    after = sum(1 for event in events if event["event"] == "step" and event["seq"] > max(seals, default=-1))
    message = f"the run was interrupted after step {examined.history.step} and closed later"
    were = "was" if after == 1 else "were"
    return message if not after else f"{message}; {count(after, 'step')} of it {were} signed only then"


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
        "If it still goes on, wait. If it was cut off, whoever recorded it closes it with `memaudit seal RUN`.",
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
INTERRUPTED = register(
    Rule(
        "MA822",
        "the run was interrupted and closed later",
        Level.WARNING,
        Confidence.CERTAIN,
        Evidence.ATTESTED,
        "The end event's status is not `interrupted`, which `memaudit seal` writes for a run that did not end by "
        "itself.",
        "What was recorded is signed, and the training did not come to its end. Whoever closed the run vouches for the "
        "steps after its last seal; a run that was cut back on purpose looks the same.",
        "Nothing to mend in the record; do not report the run as a finished one. A training that can be resumed goes "
        "on with `auditor.record(…, resume=True)`.",
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
