import math

import pytest
import torch

from auditor.outcomes.classification import accuracy, nll, probabilities


def test_probabilities_are_float64_and_sum_to_one() -> None:
    found = probabilities(torch.randn(5, 3, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)))
    assert found.dtype is torch.float64
    assert found.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    assert probabilities(torch.tensor([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


def test_nll_is_the_mean_in_nats() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.75]]).double())
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert nll(logits, torch.tensor([0, 1])) == pytest.approx(expected, abs=1e-15)
    assert nll(logits, torch.tensor([0, 1], dtype=torch.int32)) == pytest.approx(expected, abs=1e-15)


def test_accuracy_takes_the_first_of_equal_logits() -> None:
    logits = torch.tensor([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
    assert accuracy(logits, torch.tensor([1, 1, 0])) == pytest.approx(2 / 3)
