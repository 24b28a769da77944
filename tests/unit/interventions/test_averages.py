"""Averaged weights reset, frozen and averaged at another decay, held to torch's own averages bit for bit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from auditor.errors import MemauditError
from auditor.interventions.registry import make
from tests.support.intervening import Scene

DECAY, OTHER = 0.9, 0.75
KINDS: dict[str, Callable[[nn.Module], AveragedModel]] = {
    "multi": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY)),
    "single": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY)),
    "buffers": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True),
}


def network(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Training:
    """A network that wanders, and averages of it; the same each time."""

    def __init__(self, *averages: AveragedModel | None, model: nn.Module | None = None) -> None:
        self.model = network() if model is None else model
        self.averages = [average for average in averages if average is not None]
        self._noise = torch.Generator().manual_seed(3)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            with torch.no_grad():
                for tensor in self.model.parameters():
                    tensor.add_(torch.randn(tensor.shape, generator=self._noise), alpha=0.1)
            self.model(torch.randn(5, 3, generator=self._noise))
            for average in self.averages:
                average.update_parameters(self.model)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def trained(kind: str, steps: int = 3) -> tuple[Training, AveragedModel, Scene]:
    model = network()
    average = KINDS[kind](model)
    training = Training(average, model=model)
    training.step(steps)
    return training, average, Scene(model=model, ema=average)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_average_stands_as_torch_has_it_after_its_first_update(kind: str) -> None:
    training, average, scene = trained(kind)
    held = [*average.parameters()]
    student = state(training.model)
    receipt = scene.apply("ema", "reset")
    assert receipt["applied"]
    assert receipt["arguments"] == {"student": "model"}
    fresh = KINDS[kind](network(9))
    fresh.update_parameters(training.model)
    assert equal(state(average), state(fresh))
    assert int(average.n_averaged) == 1
    assert equal(state(training.model), student)
    assert all(one is two for one, two in zip(held, average.parameters(), strict=True))
    training.averages.append(fresh)
    training.step(4)
    assert equal(state(average), state(fresh))


def test_the_effect_of_a_reset_fades_with_the_decay_to_the_power_of_the_steps() -> None:
    model = network().double()
    one = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    two = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    training = Training(one, two, model=model)
    with torch.no_grad():
        model[1].double()
    training.model.forward = lambda inputs: inputs  # type: ignore[method-assign]
    training.step(5)
    gap = {
        name: parameter.detach() - dict(one.module.named_parameters())[name].detach()
        for name, parameter in model.named_parameters()
    }
    assert Scene(model=model, ema=one).apply("ema", "reset")["applied"]
    training.step(7)
    others = dict(two.module.named_parameters())
    for name, parameter in one.module.named_parameters():
        torch.testing.assert_close(parameter - others[name], DECAY**7 * gap[name], rtol=1e-10, atol=1e-15)


def test_the_receipt_counts_what_was_reset_and_everything_else_is_as_it_was() -> None:
    training, average, scene = trained("multi")
    optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1, momentum=0.9)
    scene.watched.add("optimizer", optimizer)
    before = scene.digests()
    norm = sum(float(t.double().square().sum()) for t in average.state_dict().values() if t.is_floating_point()) ** 0.5
    receipt = scene.apply("ema", "reset")
    after = scene.digests()
    assert {name for name in before if before[name] != after[name]} == {"ema"}
    assert receipt["norm_before"] == pytest.approx(norm)
    assert receipt["tensors"] == len(average.state_dict())
    assert 0.0 < receipt["changed"] < 1.0  # buffers are in step with the student's already
    assert receipt["digest_before"].keys() == {"ema"}


def test_equal_weights_are_reset_to_a_mean_of_one() -> None:
    model = network()
    average = AveragedModel(model)
    training = Training(average, model=model)
    training.step(4)
    assert Scene(model=model, swa=average).apply("swa", "reset")["applied"]
    first = {name: tensor.clone() for name, tensor in model.named_parameters()}
    training.step(1)
    for name, tensor in average.module.named_parameters():
        torch.testing.assert_close(tensor, (first[name] + dict(model.named_parameters())[name]) / 2)
    assert int(average.n_averaged) == 2


def test_an_average_that_has_not_begun_is_not_reset() -> None:
    model = network()
    scene = Scene(model=model, swa=AveragedModel(model))
    assert "has averaged nothing yet" in scene.refused("swa", "reset")
    assert "there is no ema" in scene.refused("ema", "reset")


def test_an_average_that_is_its_student_already_is_not_applied() -> None:
    model = network()
    average = AveragedModel(model)
    average.update_parameters(model)
    assert "already was as reset makes it" in Scene(model=model, swa=average).refused("swa", "reset")


def test_of_two_averages_one_is_named() -> None:
    model = network()
    one, two = KINDS["multi"](model), KINDS["single"](model)
    Training(one, two, model=model).step(3)
    scene = Scene(model=model, first=one, second=two)
    held = state(one)
    receipt = scene.apply("ema[second]", "reset")
    assert receipt["digest_after"].keys() == {"ema[second]"}
    assert equal(state(one), held)
    assert equal(state(two.module), state(model))
    assert scene.apply("ema", "reset")["digest_after"].keys() == {"ema[first]", "ema[second]"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_average_is_put_back_bit_for_bit_after_each_step(kind: str) -> None:
    training, average, scene = trained(kind)
    held = state(average)
    freeze = scene.last("ema", "freeze")
    for _ in range(3):
        training.step()
        assert not equal(state(average), held)
        before = scene.digests()
        assert freeze.after_step(scene.branch)
        assert equal(state(average), held)
        assert {name for name, digest in scene.digests().items() if digest != before[name]} == {"ema"}
    assert not freeze.after_step(scene.branch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", [{"value": OTHER}, {"half_life": 2.4094208396532095}], ids=["value", "half_life"])
def test_another_decay_is_bit_for_bit_an_average_that_had_it_from_there_on(
    kind: str, argument: dict[str, float]
) -> None:
    training, average, scene = trained(kind)
    other = copy.deepcopy(average)
    decay = OTHER if "value" in argument else 0.5 ** (1 / argument["half_life"])
    if kind == "single":
        other.avg_fn = get_ema_avg_fn(decay)
    else:
        other.multi_avg_fn = get_ema_multi_avg_fn(decay)
    training.averages.append(other)
    lasting = scene.last("ema", "decay", **argument)
    assert not lasting.after_step(scene.branch)
    for _ in range(4):
        training.step()
        assert lasting.after_step(scene.branch)
        assert equal(state(average), state(other))


class Shadow:
    """An average as many write it: a dict of tensors by name."""

    def __init__(self, model: nn.Module) -> None:
        self.decay = DECAY
        self.shadow = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        for name, tensor in model.named_parameters():
            self.shadow[name].mul_(self.decay).add_(tensor.detach(), alpha=1 - self.decay)


class InOrder:
    """An average that keeps its tensors in a list, and speaks for itself (as torch_ema does)."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [tensor.detach().clone() for tensor in model.parameters()]

    def update(self, model: nn.Module) -> None:
        for mine, tensor in zip(self.tensors, model.parameters(), strict=True):
            mine.mul_(DECAY).add_(tensor.detach(), alpha=1 - DECAY)

    def state_dict(self) -> dict[str, Any]:
        return {"decay": DECAY, "shadow_params": self.tensors}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        for mine, tensor in zip(self.tensors, stored["shadow_params"], strict=True):
            mine.copy_(tensor)


@pytest.mark.parametrize("make_average", [Shadow, InOrder])
def test_averages_of_the_programs_own_are_reset_and_averaged_at_another_decay(make_average: Any) -> None:
    model = network()
    average = make_average(model)
    tensors = average.tensors if isinstance(average, InOrder) else [*average.shadow.values()]
    training = Training(model=model)
    training.step()
    average.update(model)
    scene = Scene(model=model, ema=average)
    assert scene.apply("ema", "reset")["applied"]
    for mine, tensor in zip(tensors, model.parameters(), strict=True):
        assert torch.equal(mine, tensor)
    lasting = scene.last("ema", "decay", value=OTHER)
    for _ in range(3):
        expected = [tensor.clone() for tensor in tensors]
        training.step()
        average.update(model)
        assert lasting.after_step(scene.branch)
        for mine, before, tensor in zip(tensors, expected, model.parameters(), strict=True):
            assert torch.equal(mine, torch.lerp(before, tensor.detach(), 1 - OTHER))
    # A step without an update is left alone.
    held = [tensor.clone() for tensor in tensors]
    training.step()
    assert not lasting.after_step(scene.branch)
    assert all(map(torch.equal, held, tensors))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of value and half_life"),
        ({"value": 0.5, "half_life": 3}, "exactly one of value and half_life"),
        ({"half_life": 0}, "a half-life is above 0"),
        ({"value": 1.5}, "it is a number from 0 to 1"),
    ],
    ids=["none", "both", "zero", "above one"],
)
def test_a_decay_is_said_once_and_makes_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MemauditError, match=message):
        make({"source": "ema", "do": "decay", **arguments})
