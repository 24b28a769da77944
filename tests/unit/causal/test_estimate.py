"""From cells to the rows of an estimate."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import validator
from auditor.causal.estimate import Arm, CellOutcome, build_rows
from auditor.errors import MemauditError
from tests.support.build_study import cells, estimate_document

RESET = Arm("reset", [{"source": "optimizer.momentum_buffer", "do": "reset"}], applied=20)
ARMS = [Arm("carry"), RESET]


def some(differences: list[float], *, noise: float = 0.05, probe: str = "p") -> list[CellOutcome]:
    """Cells whose NLL differs by `differences`, one a unit, and whose predictions differ between units."""
    rng = np.random.default_rng(0)
    made = []
    for unit, difference in enumerate(differences):
        base, predictions = 1.0 + noise * float(rng.standard_normal()), rng.dirichlet(np.ones(3), size=4)
        made.append(CellOutcome("carry", unit, 100, probe, {"nll": base}, predictions))
        made.append(CellOutcome("reset", unit, 100, probe, {"nll": base + difference}, predictions[::-1]))
    return made


def nll(found: list[CellOutcome], arms: list[Arm] | None = None, **choices: Any) -> dict[str, Any]:
    [row] = build_rows(found, arms or ARMS, outcomes=("nll",), horizons=(100,), at={0: "at step 400"}, **choices)
    return row


def test_a_clear_effect_is_said_in_a_sentence() -> None:
    differences = [0.013 + 0.008 * z for z in np.random.default_rng(4).standard_normal(20)]
    row = nll(some(differences))
    assert row["verdict"] == "effect"
    assert row["sentence"].startswith("Resetting optimizer.momentum_buffer at step 400 raised nll of p by 0.01")
    assert row["sentence"].endswith("100 steps later; 20 units, conditional on this anchor; adjusted p = 0.0002.")
    assert row["differences"] == pytest.approx(differences)
    assert row["estimate"] == pytest.approx(np.mean(differences))


def test_a_lowering_is_said_with_a_positive_size() -> None:
    row = nll(some([-0.013 - 0.001 * unit for unit in range(8)]))
    assert "lowered nll of p by 0.01" in row["sentence"]
    assert row["interval"][1] < 0


def test_a_small_difference_is_equivalent_only_within_a_declared_margin() -> None:
    differences = [0.001 * z for z in np.random.default_rng(3).standard_normal(20)]
    assert nll(some(differences))["verdict"] == "inconclusive"
    row = nll(some(differences), margins={"nll": 0.005})
    assert row["verdict"] == "equivalent"
    assert "equivalent to no change within ±0.005" in row["sentence"]
    assert nll(some([40 * d for d in differences]), margins={"nll": 0.005})["verdict"] == "inconclusive"


def test_no_wide_interval_is_called_no_effect() -> None:
    row = nll(some([0.1, -0.2, 0.3, -0.1, 0.15, -0.3, 0.05]))
    assert row["verdict"] == "inconclusive"
    assert "settles nothing" in row["sentence"]
    assert "no effect" not in row["sentence"]


def test_five_units_never_show_an_effect_however_large() -> None:
    row = nll(some([10.0, 10.1, 10.2, 10.3, 10.4]), margins={"nll": 100.0})
    assert row["verdict"] == "inconclusive"
    assert any("at least 6 units" in warning for warning in row["warnings"])


def test_an_arm_that_was_not_applied_has_no_numbers() -> None:
    arm = Arm("reset", RESET.do, applied=0, not_applied=20, reason="the source is empty")
    row = nll(some([0.1, 0.2, 0.3]), [Arm("carry"), arm])
    assert row["verdict"] == "not applied"
    assert row["units"] == row["differences"] == row["control"] == row["treated"] == []
    assert row["estimate"] is row["interval"] is row["p_value"] is row["adjusted_p_value"] is None
    assert "the source is empty" in row["warnings"][0]


def test_units_where_it_was_not_applied_are_kept_and_said() -> None:
    arm = Arm("reset", RESET.do, applied=7, not_applied=1)
    row = nll(some([0.1 + 0.01 * unit for unit in range(8)]), [Arm("carry"), arm])
    assert len(row["units"]) == 8
    assert "not applied in 1 of 8 units" in row["warnings"][0]


def test_a_unit_that_diverged_is_a_refusal_that_json_can_hold() -> None:
    row = nll(some([0.1, 0.2, math.nan, 0.3, 0.25, 0.2, 0.1]))
    assert row["differences"][2] == "NaN"
    assert row["interval"] is row["p_value"] is row["adjusted_p_value"] is None
    assert row["verdict"] == "inconclusive"
    canonical_bytes(row)


def test_a_seed_given_twice_is_refused() -> None:
    found = some([0.1, 0.2, 0.3])
    with pytest.raises(MemauditError, match="there twice"):
        nll([*found, found[1]])


def test_two_units_with_the_same_bits_are_one_seed_counted_twice() -> None:
    found = some([0.1 + 0.01 * unit for unit in range(7)])
    twin = [CellOutcome(c.arm, 7, c.horizon, c.probe, c.values, c.predictions) for c in found[:2]]
    row = nll([*found, *twin])
    assert row["interval"] is row["adjusted_p_value"] is None
    assert any("units 0 and 7" in warning for warning in row["warnings"])


def test_a_unit_without_its_control_is_left_out_and_said() -> None:
    found = some([0.1 + 0.01 * unit for unit in range(8)])[1:]
    row = nll(found)
    assert row["units"] == [1, 2, 3, 4, 5, 6, 7]
    assert "unit 0 finished in one of the two arms only" in row["warnings"][0]


def test_distances_describe_and_are_never_tested() -> None:
    rows = build_rows(cells(), [Arm("carry"), Arm("reset momentum", RESET.do)], outcomes=("tv",), horizons=(20,))
    assert rows[0]["verdict"] == "descriptive"
    assert rows[0]["p_value"] is rows[0]["adjusted_p_value"] is None
    assert rows[0]["estimate"] > 0
    assert "description" in rows[0]["interval_method"]
    assert "not a test" in rows[0]["sentence"]


def test_what_does_not_apply_is_listed_as_such() -> None:
    found = [CellOutcome(c.arm, c.unit, c.horizon, c.probe, {"mine": 1.0 + c.unit}) for c in some([0.1] * 8)]
    rows = build_rows(found, ARMS, outcomes=("mine", "tv", "nll"), horizons=(100,))
    assert [row["verdict"] for row in rows] == ["inconclusive"] * 1 + ["descriptive", "inconclusive"]
    assert any("needs class probabilities" in warning for warning in rows[1]["warnings"])
    assert "was not measured" in rows[2]["sentence"]


def test_more_contrasts_make_adjusted_p_values_larger() -> None:
    rng = np.random.default_rng(8)
    found = some([0.01 + 0.015 * z for z in rng.standard_normal(10)])
    alone = nll(found)["adjusted_p_value"]
    more, arms = list(found), list(ARMS)
    for number in range(10):
        arms.append(Arm(f"other {number}", RESET.do))
        more += [
            CellOutcome(f"other {number}", c.unit, 100, "p", {"nll": c.values["nll"] + float(rng.standard_normal())})
            for c in found
            if c.arm == "carry"
        ]
    rows = build_rows(more, arms, outcomes=("nll",), horizons=(100,))
    assert rows[0]["adjusted_p_value"] > alone == rows[0]["p_value"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"level": 1.0}, "confidence level"),
        ({"margins": {"nll": -1.0}}, "margin"),
        ({"margins": {"tv": 0.1}}, "takes no equivalence margin"),
        ({"control": "nobody"}, "no finished cell"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(MemauditError, match=words):
        nll(some([0.1, 0.2, 0.3]), **choices)


def test_equal_seeds_give_equal_bytes_and_cells_may_come_in_any_order() -> None:
    found = cells()
    arms = [Arm("carry"), Arm("reset momentum", RESET.do), Arm("reset ema", RESET.do)]
    first = build_rows(found, arms, horizons=(20, 60), seed=5)
    assert canonical_bytes(first) == canonical_bytes(build_rows(found[::-1], arms, horizons=(60, 20), seed=5))


def test_the_rows_fit_the_schema() -> None:
    document = json.loads(canonical_bytes(estimate_document()))
    assert [error.message for error in validator("estimate").iter_errors(document)] == []
