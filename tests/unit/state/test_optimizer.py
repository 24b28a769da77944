"""Slots put back into a fresh optimizer: what follows is the same bit for bit."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from auditor.state.anchor import copied
from auditor.state.census import Watched
from auditor.state.optimizer import HyperSource, SlotSource, WatchedOptimizer
from auditor.state.source import Reading

Make = Callable[[nn.Module], torch.optim.Optimizer]
MAKERS: dict[str, Make] = {
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "sgd momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=0.3),
    "sgd nesterov": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
    "adam amsgrad": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, amsgrad=True),
    "adam foreach": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, foreach=True),
    "adam fused": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, fused=True),
    "adam tensor lr": lambda net: torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01)),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1),
    "rmsprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01, momentum=0.9, centered=True),
    "nadam": lambda net: torch.optim.NAdam(net.parameters(), lr=0.01),
    "adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=0.01),
    "two groups": lambda net: torch.optim.SGD(
        [{"params": [net[0].weight]}, {"params": [net[0].bias, *net[2].parameters()], "momentum": 0.5}],
        lr=0.1,
        momentum=0.9,
    ),
}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        net(inputs).square().mean().backward()
        optimizer.step()


def watched(net: nn.Module, optimizer: torch.optim.Optimizer) -> Watched:
    found = Watched()
    found.add("model", net)
    found.add("optimizer", optimizer)
    return found


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped elsewhere"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_restored_optimizer_continues_bit_for_bit(make: Make, stepped: bool) -> None:
    net = network()
    optimizer = make(net)
    train(net, optimizer, range(4))
    held = {source.name: copied(source.read()) for source in watched(net, optimizer).sources()}
    train(net, optimizer, range(4, 8))

    again = network()
    other = make(again)
    if stepped:
        train(again, other, range(20, 23))
    live = watched(again, other)
    for name, reading in held.items():
        source = next((s for s in live.sources() if s.name == name), None) or live.slot_source(name)
        assert source is not None, name
        source.restore(reading)
    assert {s.name: s.read().digest() for s in live.sources()} == {n: r.digest() for n, r in held.items()}
    train(again, other, range(4, 8))
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_slot_that_was_absent_is_taken_away() -> None:
    net = network()
    optimizer = MAKERS["adam"](net)
    train(net, optimizer, range(2))
    for source in watched(net, optimizer).sources():
        if isinstance(source, SlotSource):
            source.restore(Reading({}))
    train(net, optimizer, range(2, 3))  # as a new optimizer: a state without slots is filled again
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}


def test_a_restored_slot_shares_no_memory_with_what_it_came_from() -> None:
    net = network()
    optimizer = MAKERS["adam"](net)
    train(net, optimizer, range(2))
    held = {s.name: copied(s.read()) for s in watched(net, optimizer).sources() if isinstance(s, SlotSource)}
    digests = {name: reading.digest() for name, reading in held.items()}
    for source in watched(net, optimizer).sources():
        if source.name in held:
            source.restore(held[source.name])
    train(net, optimizer, range(2, 4))
    assert {name: reading.digest() for name, reading in held.items()} == digests


def test_slots_are_named_by_the_parameter() -> None:
    net = network()
    optimizer = MAKERS["two groups"](net)
    train(net, optimizer, range(1))
    source = watched(net, optimizer).sources()[1]
    assert source.name == "optimizer.momentum_buffer"
    assert list(source.read().tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    nameless = WatchedOptimizer(optimizer, {})
    assert [name for name, _ in nameless.parameters()] == [
        *("group0.param0", "group1.param0", "group1.param1", "group1.param2")
    ]


def test_half_lives_follow_from_the_hyper_parameters() -> None:
    net = network()
    for make, slot, decay in [
        ("sgd momentum", "momentum_buffer", 0.9),
        ("adam", "exp_avg", 0.9),
        ("adam", "exp_avg_sq", 0.999),
        ("rmsprop", "square_avg", 0.99),
    ]:
        half_life = SlotSource("x", WatchedOptimizer(MAKERS[make](net), {}), slot).half_life()
        assert decay**half_life == pytest.approx(0.5)
    assert SlotSource("x", WatchedOptimizer(MAKERS["adam"](net), {}), "step").half_life() is None
    assert SlotSource("x", WatchedOptimizer(MAKERS["two groups"](net), {}), "momentum_buffer").half_life() is None


def test_hyper_parameters_are_values_by_group() -> None:
    net = network()
    optimizer = MAKERS["two groups"](net)
    found = WatchedOptimizer(optimizer, {})
    assert not {"foreach", "fused", "params"} & set(found.hyper_names())
    source = HyperSource("hyper.momentum", found, "momentum")
    assert source.read().values == [0.9, 0.5]
    source.restore(Reading({}, [0.1, 0.2]))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.1, 0.2]
    betas = HyperSource("hyper.betas", WatchedOptimizer(MAKERS["adam"](net), {}), "betas")
    betas.restore(betas.read())
    assert betas.watched.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_learning_rate_in_a_tensor_is_set_in_place() -> None:
    optimizer = MAKERS["adam tensor lr"](network())
    rate = optimizer.param_groups[0]["lr"]
    source = HyperSource("hyper.lr", WatchedOptimizer(optimizer, {}), "lr")
    held = copied(source.read())
    rate.fill_(0.5)
    source.restore(held)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.01)
