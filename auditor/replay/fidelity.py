"""The fidelity gate: a cell that ran on with the recorded streams, compared with the recording as diff compares."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.artifact.canonical import canonical_bytes, encode_float, write_canonical
from auditor.artifact.trace import TraceWriter
from auditor.compare.comparison import compare
from auditor.compare.divergence import Divergence, first_divergence
from auditor.evidence.run_view import RunView, Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from auditor.replay.cells import Cell, CellStore

Event = dict[str, Any]
_TOLD_CAUSES = 5


def gate_verdict(run: RunView, store: CellStore, gate: Cell) -> dict[str, Any]:
    """Compare the gate cell, which ran on with the recorded streams, with the recording, bit for bit.

    Returns ``{verdict, steps, numerics, first, causes}`` (docs/study.md); ``steps`` counts steps equal in every digest.
    """
    begin, end = span(gate)
    events = read_trace(store.trace(gate)).events
    replayed = list(resolve_steps(events))
    recorded = [step for step in run.steps() if begin < step.step <= end]
    first, equal = first_divergence(recorded, replayed)
    result = store.result(gate)
    same = result["numerics"] == run.environment_at(end)["numerics"]
    causes = [] if first is None else _causes(run, events, result["numerics"], begin, end)
    if first is None and result["probes"] != run.probes:
        # Other inputs, or other targets: what would be measured is not what was declared when recording.
        first = Divergence(gate.description["fork"]["at"], "probe")
        changed = sorted(name for name in run.probes if result["probes"].get(name) != run.probes[name])
        evidence = [f"probe {name} has other inputs or targets than when recording" for name in changed]
        causes = [{"class": "data", "confidence": "certain", "evidence": evidence or ["the program has other probes"]}]
    return {
        "verdict": "passed" if first is None else "failed",
        "steps": equal,
        "numerics": "same" if same else "different",
        "first": None if first is None else {"step": first.step, "source": first.source},
        "causes": causes,
    }


def span(cell: Cell) -> tuple[int, int]:
    """Return the step after which a cell's trace begins, and its last step."""
    anchor, fork = cell.description["anchor"], cell.description["fork"]
    return 0 if anchor is None else anchor["step"], fork["at"] + max(cell.description["horizons"])


def _causes(run: RunView, replayed: list[Event], numerics: dict[str, Any], begin: int, end: int) -> list[Event]:
    """Return the causes that ``memaudit diff`` names for the recording and its replay, the likeliest first."""
    environment = run.environment_at(end)
    with tempfile.TemporaryDirectory(prefix="memaudit-gate-") as folder:
        sides = Path(folder, "recorded"), Path(folder, "replayed")
        _excerpt(sides[0], run, environment, _between(run.events(), begin, end))
        _excerpt(sides[1], run, {**environment, "numerics": numerics}, _between(replayed, begin, end))
        found = compare(*sides).causes
    return [
        {"class": cause.class_, "confidence": cause.confidence, "evidence": list(cause.evidence)}
        for cause in found[:_TOLD_CAUSES]
    ]


def _between(events: Iterable[Event], begin: int, end: int) -> Iterator[Event | Step]:
    """Yield the census in force and the steps after ``begin`` up to ``end``, with the censuses between them."""
    kept = list(events)
    steps = {step.seq: step for step in resolve_steps(kept)}
    census: Event | None = None
    for event in kept:
        if event["event"] == "census":
            census = event
        elif event["event"] == "step" and begin < event["step"] <= end:
            if census is not None:
                yield census
                census = None
            yield steps[event["seq"]]


def _excerpt(path: Path, run: RunView, environment: dict[str, Any], events: Iterable[Event | Step]) -> None:
    """Write a run directory of these steps alone, each with all its digests."""
    path.mkdir()
    write_canonical(path / run_directory.ENVIRONMENT, environment)
    sha256 = hashlib.sha256(canonical_bytes(environment) + b"\n").hexdigest()
    with TraceWriter(path / run_directory.TRACE) as trace:
        trace.append("start", {**_members(run.start), "environment": sha256})
        for event in events:
            if isinstance(event, Step):
                trace.append("step", _step(event))
            else:
                trace.append("census", _members(event))


def _members(event: Event) -> Event:
    return {name: value for name, value in event.items() if name not in ("event", "prev", "seq")}


def _step(step: Step) -> Event:
    found = {
        "step": step.step,
        "pass": step.pass_,
        "position": step.position,
        "ids": step.ids,
        "batch": step.batch,
        "sources": list(step.sources.values()),
        "streams": list(step.streams.values()),
    }
    return found if step.loss is None else {**found, "loss": encode_float(step.loss)}
