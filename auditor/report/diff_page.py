"""A comparison of two runs as the page shows it: where each source parted, how far, and why."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.compare.beside import GROUPS
from auditor.compare.cause_classes import CLASSES
from auditor.report.diff_curve import curve_section
from auditor.report.diff_first import first_section, refined_section, said, when
from auditor.report.files import ComparisonFile
from auditor.report.marks import CONFIDENCES, VERDICTS, mark
from auditor.report.tables import inputs_section, table
from auditor.report.text import NOTHING, beside_each_other, plain, plural
from auditor.report.views import CauseView, Limits, Section, Subject, Table, TextDiff

Document = Mapping[str, Any]
_GROUPS = {
    "numerics": "Numerics class, flags and packages",
    "program": "Program and arguments",
    "data": "Data and loaders",
    "contract": "Random-stream contract",
    "census": "Census of memory",
    "hyper": "Hyper-parameters before the first step",
}
_OPEN, _INCOMPARABLE = "What is left open", "Why they cannot be compared"
_EVIDENCE = 12


def comparison_subject(
    file: ComparisonFile, key: str, manifests: Mapping[str, str], limits: Limits
) -> tuple[Subject, str]:
    """The comparison that `file` holds, and its verdict's word.

    `manifests` has the name of each run on the page by its manifest's SHA-256.
    """
    document = file.document
    word = str(document["verdict"])
    trained_apart = any(each["kind"] != "end" for each in document["parted"])
    sections = (
        *said("reasons", _OPEN if document["comparable"] else _INCOMPARABLE, document["reasons"], limits),
        _runs(document["runs"]),
        _timeline(document, limits),
        *([curve_section(document, limits)] if trained_apart else []),
        *([_causes(document["causes"], limits)] if trained_apart or document["causes"] else []),
        *first_section(document["first"], limits),
        *refined_section(document["refined"], limits),
        _beside(document["beside"], limits),
        *_program(document["program"], limits),
        *said("notes", "Beside the answer", document["notes"], limits),
        _commands(document, file.name),
        inputs_section([(file.name, file.sha256)]),
    )
    proved, not_proved = _proofs(document, file.name, manifests)
    subject = Subject(
        key,
        "comparison",
        " and ".join(run_names(document["runs"])),
        mark(VERDICTS, word),
        str(document["sentence"]),
        _facts(document),
        proved,
        not_proved,
        sections,
    )
    return subject, word


def run_names(runs: Document) -> tuple[str, str]:
    """What to call A and B: the last part of each path, or as many parts as it takes to tell them apart."""
    paths = [str(runs[side]["path"]).replace("\\", "/").rstrip("/").split("/") for side in ("a", "b")]
    for parts in range(1, 8):
        a, b = ("/".join(path[-parts:]) for path in paths)
        if a != b:
            return a, b
    return paths[0][-1], paths[1][-1]


def _facts(document: Document) -> tuple[tuple[str, str], ...]:
    compared, first, causes = document["compared"], document["first"], document["causes"]
    equal = int(compared["equal"])
    facts = [
        ("Steps in both", f"{compared['steps']:,}"),
        ("Equal in every digest", f"steps 1 to {equal:,}" if equal > 1 else "step 1" if equal else "none"),
    ]
    if first is not None:
        facts.append(("First difference", f"{when(first['step'], first['at'])}, in {first['source']}"))
        facts.append(("Sources that parted", f"{len(document['parted']):,}"))
    if causes:
        facts.append(("Surest cause", f"{CLASSES[causes[0]['class']]} ({causes[0]['confidence']})"))
    return tuple(facts)


def _proofs(document: Document, name: str, manifests: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = {side: manifests.get(document["runs"][side]["manifest"] or "") for side in ("a", "b")}
    proved = tuple(
        f"{side.upper()} is the run {run} of this page: {name} names its manifest."
        for side, run in found.items()
        if run
    )
    strange = [side.upper() for side, run in found.items() if run is None]
    rest = []
    if strange:
        which = "Which runs A and B are" if len(strange) == 2 else f"Which run {strange[0]} is"
        rest.append(f"{which}: none on this page has the manifest that {name} names.")
    rest.append(f"The comparison: it is what {name} says, and was not made again for this page.")
    rest.append("That the traces are true: they are compared as they are. memaudit verify checks them.")
    if any(cause["confidence"] != "certain" for cause in document["causes"]):
        rest.append("That a likely or possible cause is the cause: it fits what was recorded.")
    if document["verdict"] == "equal":
        rest.append("That the trainings are equal in what was not recorded.")
    return proved, tuple(rest)


def _runs(runs: Document) -> Section:
    a, b = runs["a"], runs["b"]
    rows = [
        ("path", str(a["path"]), str(b["path"])),
        ("status", str(a["status"]), str(b["status"])),
        ("steps", f"{a['steps']:,}", f"{b['steps']:,}"),
        ("seed", *(plain(each["seed"]) if each["seed"] is not None else "left to the program" for each in (a, b))),
        ("program", plain(a["program"]), plain(b["program"])),
        ("arguments", *(shlex.join(each["arguments"]) or NOTHING for each in (a, b))),
        ("SHA-256 of the manifest", *(each["manifest"] or "no manifest: not finished" for each in (a, b))),
        ("head of the trace", str(a["head"]), str(b["head"])),
    ]
    return Section("runs", "The two runs", (), (table("What was compared", ("what", "A", "B"), rows, code={1, 2}),))


def _timeline(document: Document, limits: Limits) -> Section:
    parted, steps = document["parted"], document["compared"]["steps"]
    title = "Where each source parted"
    if document["verdict"] == "not comparable":
        return Section("timeline", title, ("Not told: the runs cannot be compared.",))
    if not parted:
        return Section("timeline", title, (f"Nowhere: every digest of {plural(steps, 'step')} is equal.",))
    rows = [
        (str(each["source"]), str(each["kind"]), when(each["step"], each["at"]), f"{each['steps']:,}")
        for each in parted[: limits.rows]
    ]
    text = (
        "From the first to the last and, within a step, in causal order: what stands above can be the cause of what "
        "stands below, not its effect."
    )
    found = table(
        "For each source, the step at which it parted",
        ("source", "kind", "parted", "steps it differs"),
        rows,
        numeric={3},
        code={0},
        total=len(parted),
    )
    return Section("timeline", title, (text,), (found,))


def _causes(causes: Sequence[Document], limits: Limits) -> Section:
    most = min(limits.rows, _EVIDENCE)
    views = tuple(
        CauseView(
            mark(CONFIDENCES, str(cause["confidence"])),
            CLASSES[cause["class"]],
            str(cause["class"]),
            str(cause["source"] or ""),
            "" if cause["step"] is None else when(cause["step"], "step"),
            tuple(map(str, cause["evidence"][:most])),
            max(0, len(cause["evidence"]) - most),
        )
        for cause in causes[: limits.rows]
    )
    text = (
        "The classes of cause that fit, the surest first. Certain: what was recorded shows it. Likely: it explains "
        "what was recorded, and little else does. Possible: nothing speaks against it."
        if views
        else "No known class of cause fits what was recorded."
    )
    left = len(causes) - len(views)
    more = (f"{plural(left, 'more cause')} not shown.",) if left else ()
    return Section("causes", "Why", (text, *more), causes=views)


def _beside(rows: Sequence[Document], limits: Limits) -> Section:
    title = "What differs beside the steps"
    if not rows:
        same = "Nothing: numerics class, program, data, contract, census and hyper-parameters are the same."
        return Section("beside", title, (same,))
    tables: list[Table] = []
    for group in GROUPS:
        found = [row for row in rows if row["group"] == group]
        if found:
            cells = [(str(row["name"]), *beside_each_other(row["a"], row["b"])) for row in found[: limits.rows]]
            tables.append(table(_GROUPS[group], ("what", "A", "B"), cells, code={0, 1, 2}, total=len(found)))
    return Section("beside", title, (), tuple(tables))


def _program(files: Sequence[Document], limits: Limits) -> list[Section]:
    if not files:
        return []
    left, views = limits.rows, []
    for file in files[: limits.effects]:
        lines = file["diff"] or []
        shown = tuple((_kind(line), line.expandtabs(4)) for line in lines[:left])
        left -= len(shown)
        rest = f"{plural(len(lines) - len(shown), 'more line')} not shown." if len(lines) > len(shown) else ""
        rest = "Its text was not kept." if file["diff"] is None else rest
        views.append(TextDiff(str(file["path"]), str(file["change"]), shown, rest))
    text = ["Lines that begin with - are in A only, lines that begin with + in B only."]
    if len(files) > len(views):
        text.append(f"{plural(len(files) - len(views), 'more file')} not shown.")
    return [Section("program", "The programs", tuple(text), texts=tuple(views))]


def _kind(line: str) -> str:
    return {"+": "ins", "-": "del", "@": "hunk"}.get(line[:1], "same")


def _commands(document: Document, name: str) -> Section:
    runs = [str(document["runs"][side]["path"]) for side in ("a", "b")]
    both, saved = shlex.join(runs), shlex.quote(name)
    commands = [
        (f"memaudit diff {both}", "compares them again, without running anything"),
        (f"memaudit diff {both} --format json > {saved}", "writes the comparison that this page shows"),
        *((f"memaudit verify {shlex.quote(run)}", "checks what the comparison takes at its word") for run in runs),
        (f"memaudit report {both} {saved} -o report.html", "makes a page of the runs and the comparison"),
    ]
    if document["refined"] is not None:
        again = "runs both programs again, magnified; runs the authors' code, and asks first"
        commands.insert(1, (f"memaudit diff {both} --refine", again))
    return Section("commands", "To repeat this", commands=tuple(commands), folder="the folder it was made in")
