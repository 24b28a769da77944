"""One study as the page shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.causal.wording import intervention_text
from auditor.report import effects
from auditor.report.files import Files
from auditor.report.marks import VERDICTS, Mark, mark
from auditor.report.run_page import proofs
from auditor.report.tables import claims_section, findings_section, inputs_section, pairs, table
from auditor.report.text import NOTHING, as_number, figure, plain, plural
from auditor.report.views import Limits, Section, Subject, Table

Document = Mapping[str, Any]


def study_subject(path: Path, name: str, key: str, verification: Document, limits: Limits) -> tuple[Subject, str]:
    """The study at `path` under `name`, and its verdict's word. `verification` is a `verify-1` document."""
    files = Files(path)
    predicate = files.predicate()
    plan = files.document(run_directory.PLAN, "plan")
    estimate = files.document(run_directory.ESTIMATE, "estimate")
    word = _word(verification, estimate)
    proved, not_proved = proofs(verification["claims"], limits)
    if estimate:
        not_proved = (
            "The numbers below: they are those of estimate.json, and no cell was run again for this page.",
            *not_proved,
        )
    findings = [*verification["findings"], *estimate.get("findings", [])]
    sections = (
        claims_section(verification["claims"], limits),
        _plan(plan, limits),
        *_results(estimate, limits),
        findings_section(findings, limits),
        _environment(predicate, files.problems),
        _commands(name, estimate, plan),
        inputs_section(files.hashes),
    )
    sentence = _sentence(verification, estimate)
    facts = _facts(estimate, plan, predicate)
    return Subject(key, "study", name, mark(VERDICTS, word), sentence, facts, proved, not_proved, sections), word


def _word(verification: Document, estimate: Document) -> str:
    """The worse of what verification and the study itself say."""
    verified = str(verification["verdict"])
    if verified == "failed" or not estimate:
        return "failed" if verified == "failed" else "inconclusive"
    own = str(estimate["verdict"])
    return own if own != "complete" or verified == "passed" else verified


def _sentence(verification: Document, estimate: Document) -> str:
    if not estimate:
        return "This study has no readable estimate: it is unfinished, and nothing can be said of effects."
    if estimate["verdict"] == "gate failed":
        fork = next(fork for fork in estimate["forks"] if fork["verdict"] == "gate failed")
        first = fork["gate"].get("first")
        where = f" They part at step {first['step']}, {first.get('source') or 'source unknown'}." if first else ""
        whose = "" if len(estimate["forks"]) == 1 else f" of {_place(estimate, fork)}"
        return f"The replay did not reproduce the recorded run{whose}, so no effect is believed there.{where}"
    if estimate["verdict"] == "null failed":
        failed = [n for fork in estimate["forks"] for n in fork["nulls"] if n["verdict"] == "failed"]
        bad = ", ".join(dict.fromkeys(str(n["name"]) for n in failed))
        return f"A comparison that must show nothing showed something ({bad}), so no effect is believed there."
    counts: dict[str, int] = {}
    for row in estimate["estimates"]:
        if row["estimand"] != "function distance":
            counts[str(row["verdict"])] = counts.get(str(row["verdict"]), 0) + 1
    order = ("effect", "equivalent", "inconclusive", "not applied")
    said = ", ".join(f"{counts[word]} {word}" for word in order if word in counts)
    whole = (
        f"The study is complete: gate and nulls passed; {plural(sum(counts.values()), 'contrast')}: {said}."
        if said
        else ("The study is complete: gate and nulls passed.")
    )
    if verification["verdict"] == "passed":
        return whole
    own = str(verification.get("sentence") or "")
    return f"{whole} Its files, though: {own or 'they were not verified.'}"


def _facts(estimate: Document, plan: Document, predicate: Document) -> tuple[tuple[str, str], ...]:
    if not estimate:
        return (("Status", "no readable estimate.json"),)
    forks, rows = estimate["forks"], estimate["estimates"]
    horizons = sorted({row["horizon"] for row in rows}) or plan.get("horizons", [])
    units = {"fork": "fork seeds: every stream re-keyed at the fork", "full": "full seeds: trained from the start"}
    most = max((len(row["units"]) for row in rows), default=0)
    facts = [
        ("Run", ", ".join(dict.fromkeys(_run_name(fork) for fork in forks))),
        ("Fork", ", ".join(dict.fromkeys(f"after step {fork['at']}" for fork in forks))),
        ("Horizons", f"{plain(horizons)} steps"),
        ("Units", f"{most} {units.get(str(estimate['units']), str(estimate['units']))}"),
        ("Holds for", str(estimate["conditional"])),
        ("Plan", f"{str(estimate['plan']['sha256'])[:16]} (SHA-256, before any cell ran)"),
    ]
    if predicate.get("finished"):
        facts.append(("Finished", str(predicate["finished"]).replace("T", " ").replace("Z", " UTC")))
    return tuple(facts)


def _plan(plan: Document, limits: Limits) -> Section:
    if not plan:
        return Section("plan", "Plan", ("There is no readable plan.json.",))
    arms = plan["arms"]
    rows = [(str(arm.get("name") or NOTHING), intervention_text(arm["do"])) for arm in arms[: limits.rows]]
    values = [
        ("outcomes", plan["outcomes"]),
        ("horizons", plan["horizons"]),
        ("equivalence margins", {k: f"±{figure(v)}" for k, v in plan["margins"].items()} or "none declared"),
        ("units", f"{len(plan['units']['seeds'])} {plan['units']['kind']} seeds"),
        ("looks after", f"{plain(plan['looks'])} units" if plan["looks"] else "the last unit only"),
        ("tests adjusted together", {"plan": "all of the plan", "fork": "those of each fork"}[plan["family"]]),
        ("seed of the inference", plan["seed"]),
    ]
    tables = (
        table("Arms beside the control, carry", ("arm", "intervention"), rows, code={0}, total=len(arms)),
        pairs("What was declared before any cell ran", values),
    )
    return Section("plan", "Plan", (), tables)


def _results(estimate: Document, limits: Limits) -> tuple[Section, ...]:
    if not estimate:
        return (Section("effects", "Effects", ("There is no readable estimate.json.",)),)
    controls = _controls(estimate, limits)
    believed = [row for row in estimate["estimates"] if _is_believed(estimate, row)]
    if estimate["verdict"] != "complete" and not believed:
        text = "Not shown: a study whose gate or nulls failed reports nothing but that."
        return controls, Section("effects", "Effects", (text,)), _receipts(estimate, limits)
    rows = [{**row, "arm": _arm_name(estimate, row["fork"], row["arm"])} for row in believed]
    left = effects.hidden(rows, limits)
    look = estimate["look"]
    text = (
        f"An effect needs an interval that excludes zero and an adjusted p of at most {1.0 - look['level']:.3g}. p is "
        "the sign-flip p-value; the adjusted p covers the family of tests that the plan declares."
    )
    if look["looks"] > 1:
        text += f" This is look {look['number']} of {look['looks']}, after {look['units']} of {look['of']} units."
    more = (f"{plural(left, 'more outcome')} not shown; estimate.json has all of them.",) if left else ()
    shown = Section("effects", "Effects", (text, *more), effects=effects.effects(rows, limits))
    return shown, controls, _receipts(estimate, limits)


def _controls(estimate: Document, limits: Limits) -> Section:
    rows: list[tuple[str | Mark, ...]] = []
    causes: list[str] = []
    for fork in estimate["forks"]:
        gate, nulls = fork["gate"], fork["nulls"]
        first = gate.get("first")
        parted = (
            f"parts at step {first['step']}, {first.get('source') or 'source unknown'}"
            if first
            else f"{plural(gate['steps'], 'step')} reproduced, {gate['numerics']} numerics class"
        )
        place = () if len(estimate["forks"]) == 1 else (_place(estimate, fork),)
        rows.append((*place, "fidelity gate", mark(VERDICTS, str(gate["verdict"])), parted))
        rows += [(*place, str(n["name"]), mark(VERDICTS, str(n["verdict"])), str(n["message"])) for n in nulls]
        causes += [
            f"Why the gate failed, as far as it can be told: {cause['class']} ({cause['confidence']}): "
            f"{'; '.join(cause['evidence'])}."
            for cause in gate["causes"]
        ]
    text = "The gate replays the recorded run before any arm is believed; nulls are comparisons that must show nothing."
    columns = [*_fork_column(estimate), "control", "verdict", "what it found"]
    found = table("Gate and nulls", columns, rows[: limits.rows], total=len(rows))
    return Section("controls", "Gate and nulls", (text, *causes[:10]), (found, *_floors(estimate, limits)))


def _floors(estimate: Document, limits: Limits) -> tuple[Table, ...]:
    """What one unit in the last place of every weight does: the size below which an effect is churn."""
    rows = [
        (
            *(() if len(estimate["forks"]) == 1 else (_place(estimate, fork),)),
            str(size["probe"]),
            str(size["outcome"]),
            str(size["horizon"]),
            figure(size["size"], 3),
            str(size["units"]),
        )
        for fork in estimate["forks"]
        for null in fork["nulls"]
        for size in null.get("sizes", [])
    ]
    if not rows:
        return ()
    columns = [*_fork_column(estimate), "probe", "outcome", "horizon", "mean size", "units"]
    last = len(columns)
    return (
        table(
            "The floor: every weight moved by one unit in the last place. An effect is to be read beside it.",
            columns,
            rows[: limits.rows],
            numeric={last - 3, last - 2, last - 1},
            total=len(rows),
        ),
    )


def _fork_column(estimate: Document) -> list[str]:
    return [] if len(estimate["forks"]) == 1 else ["fork"]


def _run_name(fork: Document) -> str:
    return str(fork["run"]["path"]).rstrip("/").rsplit("/", 1)[-1]


def _place(estimate: Document, fork: Document) -> str:
    """A fork's name: its run where there are several, and its step."""
    several = len({each["run"]["path"] for each in estimate["forks"]}) > 1
    return f"{_run_name(fork)}, step {fork['at']}" if several else f"step {fork['at']}"


def _is_believed(estimate: Document, row: Document) -> bool:
    forks = estimate["forks"]
    return bool(row["fork"] < len(forks) and forks[row["fork"]]["verdict"] == "complete")


def _arm_name(estimate: Document, fork: int, name: str) -> str:
    forks = estimate["forks"]
    return name if len(forks) == 1 or fork >= len(forks) else f"{_place(estimate, forks[fork])}: {name}"


def _receipts(estimate: Document, limits: Limits) -> Section:
    rows = []
    arms = [(number, arm) for number, fork in enumerate(estimate["forks"]) for arm in fork["arms"]]
    for number, arm in arms:
        receipts = arm["receipts"]
        count = f"{receipts['applied']} of {receipts['applied'] + receipts['not_applied']}"
        for receipt in receipts["examples"][:3] or [{}]:
            changed = as_number(receipt.get("changed"))
            rows.append(
                (
                    _arm_name(estimate, number, str(arm["name"])),
                    plain(receipt.get("source")),
                    count,
                    figure(receipt.get("norm_before")),
                    figure(receipt.get("norm_after")),
                    NOTHING if changed is None else f"{100 * changed:.3g} %",
                    plain(receipt.get("reason")),
                )
            )
    text = "What each intervention measurably did to its source. Where it did nothing, the verdict is “not applied”."
    columns = ("arm", "source", "applied", "norm before", "norm after", "elements changed", "reason")
    shown = rows[: limits.rows]
    found = table(
        "Receipts, one example an arm and source", columns, shown, numeric={2, 3, 4, 5}, code={1}, total=len(rows)
    )
    return Section("receipts", "Receipts", (text,), (found,))


def _environment(predicate: Document, problems: list[str]) -> Section:
    text = [f"Could not be read: {problem}." for problem in problems[:20]]
    numerics = predicate.get("numerics")
    if isinstance(numerics, dict) and numerics:
        return Section(
            "environment", "Environment", tuple(text), (pairs("Numerics class", sorted(numerics.items())[:60]),)
        )
    text.append("The study's manifest names no numerics class.")
    return Section("environment", "Environment", tuple(text))


def _commands(name: str, estimate: Document, plan: Document) -> Section:
    study = shlex.quote(name)
    commands = [
        (f"memaudit verify {study}", "checks the study's files again, without running anything"),
        (f"memaudit report {study} -o report.html", "makes this page"),
    ]
    if plan:
        again = f"memaudit replay --plan {shlex.quote(name + '/plan.json')} --out again"
        commands.insert(0, (again, "runs every cell again; runs the author's code, and asks first"))
    return Section("commands", "To repeat this", commands=tuple(commands))
