"""One run as the page shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.artifact.trace import GENESIS
from auditor.compare.series import decimate, finite
from auditor.evidence.history import History
from auditor.report import charts
from auditor.report.files import Files
from auditor.report.marks import VERDICTS, mark
from auditor.report.tables import claims_section, findings_section, inputs_section, pairs, table
from auditor.report.text import NOTHING, as_number, duration, figure, plain, plural, size
from auditor.report.views import Chart, Limits, Section, Subject, Table

Event = Mapping[str, Any]
HONESTY = (
    "That training was honest. A signature says who vouches and that nothing changed since; only a replay, which runs "
    "the code again, can say more."
)


def run_subject(
    path: Path, name: str, key: str, verification: Mapping[str, Any], limits: Limits
) -> tuple[Subject, str]:
    """The run at `path` under `name`, and its verdict's word. `verification` is a `verify-1` document."""
    files = Files(path)
    predicate = files.predicate()
    trace = files.trace()
    environment = files.document(run_directory.ENVIRONMENT, "environment")
    probes = files.document(run_directory.PROBES, "probes")
    history = History.of(trace.events)
    events = list(history.events())
    start: Event = next((e for e in events if e["event"] == "start"), {})
    census: Event = next((e for e in reversed(events) if e["event"] == "census"), {})
    word = str(verification["verdict"])
    proved, not_proved = proofs(verification["claims"], limits)
    sections = (
        claims_section(verification["claims"], limits),
        _contract(census, limits),
        _order(events, start, limits),
        _census(census, limits),
        _anchors(history, limits, files),
        _measurements(events, probes, limits),
        findings_section(verification["findings"], limits),
        _environment(environment, predicate, files.problems),
        _commands(name, start, environment),
        inputs_section(files.hashes),
    )
    facts = _facts(
        predicate=predicate,
        start=start,
        end=trace.end,
        events=events,
        verification=verification,
        lines=trace.lines,
        head=trace.head,
    )
    subject = Subject(
        key, "run", name, mark(VERDICTS, word), _sentence(verification), facts, proved, not_proved, sections
    )
    return subject, word


def _sentence(verification: Mapping[str, Any]) -> str:
    said = str(verification.get("sentence") or "")
    plain_words = {
        "passed": "Everything that could be checked here holds.",
        "failed": "Something here does not hold; the findings say what.",
        "inconclusive": "What is here does not settle it; the findings say why.",
    }
    return said or plain_words.get(str(verification["verdict"]), str(verification["verdict"]))


def proofs(claims: Sequence[Mapping[str, Any]], limits: Limits) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was proved, and what was not, in sentences."""
    most = max(6, limits.rows // 10)
    proved = [_said(c) for c in claims if c["evidence"] == "proved"]
    others = {
        "contradicted": "Contradicted by the files",
        "inconclusive": "Could not be decided",
        "missing": "Missing",
        "attested": "Signed, but not recomputed",
        "claimed": "Only claimed",
        "human": "For a person to judge",
    }
    rest = []
    for word, words in others.items():
        whats = [str(c["what"]) for c in claims if c["evidence"] == word]
        if whats:
            more = f" and {len(whats) - most} more" if len(whats) > most else ""
            rest.append(f"{words}: {'; '.join(whats[:most])}{more}.")
    if len(proved) > most:
        proved = [*proved[:most], f"{len(proved) - most} more, listed below."]
    return tuple(proved), (*rest, HONESTY)


def _said(claim: Mapping[str, Any]) -> str:
    what, message = str(claim["what"]), str(claim["message"])
    return f"{what}: {message}" if message and message != what else what


def _facts(
    *,
    predicate: Event,
    start: Event,
    end: Event | None,
    events: Sequence[Event],
    verification: Mapping[str, Any],
    lines: int,
    head: str,
) -> tuple[tuple[str, str], ...]:
    steps = [e["step"] for e in events if e["event"] == "step"]
    signers = [_signer(signer) for signer in verification.get("signers", ())]
    status = str(end["status"]) if end else "unfinished: the trace has no end"
    if status == "interrupted":
        status = "interrupted: it did not end by itself, and was closed later"
    if end and end.get("error"):
        status = f"{status}: {plain(end['error'])}"
    return (
        ("Status", status),
        ("Steps", f"{max(steps, default=0):,}"),
        ("Seed", plain(start.get("seed")) if start.get("seed") is not None else "left to the program"),
        ("Signed by", "; ".join(signers) or "nobody"),
        ("Started", str(predicate.get("started") or "not stated").replace("T", " ").replace("Z", " UTC")),
        ("Took", duration(predicate.get("seconds"))),
        ("Program", plain((start.get("program") or {}).get("path"))),
        ("Trace", f"{lines:,} lines{'' if head == GENESIS else ', head ' + head[:12]}"),
    )


def _signer(signer: Event) -> str:
    name = str(signer.get("name") or f"key {str(signer.get('keyid'))[:12]}")
    if not signer.get("verified"):
        return f"{name} (signature does not verify)"
    return name if signer.get("trusted") else f"{name} (not trusted here)"


def _contract(census: Event, limits: Limits) -> Section:
    streams = census.get("streams", [])
    rows = [
        (str(s["name"]), plain(s.get("seeded_by")), plain(s.get("consumers")), plain(s.get("warnings")))
        for s in streams[: limits.rows]
    ]
    text = "Which sources of randomness exist, how each was seeded, and who draws from it."
    if not rows:
        return Section("contract", "Random-stream contract", ("The trace declares no stream.",))
    columns = ("stream", "seeded by", "consumers", "warnings")
    found = table("Random streams", columns, rows, code={0}, total=len(streams))
    return Section("contract", "Random-stream contract", (text,), (found,))


def _order(events: Sequence[Event], start: Event, limits: Limits) -> Section:
    passes = [e for e in events if e["event"] == "pass"]
    if not passes:
        return Section("order", "Data order", ("The trace has no finished pass over a data loader.",))
    rows = []
    for e in passes[: limits.rows]:
        policy = e.get("policy") or {}
        rows.append(
            (
                str(e["pass"]),
                f"{e['first']} to {e['last']}" if e["last"] >= e["first"] else "none",
                plain(e["batches"]),
                plain(e["samples"]),
                plain(policy.get("kind")),
                plain(policy.get("batch_size")),
                "yes" if e["complete"] else "no",
                str(e["sha256"])[:16] if e.get("sha256") else NOTHING,
            )
        )
    kept = (
        "Every sample id is kept, in the order it was consumed."
        if start.get("order") == "ids"
        else "Only digests of the order are kept."
    )
    columns = ("pass", "steps", "batches", "samples", "order", "batch size", "complete", "SHA-256 of the ids")
    found = table("Passes", columns, rows, numeric={0, 1, 2, 3, 5}, code={7}, total=len(passes))
    return Section("order", "Data order", (kept,), (found,))


def _census(census: Event, limits: Limits) -> Section:
    sources = census.get("sources", [])
    if not sources:
        return Section("census", "Census of memory", ("The trace lists no memory source.",))
    rows = [
        (
            str(s["name"]),
            str(s["kind"]),
            plain(s.get("lifetime")),
            NOTHING if s.get("half_life") is None else f"{figure(s['half_life'], 3)} steps",
            plain(s.get("visibility")),
        )
        for s in sources[: limits.rows]
    ]
    text = "Everything found that carries history from one step to the next, and for how long."
    columns = ("source", "kind", "lifetime", "half-life", "visible")
    found = table("Memory sources", columns, rows, numeric={3}, code={0}, total=len(sources))
    return Section("census", "Census of memory", (text,), (found,))


def _anchors(history: History, limits: Limits, files: Files) -> Section:
    anchors = [(a.event, a.stored) for a in history.anchors if a.stored is not None and a.is_kept and not a.void]
    if not anchors:
        return Section("anchors", "Anchors", ("There is no anchor: nothing can be replayed from the middle.",))
    rows = []
    for e, stored in anchors[: limits.rows]:
        bytes_ = sum(files.inventory.files.get(f"{e['path']}/{name}", 0) for name in stored["files"])
        rows.append(
            (str(e["step"]), str(e["at"]), str(len(e["sources"])), str(len(e["streams"])), size(bytes_), str(e["path"]))
        )
    text = "Checkpoints that restore every memory source and stream in a fresh process."
    dropped = sum(1 for a in history.anchors if a.dropped is not None)
    if dropped:
        text += f" {dropped:,} more {'was' if dropped == 1 else 'were'} dropped while recording, to save space."
    columns = ("after step", "taken at", "sources", "streams", "size", "folder")
    found = table("Anchors", columns, rows, numeric={0, 2, 3, 4}, code={5}, total=len(anchors))
    return Section("anchors", "Anchors", (text,), (found,))


def _measurements(events: Sequence[Event], probes: Event, limits: Limits) -> Section:
    drawn: list[Chart] = []
    tables: list[Table] = []
    losses = [(int(e["step"]), as_number(e.get("loss"))) for e in events if e["event"] == "step"]
    given = [(step, value) for step, value in losses if value is not None]
    points = finite(given)
    if len(points) > 1:
        kept = decimate(points, limits.points)
        label = f"Loss at {plural(len(points), 'step')}, from {figure(points[0][1])} to {figure(points[-1][1])}."
        shown = (
            "" if len(kept) == len(points) else f" {len(kept):,} of {len(points):,} points are drawn, extremes kept."
        )
        odd = len(given) - len(points)
        lost = f" {plural(odd, 'value')} not finite and not drawn." if odd else ""
        drawn.append(Chart(charts.curve(kept, label, "loss"), f"Loss given to each step.{shown}{lost}"))
        low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
        four = (("first", points[0]), ("lowest", low), ("highest", high), ("last", points[-1]))
        rows = [(which, str(step), figure(value, 6)) for which, (step, value) in four]
        tables.append(table("Loss in four numbers", ("which", "step", "loss"), rows, numeric={1, 2}))
    measured = [e for e in events if e["event"] == "outcome"]
    if measured:
        _outcomes(measured, limits, drawn, tables)
    text = []
    for name, probe in sorted((probes.get("probes") or {}).items())[:12]:
        text.append(
            f"Probe {name}: {probe.get('kind')}, {plain(probe.get('size'))} inputs, digest {probe.get('inputs')}."
        )
    if not drawn and not tables:
        text.append("The trace has neither a loss nor an outcome on a probe.")
    return Section("measurements", "Loss and probe outcomes", tuple(text), tuple(tables), tuple(drawn))


def _outcomes(measured: Sequence[Event], limits: Limits, drawn: list[Chart], tables: list[Table]) -> None:
    several = len({e["probe"] for e in measured}) > 1
    series: dict[str, list[tuple[int, float]]] = {}
    for e in measured:
        for outcome in sorted(e["values"]):
            value = as_number(e["values"][outcome])
            if value is not None:
                name = f"{outcome} · {e['probe']}" if several else outcome
                series.setdefault(name, []).append((int(e["step"]), value))
    chosen = list(series)[:8]
    values = [
        {"series": name, "step": step, "value": value}
        for name in chosen
        for step, value in decimate(finite(series[name]), max(20, limits.points // 3))
    ]
    if values:
        label = f"Probe outcomes over training: {', '.join(chosen)}."
        drawn.append(Chart(charts.outcomes(values, label), "Outcomes on the probe, measured while recording."))
    rows = [
        (name, str(len(points)), str(points[0][0]), figure(points[0][1]), str(points[-1][0]), figure(points[-1][1]))
        for name, points in list(series.items())[: limits.rows]
    ]
    columns = ("outcome", "measured", "first at", "value", "last at", "value")
    tables.append(table("Probe outcomes, first and last", columns, rows, numeric={1, 2, 3, 4, 5}, total=len(series)))


def _environment(environment: Event, predicate: Event, problems: Sequence[str]) -> Section:
    text = [f"Could not be read: {problem}." for problem in problems[:20]]
    tables = []
    numerics = environment.get("numerics") or predicate.get("numerics") or {}
    if numerics:
        text.append("Bits can be expected to be equal only where all of the numerics class is equal.")
        tables.append(pairs("Numerics class", sorted(numerics.items())[:60]))
    rest: list[tuple[str, object]] = []
    git = environment.get("git")
    if environment:
        changed = " with uncommitted changes" if git and git.get("dirty") else ""
        rest.append(("git", f"{git.get('commit')}{changed}" if git else "not in a repository"))
    for part in ("python", "hardware", "flags"):
        rest.extend((f"{part} {name}", value) for name, value in sorted((environment.get(part) or {}).items())[:20])
    packages = sorted((environment.get("packages") or {}).items())
    if packages:
        rest.append(("packages", ", ".join(f"{name} {plain(version)}" for name, version in packages[:40])))
        if len(packages) > 40:
            rest.append(("more packages", f"{len(packages) - 40}, in environment.json"))
    if rest:
        tables.append(pairs("Machine and software", rest))
    if not tables:
        text.append("There is no readable environment.json.")
    return Section("environment", "Environment", tuple(text), tuple(tables))


def _commands(name: str, start: Event, environment: Event) -> Section:
    argv = (environment.get("program") or {}).get("argv") or (start.get("program") or {}).get("argv") or []
    run = shlex.quote(name)
    commands = [
        (f"memaudit verify {run}", "checks every claim again, without running the program"),
        (f"memaudit inspect {run} --format json", "lists all sources and streams"),
        (f"memaudit report {run} -o report.html", "makes this page"),
    ]
    if argv:
        words = [str(word) for word in argv]
        # argv as recorded starts with the script, as sys.argv does, unless an interpreter stands before it.
        program = words if "python" in words[0].rsplit("/", 1)[-1] else ["python", *words]
        commands.append((f"memaudit record -- {shlex.join(program)}", "trains again; runs the author's code"))
    return Section("commands", "To repeat this", commands=tuple(commands))
