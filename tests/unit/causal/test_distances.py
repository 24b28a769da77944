"""Distances between two classifiers' probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.causal.distances import disagreement, total_variation
from auditor.errors import MemauditError

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
Q = np.array([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])


def test_total_variation_is_half_the_l1_distance_a_sample() -> None:
    assert total_variation(P, Q) == pytest.approx(0.25)
    assert total_variation(np.eye(3), np.roll(np.eye(3), 1, axis=1)) == 1.0


def test_disagreement_is_the_share_of_samples_whose_class_changes() -> None:
    assert disagreement(P, Q) == 0.5
    assert disagreement(np.array([[0.5, 0.5]]), np.array([[0.6, 0.4]])) == 0.0


@pytest.mark.parametrize("distance", [total_variation, disagreement])
def test_equal_predictions_have_no_distance_and_order_does_not_matter(distance) -> None:
    assert distance(P, P) == 0.0
    assert distance(P, Q) == distance(Q, P)


@pytest.mark.parametrize("distance", [total_variation, disagreement])
def test_a_nan_stays_a_nan(distance) -> None:
    broken = P.copy()
    broken[0, 0] = np.nan
    assert np.isnan(distance(P, broken))


@pytest.mark.parametrize("other", [P[:1], P[0], np.zeros((0, 3)), np.zeros((2, 4))])
def test_other_shapes_are_refused(other) -> None:
    with pytest.raises(MemauditError, match="cannot be compared"):
        total_variation(P, other)
