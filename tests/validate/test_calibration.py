"""Calibration of the inference path by simulation; the figures stand in docs/calibration.md (``make validate``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from auditor.causal.estimate import Arm, CellOutcome, build_rows

pytestmark = pytest.mark.validate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "calibration.md"
STUDIES = 2000
Draw = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: dict[str, Draw] = {
    "normal": lambda dice, n: dice.normal(0.0, 1.0, n),
    "Student t, 5 degrees": lambda dice, n: dice.standard_t(5, n),
    "exponential": lambda dice, n: dice.exponential(1.0, n) - 1.0,
    "lognormal": lambda dice, n: dice.lognormal(0.0, 1.0, n) - np.exp(0.5),
}
DO = [{"source": "optimizer", "do": "reset"}]


def rows(differences: np.ndarray, dice: np.random.Generator) -> list[dict[str, object]]:
    """The rows of a study with one arm a row of ``differences`` (arms, units), true mean zero."""
    arms, units = differences.shape
    control = dice.normal(1.0, 1.0, units)
    cells = [CellOutcome("carry", unit, 10, "p", {"nll": float(control[unit])}) for unit in range(units)]
    cells += [
        CellOutcome(f"arm {arm}", unit, 10, "p", {"nll": float(control[unit] + differences[arm, unit])})
        for arm in range(arms)
        for unit in range(units)
    ]
    names = [Arm("carry"), *(Arm(f"arm {arm}", DO, units) for arm in range(arms))]
    return build_rows(cells, names, outcomes=["nll"], horizons=[10], seed=0)


def said(section: str) -> dict[tuple[str, int], float]:
    """The figures of one table of the page: (row, units) to per cent."""
    text = PAGE.read_text("utf-8").split(f"## {section}")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    units = [int(re.sub(r"\D", "", cell)) for cell in lines[0][1:]]
    return {(line[0], n): float(cell) for line in lines[2:] for n, cell in zip(units, line[1:], strict=True)}


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_what_the_page_says(shape: str) -> None:
    expected = said("Coverage of the paired t interval")
    for units in (5, 8, 10, 20):
        dice = np.random.default_rng([units, sorted(SHAPES).index(shape)])
        covered = 0
        for _ in range(STUDIES):
            interval = rows(SHAPES[shape](dice, units)[None, :], dice)[0]["interval"]
            assert isinstance(interval, list)
            covered += interval[0] <= 0.0 <= interval[1]
        per_cent = 100.0 * covered / STUDIES
        print(f"{shape}, {units} units: {per_cent:.1f}")
        assert per_cent == pytest.approx(expected[shape, units], abs=0.06)
        if shape in ("normal", "Student t, 5 degrees"):
            assert 93.0 <= per_cent <= 97.5


def test_false_effects_are_what_the_page_says() -> None:
    expected = said("Studies that declare an effect where there is none")
    for arms in (1, 6):
        for units in (6, 10, 20):
            dice = np.random.default_rng([units, arms])
            studies = 1000
            false = sum(
                any(row["verdict"] == "effect" for row in rows(dice.normal(0.0, 1.0, (arms, units)), dice))
                for _ in range(studies)
            )
            per_cent = 100.0 * false / studies
            print(f"{arms} contrasts, {units} units: {per_cent:.1f}")
            assert per_cent == pytest.approx(
                expected[f"{arms} contrasts" if arms > 1 else "1 contrast", units], abs=0.06
            )
            assert per_cent <= 6.0
