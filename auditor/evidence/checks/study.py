"""Studies: whether plan, cells and estimate belong together, and whether the estimate is the mean of what it lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from auditor.artifact.run_directory import CELLS, ESTIMATE, MANIFEST, PLAN
from auditor.errors import MemauditError
from auditor.evidence.examination import STUDY, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

_CELL = re.compile(r"cells/([0-9a-f]{64})/(cell\.json|result\.json)")
_TOLERANCE = 1e-9
_Place = tuple[str | None, int]
"""A fork: the SHA-256 of its run's manifest, and its step."""
_Values = dict[tuple[_Place | None, str, int | None, int, str, str], list[float]]
"""By fork, arm, unit, horizon, probe and outcome: the values measured, one a cell (carry runs twice for one unit)."""


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield where plan, cells and estimate do not belong together."""
    if examined.kind != STUDY:
        return
    if MANIFEST not in examined.inventory:
        yield UNFINISHED.finding(MANIFEST, "the study is unfinished: it has no manifest")
    for path, schema in ((PLAN, "plan"), (ESTIMATE, "estimate")):
        if path not in examined.inventory:
            yield UNFINISHED.finding(path, f"the study has no {path}")
            continue
        document = examined.document(path, schema)
        if isinstance(document, MemauditError):
            yield _malformed(document, path)
    yield from _cells(examined)
    estimate = examined.document(ESTIMATE, "estimate") if ESTIMATE in examined.inventory else None
    if isinstance(estimate, dict):
        yield from _plan(examined, estimate)
        yield from _rows(examined, estimate)
        if estimate["verdict"] != "complete":
            message = f"the study's own verdict is: {estimate['verdict']}; its numbers say nothing about memory"
            yield NOT_COMPLETE.finding(f"{ESTIMATE}#/verdict", message)


def _malformed(error: MemauditError, path: str) -> Finding:
    where = error.where if error.where is not None and error.where.startswith(path) else path
    return FORMAT.finding(where, f"a file breaks its format: {error.what}" + (f" ({error.why})" if error.why else ""))


def _plan(examined: Examination, estimate: dict[str, Any]) -> Iterator[Finding | Claim]:
    plan = examined.opened(PLAN) if PLAN in examined.inventory else None
    if plan is None:
        return
    if plan.sha256 == estimate["plan"]["sha256"]:
        yield Claim("the estimate is of the plan that lies beside it", Evidence.PROVED, PLAN, f"SHA-256 {plan.sha256}")
    else:
        yield OTHER_PLAN.finding(
            f"{ESTIMATE}#/plan/sha256",
            "the estimate is of another plan",
            expected=estimate["plan"]["sha256"],
            found=plan.sha256,
        )


def _cells(examined: Examination) -> Iterator[Finding | Claim]:
    good = faults = 0
    for path in examined.inventory.files:
        match = _CELL.fullmatch(path)
        if match is None:
            continue
        schema = "cell" if match[2] == "cell.json" else "cell-result"
        document = examined.document(path, schema)
        if isinstance(document, MemauditError):
            faults += 1
            yield _malformed(document, path)
            continue
        opened = examined.opened(path)
        named = opened.sha256 if opened is not None and schema == "cell" else match[1]
        if named != match[1]:
            faults += 1
            yield OTHER_CELL.finding(
                path, "a cell lies under another hash than its own", expected=match[1], found=named
            )
        elif schema == "cell":
            good += 1
    if good and not faults:
        yield Claim(
            "every cell lies under the hash of what determines it",
            Evidence.PROVED,
            CELLS,
            f"{count(good, 'cell')}, SHA-256 recomputed",
        )


def _rows(examined: Examination, estimate: dict[str, Any]) -> Iterator[Finding | Claim]:
    faults = 0
    values = _cell_values(examined)
    forks = [(fork["run"]["manifest_sha256"], fork["at"]) for fork in estimate["forks"]]
    for index, row in enumerate(estimate["estimates"]):
        where = f"{ESTIMATE}#/estimates/{index}"
        differences = [float(value) for value in row["differences"] if value is not None]
        if len(row["differences"]) != len(row["units"]):
            faults += 1
            yield ROW.finding(f"{where}/differences", f"{row['arm']}: not one difference for each unit")
            continue
        if row["estimate"] is not None and differences:
            mean, told = math.fsum(differences) / len(differences), float(row["estimate"])
            if not _close(mean, told, max(map(abs, differences))):
                faults += 1
                yield ROW.finding(
                    f"{where}/estimate",
                    f"{row['arm']}, {row['outcome']}: the estimate is not the mean of its differences",
                    expected=repr(told),
                    found=repr(mean),
                )
        fork = forks[row["fork"]] if row["fork"] < len(forks) else None
        for name, unit, told, found in _not_in_cells(row, fork, values):
            faults += 1
            place = f"{row['arm']}, {row['outcome']}, unit {unit}, {name}"
            if found is None:
                yield ROW.finding(f"{where}/{name}", f"{place}: no cell measured this value", evidence=Evidence.MISSING)
            else:
                message = f"{place}: the value is not the one in its cell"
                yield ROW.finding(f"{where}/{name}", message, expected=repr(told), found=repr(found))
        faulty = _not_paired(row)
        if faulty is not None:
            faults += 1
            yield ROW.finding(
                f"{where}/differences/{faulty}", f"{row['arm']}: a difference is not treated minus control"
            )
    if estimate["estimates"] and not faults:
        yield Claim(
            "each estimate is what its cells and differences give",
            Evidence.PROVED,
            ESTIMATE,
            f"{count(len(estimate['estimates']), 'row')} recomputed; the outcomes themselves are "
            f"{examined.attested}, not re-run",
        )


def _cell_values(examined: Examination) -> _Values:
    """Return what the cells measured."""
    values: _Values = {}
    for path in examined.inventory.files:
        match = _CELL.fullmatch(path)
        if match is None or match[2] != "result.json":
            continue
        result = examined.document(path, "cell-result")
        description = examined.document(f"{CELLS}/{match[1]}/cell.json", "cell")
        if isinstance(result, MemauditError) or not isinstance(description, dict):
            continue
        place = (description["run"]["manifest"], description["fork"]["at"])
        for horizon, probes in result["horizons"].items():
            for probe, outcomes in probes.items():
                for outcome, value in outcomes.items():
                    key = (place, result["arm"], result["unit"], int(horizon), probe, outcome)
                    values.setdefault(key, []).append(float(value))
    return values


def _not_in_cells(
    row: dict[str, Any], fork: _Place | None, values: _Values
) -> Iterator[tuple[str, int, float, float | None]]:
    """Yield (member, unit, value told, value measured or None) where a row differs from the cells it is made of."""
    if row["estimand"] != "signed ATE":
        return
    for name, arm in (("control", "carry"), ("treated", row["arm"])):
        for unit, told in zip(row["units"], row[name] or (), strict=False):
            measured = values.get((fork, arm, unit, row["horizon"], row["probe"], row["outcome"]))
            if told is not None and not any(_close(float(told), value, abs(value)) for value in measured or ()):
                yield name, unit, float(told), measured[0] if measured else None


def _not_paired(row: dict[str, Any]) -> int | None:
    """Return the first unit whose difference is not treated minus control, where the row has all three."""
    control, treated = row["control"], row["treated"]
    if row["estimand"] != "signed ATE" or not control or not treated:
        return None
    if len(control) != len(treated) or len(control) != len(row["differences"]):
        return 0
    for index, (before, after, difference) in enumerate(zip(control, treated, row["differences"], strict=True)):
        if None in (before, after, difference):
            continue
        scale = max(abs(float(before)), abs(float(after)))
        if not _close(float(after) - float(before), float(difference), scale):
            return index
    return None


def _close(first: float, second: float, scale: float) -> bool:
    if not (math.isfinite(first) and math.isfinite(second)):
        return str(first) == str(second)
    return abs(first - second) <= _TOLERANCE * max(scale, 1e-12)


OTHER_PLAN = register(
    Rule(
        "MA851",
        "the estimate is of another plan",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The SHA-256 of plan.json is the one that estimate.json names.",
        "A plan changed after the cells ran is no plan that was declared beforehand.",
        "Run the study again under the plan as it is now.",
        "study",
        check,
    )
)
OTHER_CELL = register(
    Rule(
        "MA852",
        "a cell lies under another hash than its own",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "A cell's directory is named by the SHA-256 of its cell.json, and its result names the same.",
        "A result under another cell's name counts for an arm or unit it was not made for.",
        "Remove the cell and run the study again; it goes on where it stopped.",
        "study",
        check,
    )
)
ROW = register(
    Rule(
        "MA853",
        "an estimate is not what its own numbers give",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each row has one difference a unit, each is treated minus control as the cells measured "
        "them, and the estimate is "
        "their mean.",
        "A table whose numbers do not add up cannot be built on.",
        "Run the study again: estimate.json is recomputed from the cells.",
        "study",
        check,
    )
)
FORMAT = register(
    Rule(
        "MA854",
        "a file of a study breaks its format",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "plan.json, estimate.json, cell.json and result.json are canonical JSON that fits its schema.",
        "A file that two readers take differently can show a reviewer one thing and a program another.",
        "Run the study again.",
        "study",
        check,
    )
)
UNFINISHED = register(
    Rule(
        "MA855",
        "the study is unfinished",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "The study has plan.json, estimate.json and a manifest.",
        "A study that was stopped could have been stopped because of what it showed.",
        "Give the same `memaudit replay` command again: it goes on where it stopped.",
        "study",
        check,
    )
)
NOT_COMPLETE = register(
    Rule(
        "MA856",
        "the study's gate or nulls failed",
        Level.WARNING,
        Confidence.CERTAIN,
        Evidence.ATTESTED,
        "The study's own verdict is `complete`: the replay reproduced the recording, and carry equals carry.",
        "Where the untouched replay differs, the difference of an arm measures the replay.",
        "Find the first difference with `memaudit diff`, and replay in the numerics class of the recording.",
        "study",
        check,
    )
)
