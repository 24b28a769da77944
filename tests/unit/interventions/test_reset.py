"""Resets, held to what the optimizers' own formulas say of the next steps, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from auditor.artifact.resources import schema
from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch
from auditor.interventions.registry import make
from auditor.state.census import Watched

RATE, MOMENTUM, DAMPENING = 0.1, 0.9, 0.4
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Training:
    """One vector under gradients that are given."""

    def __init__(self, make_optimizer: Make, keyword: str = "optimizer") -> None:
        self.model = nn.Module()
        self.model.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.optimizer = make_optimizer(list(self.model.parameters()))
        self.watched = Watched()
        self.watched.add("model", self.model)
        self.watched.add(keyword, self.optimizer)

    def step(self, *gradients: float) -> torch.Tensor:
        """Take a step for each gradient; return by how much the last one moved the weights."""
        for gradient in gradients:
            before = self.model.weight.detach().clone()
            self.model.weight.grad = torch.tensor([gradient, 2 * gradient], dtype=torch.float64)
            self.optimizer.step()
        return before - self.model.weight.detach()

    def apply(self, source: str, **arguments: Any) -> dict[str, Any]:
        receipt = make({"source": source, "do": "reset", **arguments}).apply(Branch(self.watched, "0/0"))
        from jsonschema import Draft202012Validator

        Draft202012Validator(schema("cell-result")["properties"]["receipts"]).validate(
            [{**receipt, "at": 4, "steps_changed": None}]
        )
        return receipt

    @property
    def state(self) -> dict[str, Any]:
        return self.optimizer.state[self.model.weight]


def sgd(**more: Any) -> Make:
    return lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, **more)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE)


def close(found: torch.Tensor, first: float) -> None:
    assert found.tolist() == pytest.approx([first, 2 * first], rel=1e-12)


@pytest.mark.parametrize("source", ["optimizer", "optimizer.momentum_buffer"])
def test_clear_makes_the_next_buffer_the_next_gradient_whole(source: str) -> None:
    training = Training(sgd(dampening=DAMPENING))
    training.step(3.0, 1.0)
    training.apply(source)
    close(training.step(5.0), RATE * 5.0)
    close(training.step(7.0), RATE * (MOMENTUM * 5.0 + (1 - DAMPENING) * 7.0))


@pytest.mark.parametrize("source", ["optimizer", "optimizer.momentum_buffer"])
def test_zero_dampens_the_next_gradient(source: str) -> None:
    training = Training(sgd(dampening=DAMPENING))
    training.step(3.0, 1.0)
    training.apply(source, how="zero")
    buffer = (1 - DAMPENING) * 5.0
    close(training.step(5.0), RATE * buffer)
    close(training.step(7.0), RATE * (MOMENTUM * buffer + (1 - DAMPENING) * 7.0))


def test_without_dampening_they_are_the_same() -> None:
    moved = []
    for how in ("clear", "zero"):
        training = Training(sgd())
        training.step(3.0)
        training.apply("optimizer", how=how)
        moved.append(training.step(5.0, 7.0))
    assert torch.equal(*moved)


def test_adam_cleared_starts_its_bias_correction_anew_and_zeroed_does_not() -> None:
    cleared = Training(adam)
    cleared.step(3.0, 1.0)
    cleared.apply("optimizer")
    assert cleared.state == {}
    assert cleared.step(5.0).tolist() == pytest.approx([RATE, RATE], rel=1e-7)

    zeroed = Training(adam)
    zeroed.step(3.0, 1.0)
    zeroed.apply("optimizer", how="zero")
    assert float(zeroed.state["step"]) == 2.0
    expected = RATE * (0.1 / (1 - 0.9**3)) / (0.001 / (1 - 0.999**3)) ** 0.5
    assert zeroed.step(5.0).tolist() == pytest.approx([expected, expected], rel=1e-6)


@pytest.mark.parametrize("how", ["clear", "zero"])
def test_one_slot_leaves_the_others(how: str) -> None:
    training = Training(adam)
    training.step(3.0, 1.0)
    held = {name: value.clone() for name, value in training.state.items()}
    receipt = training.apply("optimizer.exp_avg", how=how)
    assert set(receipt["digest_before"]) == {"optimizer.exp_avg"}
    assert training.state["exp_avg"].tolist() == [0.0, 0.0]
    for name in ("exp_avg_sq", "step"):
        assert torch.equal(training.state[name], held[name])


@pytest.mark.parametrize("how", ["clear", "zero"])
def test_a_counter_that_is_named_is_reset(how: str) -> None:
    training = Training(adam)
    training.step(3.0)
    assert training.apply("optimizer.step", how=how)["applied"]
    assert float(training.state["step"]) == 0.0


NEW = {
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adadelta": torch.optim.Adadelta,
}


@pytest.mark.parametrize("make_optimizer", NEW.values(), ids=NEW)
def test_clearing_every_slot_by_name_is_clearing_the_optimizer(make_optimizer: Make) -> None:
    training, whole = Training(make_optimizer), Training(make_optimizer)
    training.step(3.0, 1.0)
    whole.step(3.0, 1.0)
    for slot in list(training.state):
        training.apply(f"optimizer.{slot}")
    whole.apply("optimizer")
    assert torch.equal(training.step(5.0, 7.0), whole.step(5.0, 7.0))


def test_the_receipt_measures_what_was_done() -> None:
    training = Training(sgd())
    training.step(3.0)
    receipt = training.apply("optimizer.momentum_buffer", how="zero")
    assert receipt["applied"] is True
    assert receipt["reason"] is None
    assert receipt["arguments"] == {"how": "zero"}
    assert (receipt["tensors"], receipt["changed"]) == (1, 1.0)
    assert receipt["norm_before"] == pytest.approx((9 + 36) ** 0.5)
    assert receipt["norm_after"] == 0.0
    assert receipt["digest_before"].keys() == receipt["digest_after"].keys() == {"optimizer.momentum_buffer"}
    assert receipt["digest_before"] != receipt["digest_after"]


@pytest.mark.parametrize(
    ("make_optimizer", "steps", "source", "how", "reason"),
    [
        (sgd(), (), "optimizer", "clear", "the optimizer keeps no state at this step"),
        (sgd(), (3.0,), "optimizer.exp_avg", "clear", "the optimizer keeps no exp_avg at this step"),
        (
            lambda p: torch.optim.SGD(p, lr=0.1),
            (3.0,),
            "optimizer.momentum_buffer",
            "clear",
            "keeps no momentum_buffer",
        ),
        (sgd(), (0.0,), "optimizer.momentum_buffer", "zero", "already was as reset makes it"),
        (torch.optim.Rprop, (3.0,), "optimizer.step_size", "clear", "what a new Rprop starts its step_size with"),
    ],
)
def test_zero_dose_is_not_applied_with_a_reason(
    make_optimizer: Make, steps: tuple[float, ...], source: str, how: str, reason: str
) -> None:
    training = Training(make_optimizer)
    if steps:
        training.step(*steps)
    before = {s.name: s.read().digest() for s in training.watched.sources()}
    receipt = training.apply(source, how=how)
    assert receipt["applied"] is False
    assert reason in receipt["reason"]
    assert receipt["changed"] == 0.0
    assert {s.name: s.read().digest() for s in training.watched.sources()} == before


def test_with_two_optimizers_one_can_be_named_and_a_bare_kind_means_both() -> None:
    one, two = Training(sgd(), "first"), Training(adam, "second")
    one.watched.add("other", two.model)
    one.watched.add("second", two.optimizer)
    one.step(3.0)
    two.step(3.0)
    assert one.apply("optimizer[second]")["applied"]
    assert (one.state.keys(), two.state.keys()) == ({"momentum_buffer"}, set())
    two.step(3.0)
    assert one.apply("optimizer.momentum_buffer")["applied"]
    assert (one.state.keys(), bool(two.state)) == (set(), True)
    one.step(3.0)
    receipt = one.apply("optimizer", how="zero")
    assert {name.partition(".")[0] for name in receipt["digest_after"]} == {"optimizer[first]", "optimizer[second]"}
    assert float(two.state["step"]) == 1.0


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"source": "params", "do": "reset"}, "no intervention 'reset' on 'params'"),
        ({"source": "optimizer", "do": "explode"}, "no intervention 'explode'"),
        ({"source": "optimizer", "do": "reset", "how": "softly"}, "how=softly of optimizer=reset: it is one of"),
        ({"source": "optimizer", "do": "reset", "why": "x"}, "why=x of optimizer=reset: it takes no such argument"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(description: dict[str, Any], message: str) -> None:
    with pytest.raises(MemauditError, match=message.replace("[", r"\[")) as caught:
        make(description)
    assert caught.value.next_step


def test_changed_elements_are_counted_bit_by_bit() -> None:
    from auditor.interventions.intervention import _elements_changed

    nan, zero = torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0])
    assert _elements_changed(nan, nan.clone()) == 0
    assert _elements_changed(zero, torch.tensor([-0.0, 1.0])) == 1
    assert _elements_changed(zero.to(torch.float8_e5m2), zero.to(torch.float8_e5m2)) == 0
    assert _elements_changed(zero, None) == 2
