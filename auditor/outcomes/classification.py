"""Outcomes of a classifier on a probe with class targets."""

from __future__ import annotations

import torch


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return float64 class probabilities ``[samples, classes]`` from logits of the same shape."""
    return torch.softmax(logits.double(), dim=1)


def nll(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean negative log-likelihood in nats; logits ``[samples, classes]``, targets ``[samples]``."""
    return float(torch.nn.functional.cross_entropy(logits.double(), targets.long()))


def accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of samples whose largest logit is the target's; the first wins where several are equal."""
    return float((logits.argmax(dim=1) == targets).double().mean())
