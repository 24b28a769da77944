"""Scaling buffers, held to the optimizers' own formulas."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support.intervene import intervene, watching


def trained(make: Any, *gradients: float, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Any]:
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    optimizer = make([model.weight])
    for gradient in gradients:
        step(model, optimizer, gradient)
    return model, optimizer


def step(model: Any, optimizer: Any, gradient: float) -> torch.Tensor:
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([gradient, 2 * gradient], dtype=model.weight.dtype)
    optimizer.step()
    moved: torch.Tensor = before - model.weight.detach()
    return moved


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_heavy_ball_moves_by_the_scaled_buffer() -> None:
    model, optimizer = trained(sgd, 3.0, 1.0)
    buffer = optimizer.state[model.weight]["momentum_buffer"]
    alias = buffer.view(-1)
    old = buffer.clone()
    _, receipt = intervene(watching(model=model, optimizer=optimizer), "optimizer.momentum_buffer", "scale", factor=0.3)
    assert torch.equal(alias, old * 0.3)
    assert receipt["norm_after"] == pytest.approx(0.3 * receipt["norm_before"])
    assert (receipt["tensors"], receipt["changed"]) == (1, 1.0)
    expected = 0.1 * (0.9 * 0.3 * (0.9 * 3.0 + 1.0) + 5.0)
    assert step(model, optimizer, 5.0).tolist() == pytest.approx([expected, 2 * expected], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_product_is_rounded_once_to_the_buffers_type(dtype: torch.dtype) -> None:
    model, optimizer = trained(sgd, 3.1, dtype=dtype)
    buffer = optimizer.state[model.weight]["momentum_buffer"]
    old = buffer.clone()
    intervene(watching(model=model, optimizer=optimizer), "optimizer", "scale", factor=1.7)
    assert torch.equal(buffer, (old.float() * torch.tensor(1.7, dtype=torch.float32)).to(dtype))


def test_every_floating_slot_is_scaled_and_counters_stay() -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.NAdam(parameters, lr=0.1)

    model, optimizer = trained(make, 3.0, 1.0)
    held = {name: value.clone() for name, value in optimizer.state[model.weight].items()}
    intervene(watching(model=model, optimizer=optimizer), "optimizer", "scale", factor=2)
    state = optimizer.state[model.weight]
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[name], 2 * held[name])
    for name in ("step", "mu_product"):
        assert torch.equal(state[name], held[name])


def test_adams_next_step_scales_with_the_root_of_the_second_moments_factor() -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.1, eps=0.0)

    model, optimizer = trained(make, 3.0)
    intervene(watching(model=model, optimizer=optimizer), "optimizer.exp_avg_sq", "scale", factor=4.0)
    second = (0.999 * 4 * 0.001 * 9 + 0.001 * 25) / (1 - 0.999**2)
    first = (0.9 * 0.1 * 3 + 0.1 * 5) / (1 - 0.9**2)
    assert step(model, optimizer, 5.0).tolist() == pytest.approx([0.1 * first / second**0.5] * 2, rel=1e-6)


def test_a_slot_of_lists_is_scaled_where_it_is_named() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    inputs = torch.randn(8, 2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    watched = watching(model=model, optimizer=optimizer)
    _, receipt = intervene(watched, "optimizer", "scale", factor=0.5)
    assert receipt["reason"] == "what scaling every slot of LBFGS means is not known; name one"
    (state,) = [held for held in optimizer.state.values() if held]
    old = [direction.clone() for direction in state["old_dirs"]]
    assert old
    _, receipt = intervene(watched, "optimizer.old_dirs", "scale", factor=0.5)
    assert all(torch.equal(new, 0.5 * each) for new, each in zip(state["old_dirs"], old, strict=True))


def test_one_of_two_optimizers_can_be_named_and_a_bare_slot_means_both() -> None:
    one, first = trained(sgd, 3.0)
    two, second = trained(sgd, 7.0)
    watched = watching(one=one, two=two, first=first, second=second)
    _, receipt = intervene(watched, "optimizer[second]", "scale", factor=0.5)
    assert receipt["digest_before"].keys() == {"optimizer[second].momentum_buffer"}
    _, receipt = intervene(watched, "optimizer.momentum_buffer", "scale", factor=0.5)
    assert len(receipt["digest_before"]) == 2


@pytest.mark.parametrize(
    ("make", "source", "factor", "reason"),
    [
        (sgd, "optimizer", 1, "already was as scale makes it"),
        (sgd, "optimizer.exp_avg", 2, "keeps no exp_avg"),
        (lambda p: torch.optim.SGD(p, lr=0.1), "optimizer", 2, "keeps no state"),
    ],
)
def test_zero_dose_of_scaling_is_not_applied(make: Any, source: str, factor: float, reason: str) -> None:
    model, optimizer = trained(make, 3.0)
    _, receipt = intervene(watching(model=model, optimizer=optimizer), source, "scale", factor=factor)
    assert receipt["applied"] is False
    assert reason in receipt["reason"]
