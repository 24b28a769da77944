"""Power before running: what a study of n units could detect."""

from __future__ import annotations


def detectable(units: int, *, power: float = 0.8, level: float = 0.95) -> float | None:
    """Return the smallest paired difference, in its own standard deviations, that a two-sided t test detects.

    ``statsmodels.stats.power.TTestPower`` solved for the effect size; None below two units, where there is no test.
    """
    if units < 2:
        return None
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().solve_power(nobs=units, alpha=1.0 - level, power=power, alternative="two-sided"))
