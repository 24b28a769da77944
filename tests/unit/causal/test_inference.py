"""Intervals, p-values and refusals of paired differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from auditor.causal.inference import (
    equivalence_p,
    infer,
    max_t,
    pairing_gain,
    refusal_of,
    sign_flip_p,
    t_interval,
    units_needed,
)


def test_the_interval_is_scipys_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    treated, control = rng.standard_normal(12), rng.standard_normal(12)
    expected = stats.ttest_rel(treated, control).confidence_interval(0.9)
    assert t_interval(treated - control, 0.9) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_interval_of_three_numbers_follows_from_the_formula() -> None:
    low, high = t_interval(np.array([1.0, 2.0, 3.0]), 0.95)
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), rel=1e-12)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_interval_covers_normal_means_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(7)
    samples = rng.standard_normal((4000, n)) + 0.3
    mean, error = samples.mean(1), samples.std(1, ddof=1) / math.sqrt(n) * stats.t.ppf(0.975, n - 1)
    ours = [t_interval(sample, 0.95) for sample in samples[:200]]
    assert np.allclose(ours, np.stack([mean - error, mean + error], 1)[:200])
    assert abs(float(np.mean(np.abs(mean - 0.3) <= error)) - 0.95) < 0.012


@pytest.mark.parametrize("n", [3, 6, 9])
def test_sign_flips_agree_with_brute_force(n: int) -> None:
    d = np.random.default_rng(n).standard_normal(n) + 0.4
    flips = np.array(list(itertools.product((1, -1), repeat=n)))
    expected = np.mean(np.abs(flips @ d) >= abs(d.sum()) - 1e-12)
    assert sign_flip_p(d, seed=0) == pytest.approx(expected, abs=1e-12)
    assert max_t([dict(enumerate(d))]) == pytest.approx([expected], abs=1e-12)


def test_the_smallest_p_of_n_units_is_two_over_two_to_the_n() -> None:
    assert sign_flip_p(np.array([1.0, 1.1, 1.2, 1.3, 1.4]), seed=0) == 0.0625
    assert units_needed(0.05) == 6
    assert units_needed(0.01) == 8


def test_beyond_sixteen_units_p_is_never_zero_and_depends_on_the_seed_alone() -> None:
    d = np.linspace(1.0, 2.0, 20)
    assert sign_flip_p(d, seed=3) == sign_flip_p(d, seed=3) >= 1 / 10_000
    assert max_t([dict(enumerate(d))], seed=3) == [1 / 10_000]


def test_max_t_agrees_with_brute_force_over_whole_units() -> None:
    rng = np.random.default_rng(5)
    d = rng.standard_normal((3, 7)) + np.array([[0.0], [0.5], [1.2]])
    flips = np.array(list(itertools.product((1, -1), repeat=7)))
    scaled = d / np.sqrt((d**2).sum(1, keepdims=True))
    largest = np.abs(flips @ scaled.T).max(1)
    expected = [np.mean(largest >= abs(row.sum()) - 1e-12) for row in scaled]
    assert max_t([dict(enumerate(row)) for row in d]) == pytest.approx(expected, abs=1e-12)


def test_adjusting_never_helps_and_copies_of_a_contrast_cost_nothing() -> None:
    d = dict(enumerate(np.random.default_rng(2).standard_normal(8) + 1.0))
    alone = max_t([d])[0]
    assert max_t([d, d, d]) == pytest.approx([alone] * 3)
    assert max_t([d, {k: (-1.0) ** k * v for k, v in d.items()}])[0] >= alone


def test_max_t_takes_contrasts_with_different_units_and_any_scale() -> None:
    first, second = {0: 1e-200, 1: 2e-200, 2: 1.5e-200}, {1: 1e200, 2: 3e200, 5: 2e200}
    assert max_t([first, second]) == [2 / 8, 3 / 8]
    assert max_t([]) == []


def test_the_family_wise_error_of_max_t_holds() -> None:
    rng = np.random.default_rng(11)
    wrong = sum(min(max_t([dict(enumerate(row)) for row in rng.standard_normal((6, 8))])) <= 0.05 for _ in range(400))
    assert wrong / 400 < 0.08


def test_equivalence_is_the_two_one_sided_tests() -> None:
    rng = np.random.default_rng(1)
    control = rng.standard_normal(15)
    treated = control + 0.01 * rng.standard_normal(15)
    assert equivalence_p(treated, control, 0.02) == ttost_paired(treated, control, -0.02, 0.02)[0] < 0.05
    assert equivalence_p(treated + 0.05, control, 0.02) > 0.5


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([], "at least 3"),
        ([0.1, 0.2], "at least 3"),
        ([0.1, math.nan, 0.2, 0.3], "not finite"),
        ([0.1, math.inf, 0.2, 0.3], "not finite"),
        ([0.0] * 8, "exactly zero"),
        ([0.25] * 8, "same difference"),
        ([0.1 + 1e-14, 0.1, 0.1, 0.1], "same difference"),
        ([0.0, 0.0, 0.0, 0.0, 0.3, 0.2], "interval unreliable"),
        ([1e-9, 2e-9, 1e-9, 0.3, 0.2], "interval unreliable"),
    ],
)
def test_bad_data_gets_a_reason_and_no_number(differences: list[float], word: str) -> None:
    found = infer(differences)
    assert found.interval is None
    assert found.p_value is None
    assert found.refusal is not None
    assert word in found.refusal
    assert found.refusal in found.warnings


def test_fewer_than_six_units_declare_nothing_and_say_how_many_it_takes() -> None:
    found = infer([1.0, 1.1, 1.2, 1.3, 1.4])
    assert found.interval is not None
    assert not found.may_declare
    assert "at least 6 units" in found.warnings[0]
    assert infer([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).may_declare


def test_one_outlier_is_named() -> None:
    found = infer([0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 5.0])
    assert any("difference 7" in warning for warning in found.warnings)


def test_ordinary_data_is_not_refused() -> None:
    assert refusal_of(np.random.default_rng(0).standard_normal(10)) is None


def test_pairing_gain_is_the_share_of_variance_that_is_left() -> None:
    shared = np.array([1.0, 2.0, 3.0, 4.0])
    assert pairing_gain(shared + np.array([0.1, 0.0, 0.1, 0.0]), shared) < 0.01
    assert pairing_gain([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]) is None
    assert pairing_gain([math.nan, 1.0, 2.0], [1.0, 2.0, 3.0]) is None
