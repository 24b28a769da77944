"""Optimizers that keep their state in other ways than torch's own do."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state.census import Watched
from tests.unit.state.state_support import capture, digests, names, put_back, watch


class Odd(torch.optim.Optimizer):
    """Keeps something after a step, as ``keep`` says."""

    def __init__(self, parameters: Any, keep: str) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.keep = keep

    def step(self, closure: Any = None) -> None:
        state: Any = self.state
        for parameter in self.param_groups[0]["params"]:
            match self.keep:
                case "a tensor":
                    state[parameter] = torch.zeros_like(parameter)
                case "an object":
                    state[parameter] = self
                case "a number as key":
                    state[parameter][0] = torch.zeros_like(parameter)
                case "identities":
                    state[id(parameter)] = torch.zeros_like(parameter)
                case "a count":
                    state["count"] = torch.tensor(3.0)
                case "memory":
                    kept = state[parameter].setdefault("master", parameter.data)
                    kept.add_(1.0)


def build(keep: str) -> tuple[nn.Module, Odd, Watched]:
    net = nn.Linear(2, 2)
    nn.init.zeros_(net.weight)
    optimizer = Odd(net.parameters(), keep)
    return net, optimizer, watch(model=net, optimizer=optimizer)


@pytest.mark.parametrize("keep", ["a tensor", "an object", "a number as key"])
def test_state_without_a_name_is_an_error_that_says_where(keep: str) -> None:
    _, optimizer, found = build(keep)
    found.sources()
    optimizer.step()
    with pytest.raises(MemauditError, match="no name to be recorded under") as caught:
        found.sources()
    assert caught.value.where == "optimizer.state[weight]"
    assert caught.value.next_step


def test_state_by_identity_is_told() -> None:
    _, optimizer, found = build("identities")
    optimizer.step()
    told = next(each for each in found.sources() if each.name == "optimizer.unlisted")
    assert told.reason == "state under keys that are neither parameters nor text"


def test_a_count_without_a_length_is_read() -> None:
    _, optimizer, found = build("a count")
    found.sources()
    optimizer.step()
    assert "optimizer.count" in names(found)


def test_a_slot_over_its_parameters_memory_stays_one() -> None:
    net, optimizer, found = build("memory")
    optimizer.step()
    fresh, again, found2 = build("memory")
    put_back(found2, capture(found))
    for each in (optimizer, again):
        each.step()
    assert fresh.weight.tolist() == net.weight.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert digests(found) == digests(found2)


class Wrapper(torch.optim.Optimizer):
    """Hands out what it wraps as its own, as accelerate's does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def defaults(self) -> Any:  # type: ignore[override]
        return self.optimizer.defaults


def test_a_wrapper_that_hands_out_the_state_says_it_once() -> None:
    def trained(steps: int) -> Watched:
        net = nn.Linear(2, 2)
        inner = torch.optim.Adam(net.parameters())
        for _ in range(steps):
            net(torch.ones(1, 2)).sum().backward()
            inner.step()
        return watch(model=net, optimizer=Wrapper(inner))

    found = trained(2)
    slots = [name for name in names(found) if name.startswith("optimizer")]
    assert slots == ["optimizer.exp_avg", "optimizer.exp_avg_sq", "optimizer.step"]
    put_back(trained(0), capture(found))


class Average:
    """Follows the weights from a hook, and begins when it is first called."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.copy = copy.deepcopy(net)
        self.calls = 0

    def update(self, *_: Any) -> None:
        self.calls += 1
        if not hasattr(self, "drift"):
            self.drift = torch.zeros(())
        for mean, parameter in zip(self.copy.parameters(), self.net.parameters(), strict=True):
            self.drift = self.drift + (mean - parameter).detach().square().sum()
            mean.data.lerp_(parameter.data, 0.1)


def test_what_a_hook_of_an_optimizer_follows_is_found_and_goes_on() -> None:
    def built() -> tuple[nn.Module, torch.optim.Optimizer, Watched]:
        torch.manual_seed(3)
        net = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.register_step_post_hook(Average(net).update)
        return net, optimizer, watch(model=net, optimizer=optimizer)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    net, optimizer, found = built()
    found.sources()
    step(net, optimizer)
    assert [name for name in names(found) if name.startswith("optimizer")] == [
        *("optimizer.step_post_hook0", "optimizer.step_post_hook0.calls", "optimizer.step_post_hook0.drift"),
    ]
    fresh, again, found2 = built()
    put_back(found2, capture(found))
    step(net, optimizer)
    step(fresh, again)
    assert digests(found) == digests(found2)


def test_a_module_that_an_optimizer_keeps_is_found() -> None:
    net, optimizer, found = build("nothing")
    optimizer.slow = copy.deepcopy(net)  # type: ignore[attr-defined]
    assert "optimizer.slow" in names(found)
    _, again, found2 = build("nothing")
    again.slow = copy.deepcopy(net)  # type: ignore[attr-defined]
    nn.init.ones_(again.slow.weight)
    put_back(found2, capture(found))
    assert again.slow.weight.tolist() == [[0.0, 0.0], [0.0, 0.0]]
