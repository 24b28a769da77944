"""Inference on differences paired by unit (a seed), for 5 to 50 units.

The unit is the seed: probe samples, minibatches and repeats are never units. The interval is the paired t interval;
the p-value is an exact sign-flip p-value, which needs differences that are symmetric about zero under the null. The
interval decides and the p-value accompanies it. Coverage of the t interval: 95 ± 1 % on normal differences at 5 to 20
units, 88 to 92 % on exponential and 82 to 87 % on lognormal ones.

Where an interval would not mean what it says, there is none: `Paired.refusal` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Vector = NDArray[np.float64]

#: A p-value above this is never called an effect, whatever the plan's level.
SIGNIFICANCE = 0.05
#: Up to so many units all 2^n sign patterns are enumerated; beyond, `RESAMPLES` are drawn.
ENUMERATED = 16
RESAMPLES = 9999
#: A difference counts as nearly zero below this share of the largest one. For normal data with 20 units about one
#: difference in a thousand is that small, so that half of them being so is no accident.
NEARLY_ZERO = 1e-3
#: Differences whose spread is below this share of their size are one number, repeated.
CONSTANT = 1e-9
#: A difference further from the median than so many scaled median deviations is named as an outlier.
OUTLIER = 6.0


def alpha_of(level: float) -> float:
    """The error rate at which a p-value is significant: 1 - level, never above `SIGNIFICANCE`."""
    return min(SIGNIFICANCE, round(1.0 - level, 12))


def units_needed(alpha: float) -> int:
    """The fewest units whose smallest two-sided sign-flip p-value, 2/2^n, does not exceed `alpha`: 6 at .05."""
    return max(3, math.ceil(math.log2(2.0 / alpha)))


@dataclass(frozen=True)
class Paired:
    """What paired differences say.

    `interval` and `p_value` are None exactly where `refusal` gives the reason; `may_declare` says whether there are
    enough units for any verdict but "inconclusive".
    """

    estimate: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    refusal: str | None
    may_declare: bool
    warnings: tuple[str, ...]


def t_interval(differences: Vector, level: float) -> tuple[float, float]:
    """Paired t interval of the mean of `differences`, shape `[units]`, at least two of them, not all equal."""
    found = stats.ttest_rel(differences, np.zeros_like(differences)).confidence_interval(confidence_level=level)
    return float(found.low), float(found.high)


def _mean(sample: Vector, axis: int) -> Vector:
    return np.asarray(np.mean(sample, axis=axis), dtype=np.float64)


def sign_flip_p(differences: Vector, seed: int) -> float:
    """Two-sided sign-flip p-value of a zero mean, for `differences` of shape `[units]`.

    All 2^n patterns up to 16 units; beyond, (b + 1)/(m + 1) of m = 9999 patterns drawn with `seed`
    (Phipson & Smyth 2010, "Permutation P-values should never be zero").
    """
    exact = differences.size <= ENUMERATED
    found = stats.permutation_test(
        (differences,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**ENUMERATED if exact else RESAMPLES,
        batch=4096,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return float(min(1.0, found.pvalue))


def refusal_of(differences: Vector) -> str | None:
    """Why no interval of `differences` (shape `[units]`) would mean what it says, or None if one does."""
    n = differences.size
    if not np.isfinite(differences).all():
        bad = int(n - np.isfinite(differences).sum())
        return (
            f"{bad} of {n} differences are not finite: an arm or its control diverged. No interval is given; "
            "report how many units diverged, or shorten the horizon"
        )
    if n < 3:
        return f"{n} unit{'' if n == 1 else 's'}: an interval takes at least 3. Run more units"
    largest = float(np.abs(differences).max())
    if largest == 0.0:
        return (
            "every difference is exactly zero: nothing that was measured here changed. No interval is given, and this "
            "is no proof of equivalence; look at the receipts and at longer horizons"
        )
    if float(np.ptp(differences)) <= CONSTANT * largest:
        return (
            "every unit gave the same difference: the units are not independent samples, or nothing random follows "
            "the fork. That is one observation, not many, and no interval is given"
        )
    small = int((np.abs(differences) <= NEARLY_ZERO * largest).sum())
    if 2 * small >= n:
        return (
            f"interval unreliable: {small} of {n} differences are exactly or nearly zero, where a t interval covers "
            "as little as 61 %. Look at the per-unit table; a longer horizon or a finer outcome may help"
        )
    return None


def outliers(differences: Vector) -> list[int]:
    """Positions of differences that lie far from all others, by the median absolute deviation; from 5 units on."""
    if differences.size < 5:
        return []
    away = np.abs(differences - np.median(differences))
    scale = 1.4826 * float(np.median(away))
    return [] if scale == 0.0 else [int(i) for i in np.flatnonzero(away > OUTLIER * scale)]


def infer(differences: Sequence[float] | Vector, *, level: float = 0.95, seed: int = 0) -> Paired:
    """Mean, interval and p-value of paired differences of shape `[units]`, or a refusal with its reason.

    `level` is the interval's confidence level, in (0, 1); `seed` is that of the sign flips beyond 16 units.
    """
    d = np.asarray(differences, dtype=np.float64)
    needed = units_needed(alpha_of(level))
    may_declare = d.size >= needed
    estimate = float(d.mean()) if d.size and np.isfinite(d).all() else None
    refusal = refusal_of(d)
    if refusal is not None:
        return Paired(estimate, None, None, refusal, may_declare, (refusal,))
    warnings = []
    if not may_declare:
        warnings.append(
            f"{d.size} units: the smallest two-sided p-value is {2 / 2**d.size:.3g}, so that nothing can be declared; "
            f"it takes at least {needed} units, and 20 are recommended"
        )
    far = outliers(d)
    if far:
        which = ", ".join(str(i + 1) for i in far)
        warnings.append(f"difference {which} of {d.size} lies far from the others: look at that unit before the mean")
    return Paired(estimate, t_interval(d, level), sign_flip_p(d, seed), None, may_declare, tuple(warnings))


def _patterns(n: int, seed: int) -> NDArray[np.float64]:
    """Sign patterns of shape `[patterns, n]`: all with a first sign of +1 up to 16 units, else drawn with `seed`.

    The statistic is two-sided, so that a pattern and its mirror image count the same and half of them suffice.
    """
    if n <= ENUMERATED:
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)[None, :]) & 1
        return np.asarray(1.0 - 2.0 * bits[:, ::-1], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, size=(RESAMPLES, n))
    return np.asarray(1.0 - 2.0 * drawn, dtype=np.float64)


def max_t(family: Sequence[dict[int, float]], seed: int = 0) -> list[float]:
    """Adjusted p-values by the sign-flip max-T, whole units flipped across all contrasts.

    Each member of `family` maps unit to difference: finite, and not all zero. Arms share their control, so their
    differences go together; flipping whole units keeps that dependence (Westfall & Young 1993). The statistic is
    |Σd| / √Σd², which orders one contrast's patterns as |t| does and has variance 1 under flips whatever the contrast's
    number of units. All patterns up to 16 units, else (b + 1)/(m + 1) of m = 9999 drawn with `seed`.
    """
    if not family:
        return []
    units = sorted({unit for member in family for unit in member})
    table = np.array([[member.get(unit, 0.0) for unit in units] for member in family])
    # Scaled first, so that differences of any size neither underflow nor overflow when squared.
    table = table / np.abs(table).max(axis=1, keepdims=True)
    table = table / np.sqrt((table**2).sum(axis=1, keepdims=True))
    observed = np.abs(table.sum(axis=1))
    patterns = _patterns(len(units), seed)
    largest = np.empty(len(patterns))
    for start in range(0, len(patterns), 4096):
        largest[start : start + 4096] = np.abs(patterns[start : start + 4096] @ table.T).max(axis=1)
    # The tolerance lets patterns that tie in exact arithmetic tie here too.
    hits = (largest[:, None] >= observed[None, :] * (1.0 - 1e-12) - 1e-14).sum(axis=0)
    if len(units) <= ENUMERATED:
        return [float(h / len(patterns)) for h in hits]
    return [float((h + 1) / (len(patterns) + 1)) for h in hits]


def equivalence_p(treated: Vector, control: Vector, margin: float) -> float:
    """p-value of the two one-sided paired t tests that the mean of treated - control lies within ±`margin`.

    Vectors of shape `[units]`, margin positive, in the outcome's unit. Equivalence holds where p ≤ .05.
    """
    from statsmodels.stats.weightstats import ttost_paired  # half a second to import, and only studies need it

    p_value, _, _ = ttost_paired(treated, control, -margin, margin)
    return float(p_value)


def pairing_gain(treated: Sequence[float], control: Sequence[float]) -> float | None:
    """What pairing bought: Var(treated - control) over Var(treated) + Var(control); None where neither arm varies."""
    t, c = np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if t.size < 3 or t.size != c.size or not (np.isfinite(t).all() and np.isfinite(c).all()):
        return None
    total = float(t.var(ddof=1) + c.var(ddof=1))
    return float((t - c).var(ddof=1)) / total if total > 0.0 else None
