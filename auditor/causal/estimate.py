"""From the results of cells to the rows of `estimate-1` (docs/study.md): a pure function of its arguments.

For unit s, horizon h and arm a against the control, with everything after the fork shared within s:
signed ATE = mean over s of φ(a) - φ(control), for a scalar outcome φ; function distance = mean over s of
D(f_a, f_control) on the probe. The family of adjusted p-values is every signed row of one call, which is one plan, or
of one fork.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from auditor.causal.distances import DISTANCES
from auditor.causal.inference import Paired, alpha_of, equivalence_p, infer, max_t, units_needed
from auditor.causal.wording import (
    DISTANCE_WORDS,
    interval_text,
    intervention_text,
    number,
    p_text,
    steps_text,
    units_text,
)
from auditor.errors import MemauditError

SIGNED = "signed ATE"
DISTANCE = "function distance"
#: Below so many units the t interval's coverage suffers from skew (reference: 88 to 92 % on exponential differences).
SKEW_UNITS = 30


@dataclass(frozen=True)
class CellOutcome:
    """What one cell measured on one probe at one horizon."""

    arm: str
    unit: int
    horizon: int
    """Steps after the fork."""
    probe: str
    values: Mapping[str, float]
    """Scalar outcomes by name."""
    predictions: NDArray[np.float64] | None = None
    """Class probabilities, shape `[samples, classes]`; None for a probe without classes."""
    fork: int = 0
    """The fork's place in the plan."""


@dataclass(frozen=True)
class Arm:
    """One arm as the study ran it."""

    name: str
    do: Sequence[Mapping[str, object]] = ()
    """Its interventions, `{source, do, …arguments}` each; none for the control."""
    applied: int | None = None
    """Units whose receipts say that every intervention was applied; None where nobody kept receipts."""
    not_applied: int = 0
    """Units whose receipts say that one was not."""
    reason: str = ""
    """Why it was not applied, from the first such receipt."""
    fork: int = 0
    """The fork's place in the plan."""


Cells = dict[tuple[int, str, int, int, str], CellOutcome]
"""By fork, arm, unit, horizon and probe."""


@dataclass
class _Draft:
    """A row in the making: its numbers before the family's adjustment."""

    arm: Arm
    outcome: str
    probe: str
    horizon: int
    units: list[int] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    treated: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    paired: Paired | None = None
    refused: bool = False
    adjusted: float | None = None

    @property
    def signed(self) -> bool:
        return self.outcome not in DISTANCES


def build_rows(
    cells: Iterable[CellOutcome],
    arms: Sequence[Arm],
    *,
    control: str = "carry",
    outcomes: Sequence[str] | Mapping[int, Sequence[str]] = ("nll", "accuracy", "tv", "disagreement"),
    horizons: Sequence[int],
    margins: Mapping[str, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
    family: str = "plan",
    at: Mapping[int, str] | None = None,
    conditional: str = "conditional on this anchor",
) -> list[dict[str, object]]:
    """Rows of `estimates`, one per fork, arm (but the control), probe, horizon and outcome, in that order.

    `margins` maps an outcome to its equivalence margin, in the outcome's unit; `seed` is the plan's and decides the
    sign flips beyond 16 units; `family` says whether p-values are adjusted over the whole plan or in each fork.
    `outcomes` are the same for every fork, or given by fork. `at` says by fork where it lies ("at step 400") and
    `conditional` what the estimand holds given, both for the sentence.

    Equal arguments give equal rows, to the byte. A number that is not finite is written as "NaN", "Infinity" or
    "-Infinity". Raises `MemauditError` for a cell given twice, a control without cells, or a plan value that makes no
    sense.
    """
    margins, at = dict(margins or {}), dict(at or {0: ""})
    _check_plan(arms, control, horizons, margins, level)
    table: Cells = {}
    for cell in cells:
        key = (cell.fork, cell.arm, cell.unit, cell.horizon, cell.probe)
        if key in table:
            raise MemauditError(
                f"unit {cell.unit} of arm {cell.arm!r} is there twice at horizon {cell.horizon}",
                why="a seed that counts twice makes every interval too narrow",
                next_step="give each unit its own seed, and each cell once",
            )
        table[key] = cell
    drafts: list[_Draft] = []
    for fork in at:
        own = {key: cell for key, cell in table.items() if key[0] == fork}
        if not any(key[1] == control for key in own):
            raise MemauditError(
                f"the control {control!r} has no finished cell", next_step="run the study's control first"
            )
        asked = outcomes[fork] if isinstance(outcomes, Mapping) else outcomes
        measured = _measured_on(own.values(), asked)
        drafts += [
            _draft(own, arm, control=control, probe=probe, horizon=horizon, outcome=outcome)
            for arm in arms
            if arm.name != control and arm.fork == fork
            for probe in sorted({key[4] for key in own})
            for horizon in sorted(set(horizons))
            for outcome, probes in measured.items()
            if probe in probes or not probes
        ]
    for draft in drafts:
        _infer(draft, level, seed)
    if family == "plan":
        _adjust(drafts, seed)
    else:
        for fork in at:
            _adjust([draft for draft in drafts if draft.arm.fork == fork], seed)
    return [_row(draft, margins.get(draft.outcome), level, at[draft.arm.fork], conditional) for draft in drafts]


def _measured_on(cells: Iterable[CellOutcome], outcomes: Sequence[str]) -> dict[str, set[str]]:
    """Return the probes on which each outcome was measured in any cell; what was measured on none is told of each."""
    found: dict[str, set[str]] = {outcome: set() for outcome in outcomes}
    for cell in cells:
        for outcome, probes in found.items():
            if cell.predictions is not None if outcome in DISTANCES else outcome in cell.values:
                probes.add(cell.probe)
    return found


def _check_plan(
    arms: Sequence[Arm], control: str, horizons: Sequence[int], margins: Mapping[str, float], level: float
) -> None:
    if not 0.5 <= level < 1.0:
        raise MemauditError(f"a confidence level of {level} makes no sense", next_step="take one such as 0.95")
    names = [(arm.fork, arm.name) for arm in arms]
    if len(set(names)) != len(names):
        listed = ", ".join(arm.name for arm in arms)
        raise MemauditError("two arms have the same name", where=listed, next_step="name each arm once")
    if not horizons or any(h < 0 for h in horizons):
        raise MemauditError(
            f"horizons {list(horizons)} make no sense", next_step="give steps after the fork, 0 or more, such as 100"
        )
    for outcome, margin in margins.items():
        if outcome in DISTANCES:
            raise MemauditError(
                f"{outcome} takes no equivalence margin",
                why="a distance is never negative and is never tested against zero",
                next_step="declare margins for signed outcomes such as nll or accuracy",
            )
        if not (math.isfinite(margin) and margin > 0.0):
            raise MemauditError(f"the margin of {outcome} is {margin}", next_step="declare a positive, finite margin")
    if control in margins:
        raise MemauditError(f"{control!r} is an arm, not an outcome", next_step="declare margins by outcome")


def _draft(table: Cells, arm: Arm, *, control: str, probe: str, horizon: int, outcome: str) -> _Draft:
    """Pairs of treated and control by unit, with whatever is missing said in the warnings."""
    draft = _Draft(arm, outcome, probe, horizon)
    if arm.applied == 0:
        why = f": {arm.reason}" if arm.reason else ""
        draft.warnings.append(f'the intervention was applied in no unit{why}. That is not "no effect"')
        return draft
    if arm.not_applied:
        draft.warnings.append(
            f"the intervention was not applied in {arm.not_applied} of {arm.not_applied + (arm.applied or 0)} units, "
            "which are kept: leaving them out would choose units by what happened to them"
        )
    treated = {key[2]: cell for key, cell in table.items() if (key[1], *key[3:]) == (arm.name, horizon, probe)}
    carried = {key[2]: cell for key, cell in table.items() if (key[1], *key[3:]) == (control, horizon, probe)}
    alone = sorted(treated.keys() ^ carried.keys())
    if alone:
        draft.warnings.append(
            f"{_listed(alone)} finished in one of the two arms only and cannot be paired; run the missing cells"
        )
    unmeasured = []
    for unit in sorted(treated.keys() & carried.keys()):
        pair = _measure(treated[unit], carried[unit], outcome)
        if pair is None:
            unmeasured.append(unit)
            continue
        draft.units.append(unit)
        draft.differences.append(pair[2])
        if draft.signed:
            draft.treated.append(pair[0])
            draft.control.append(pair[1])
    if unmeasured:
        needs = "class probabilities" if not draft.signed or outcome in ("nll", "accuracy") else "a value in each cell"
        draft.warnings.append(f"{outcome} was not measured in {_listed(unmeasured)}: it needs {needs}")
    twins = _twins([(carried[unit], treated[unit]) for unit in draft.units])
    if twins:
        draft.refused = True
        draft.warnings.append(
            f"units {twins[0]} and {twins[1]} gave bit-identical predictions in both arms: they are one seed counted "
            "twice. Give each unit its own streams"
        )
    return draft


def _measure(treated: CellOutcome, control: CellOutcome, outcome: str) -> tuple[float, float, float] | None:
    """(treated, control, difference), or (nan, nan, distance); None where the outcome is missing in either."""
    if outcome in DISTANCES:
        if treated.predictions is None or control.predictions is None:
            return None
        return math.nan, math.nan, DISTANCES[outcome](treated.predictions, control.predictions)
    if outcome not in treated.values or outcome not in control.values:
        return None
    t, c = float(treated.values[outcome]), float(control.values[outcome])
    return t, c, t - c


def _twins(pairs: Sequence[tuple[CellOutcome, CellOutcome]]) -> tuple[int, int] | None:
    """Two units that agree bit for bit in control and treated; None where none do, or where all do.

    Where all units agree nothing random follows the fork, which the inference refuses with a reason of its own.
    """
    seen: dict[tuple[bytes, bytes], int] = {}
    twins = None
    for control, treated in pairs:
        if control.predictions is None or treated.predictions is None:
            return None
        print_ = (control.predictions.tobytes(), treated.predictions.tobytes())
        if print_ in seen and twins is None:
            twins = (seen[print_], control.unit)
        seen.setdefault(print_, control.unit)
    return twins if len(seen) > 1 else None


def _infer(draft: _Draft, level: float, seed: int) -> None:
    if draft.arm.applied == 0 or not draft.units:
        return
    draft.paired = infer(draft.differences, level=level, seed=seed)
    draft.warnings.extend(draft.paired.warnings)
    if draft.paired.refusal is not None:
        draft.refused = True
    elif len(draft.units) < SKEW_UNITS and draft.outcome != "accuracy":
        what = "a distance is" if not draft.signed else f"differences of {draft.outcome} can be"
        draft.warnings.append(
            f"{what} skewed; below {SKEW_UNITS} units a 95 % t interval covers about 90 % on exponential and 85 % on "
            "lognormal differences"
        )


def _adjust(drafts: Sequence[_Draft], seed: int) -> None:
    """Adjusted p-values over every signed row that has a p-value at all."""
    family = [draft for draft in drafts if draft.signed and not draft.refused and draft.paired is not None]
    adjusted = max_t([dict(zip(draft.units, draft.differences, strict=True)) for draft in family], seed)
    for draft, value in zip(family, adjusted, strict=True):
        # The two p-values come from different draws of signs beyond 16 units; adjusting never helps.
        own = draft.paired.p_value if draft.paired and draft.paired.p_value is not None else 0.0
        draft.adjusted = max(value, own)


def _row(draft: _Draft, margin: float | None, level: float, at: str, conditional: str) -> dict[str, object]:
    paired = draft.paired
    interval = paired.interval if paired and not draft.refused else None
    warnings = list(draft.warnings)
    verdict, tost = _verdict(draft, interval, margin, level)
    if verdict == "effect" and margin is not None and interval and max(abs(interval[0]), abs(interval[1])) <= margin:
        warnings.append(
            f"the whole interval lies within the declared margin of ±{number(margin)}: an effect, and a small one"
        )
    method = "paired t" if draft.signed else "t, description of the mean distance"
    return {
        "fork": draft.arm.fork,
        "arm": draft.arm.name,
        "estimand": SIGNED if draft.signed else DISTANCE,
        "probe": draft.probe,
        "outcome": draft.outcome,
        "horizon": draft.horizon,
        "units": list(draft.units),
        "differences": [_written(v) for v in draft.differences],
        "control": [_written(v) for v in draft.control],
        "treated": [_written(v) for v in draft.treated],
        "estimate": paired.estimate if paired else None,
        "interval": list(interval) if interval else None,
        "interval_method": method,
        "level": level,
        "p_value": paired.p_value if paired and draft.signed and not draft.refused else None,
        "adjusted_p_value": draft.adjusted,
        "verdict": verdict,
        "sentence": _sentence(
            draft, interval=interval, verdict=verdict, margin=margin, tost=tost, at=at, conditional=conditional
        ),
        "warnings": warnings,
    }


def _verdict(
    draft: _Draft, interval: tuple[float, float] | None, margin: float | None, level: float
) -> tuple[str, float | None]:
    """The row's verdict, and the equivalence test's p-value where it decided."""
    if draft.arm.applied == 0:
        return "not applied", None
    if not draft.signed:
        return "descriptive", None
    alpha = alpha_of(level)
    if interval is None or draft.adjusted is None or len(draft.units) < units_needed(alpha):
        return "inconclusive", None
    if not interval[0] <= 0.0 <= interval[1] and draft.adjusted <= alpha:
        return "effect", None
    if margin is not None:
        tost = equivalence_p(np.asarray(draft.treated), np.asarray(draft.control), margin)
        if tost <= alpha:
            return "equivalent", tost
    return "inconclusive", None


def _sentence(
    draft: _Draft,
    *,
    interval: tuple[float, float] | None,
    verdict: str,
    margin: float | None,
    tost: float | None,
    at: str,
    conditional: str,
) -> str:
    what = intervention_text(draft.arm.do) if draft.arm.do else f"Arm {draft.arm.name}"
    done = f"{what} {at}".rstrip()
    outcome = DISTANCE_WORDS.get(draft.outcome, draft.outcome) + (f" of {draft.probe}" if draft.probe else "")
    when = steps_text(draft.horizon)
    if verdict == "not applied":
        return f"{done} was not applied, so nothing can be said of {outcome}."
    if draft.paired is None:
        return f"{done}: {outcome} was not measured {when}."
    count = units_text(len(draft.units), conditional)
    if draft.paired.estimate is None:
        return f"{done} left {outcome} not finite in some unit {when}; {count}; no interval."
    text = interval_text(draft.paired.estimate, interval)
    if interval is None:
        mean = "difference" if draft.signed else "distance"
        return f"{done}: mean {mean} of {outcome} {text} {when}; {count}; no interval."
    if verdict == "descriptive":
        return f"{done} moved the predictions by a mean {outcome} of {text} {when}; {count}; a description, not a test."
    adjusted = f"adjusted p = {p_text(draft.adjusted)}" if draft.adjusted is not None else "no adjusted p"
    if verdict == "effect":
        rise = draft.paired.estimate > 0
        low, high = interval if rise else (-interval[1], -interval[0])
        size = interval_text(abs(draft.paired.estimate), (low, high))
        return f"{done} {'raised' if rise else 'lowered'} {outcome} by {size} {when}; {count}; {adjusted}."
    if verdict == "equivalent" and margin is not None and tost is not None:
        return (
            f"{done} changed {outcome} by {text} {when}, equivalent to no change within ±{number(margin)} "
            f"(TOST p = {p_text(tost)}); {count}."
        )
    return f"{done} changed {outcome} by {text} {when}, which settles nothing; {count}; {adjusted}."


def _written(value: float) -> float | str:
    """JSON has no NaN: a number that is not finite is written as a string (docs/run-directory.md)."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _listed(units: Sequence[int]) -> str:
    """ "unit 3", "units 3, 5 and 8", the long ones cut."""
    shown = [str(u) for u in units[:8]]
    rest = f" and {len(units) - 8} more" if len(units) > 8 else ""
    return f"unit{'' if len(units) == 1 else 's'} {', '.join(shown)}{rest}"
