"""Setting what governs a memory's length: exact numbers, types that stay, and values that hold."""

import gc
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch
from auditor.interventions.registry import make
from tests.support.intervene import intervene, watching


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.25), nn.Linear(4, 2, dtype=torch.float32))


def sgd(model: nn.Module, **more: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **more})


def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"value": 0.5}, 0.5),
        ({"factor": 0.5}, 0.45),
        ({"half_life": 1}, 0.5),
        ({"half_life": 13.51}, 2 ** (-1 / 13.51)),
    ],
)
def test_momentum_becomes_what_was_asked_for(arguments: dict[str, Any], expected: float) -> None:
    model = model_of()
    optimizer = sgd(model)
    _, receipt = intervene(watching(model=model, optimizer=optimizer), "hyper.momentum", "set", **arguments)
    assert receipt["applied"] is True
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(expected, rel=1e-15)
    assert receipt["digest_before"].keys() == {"hyper.momentum"}


def test_a_half_life_is_the_steps_after_which_half_of_it_is_left() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([model.weight], lr=1.0, momentum=0.9)
    update(model, optimizer)
    intervene(watching(model=model, optimizer=optimizer), "hyper.momentum", "set", half_life=7)
    for _ in range(7):
        model.weight.grad = torch.zeros(1, dtype=torch.float64)
        optimizer.step()
    assert optimizer.state[model.weight]["momentum_buffer"].item() == pytest.approx(0.5, rel=1e-12)


def test_batch_norms_momentum_is_the_share_that_it_takes_over() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    intervene(watching(model=model), "hyper.bn_momentum", "set", half_life=5)
    model[0].running_mean.fill_(8.0)
    for _ in range(5):
        model(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert model[0].running_mean.tolist() == pytest.approx([4.0, 4.0], rel=1e-5)


@pytest.mark.parametrize(
    ("make_optimizer", "name", "governs"),
    [
        (lambda p: torch.optim.RMSprop(p, lr=0.1), "alpha", True),
        (lambda p: torch.optim.Adadelta(p), "rho", True),
        (lambda p: torch.optim.ASGD(p), "alpha", False),
        (lambda p: torch.optim.SGD(p, lr=0.1), "lr", False),
        (lambda p: torch.optim.SGD(p, lr=0.1), "weight_decay", False),
    ],
)
def test_a_half_life_is_taken_only_where_one_is_known_to_follow(make_optimizer: Any, name: str, governs: bool) -> None:
    model = model_of()
    optimizer = make_optimizer(model.parameters())
    _, receipt = intervene(watching(model=model, optimizer=optimizer), f"hyper.{name}", "set", half_life=9)
    assert receipt["applied"] is governs
    if governs:
        assert optimizer.param_groups[0][name] == 2 ** (-1 / 9)
    else:
        assert receipt["reason"] == f"which half-life follows from hyper.{name} is not known; give value="


def test_one_of_two_betas_is_set_and_the_pair_stays_a_tuple() -> None:
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999))
    intervene(watching(model=model, optimizer=optimizer), "hyper.betas", "set", half_life=1, index=1)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.5)
    assert type(optimizer.param_groups[0]["betas"]) is tuple


def test_every_group_gets_its_own_multiple() -> None:
    model = model_of()
    groups = [{"params": model[0].parameters(), "lr": 0.4}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    intervene(watching(model=model, optimizer=optimizer), "hyper.lr", "set", factor=3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4 * 3, 0.1 * 3]


def test_types_stay() -> None:
    model = model_of()
    lr = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, foreach=False)
    group = optimizer.param_groups[0]
    group["eps"] = np.float32(1e-8)
    watched = watching(model=model, optimizer=optimizer)
    intervene(watched, "hyper.lr", "set", value=0.3, hold="no")
    assert group["lr"] is lr
    assert torch.equal(lr, torch.tensor(0.3))
    intervene(watched, "hyper.eps", "set", value=1e-6, hold="no")
    assert group["eps"] == np.float32(1e-6)
    assert type(group["eps"]) is np.float32
    lbfgs = torch.optim.LBFGS(model.parameters(), history_size=10)
    watched = watching(model=model, optimizer=lbfgs)
    intervene(watched, "hyper.history_size", "set", value=4.0, hold="no")
    assert lbfgs.param_groups[0]["history_size"] == 4
    assert type(lbfgs.param_groups[0]["history_size"]) is int
    plain = torch.optim.SGD(model.parameters(), lr=1, momentum=0)
    intervene(watching(model=model, optimizer=plain), "hyper.momentum", "set", value=0.9, hold="no")
    assert plain.param_groups[0]["momentum"] == 0.9


def test_dropout_of_every_layer_is_set() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.2))
    intervene(watching(model=model), "hyper.dropout", "set", factor=2)
    assert [layer.p for layer in model] == [0.2, 0.4]


def test_a_held_rate_is_the_one_that_updates_use_whoever_sets_another() -> None:
    """The loop sets the rate at its top, after the last step's record and before the next update."""
    model, by_hand = model_of(), model_of()
    optimizer, other = sgd(model), sgd(by_hand, lr=0.05)
    watched = watching(model=model, optimizer=optimizer)
    intervention, receipt = intervene(watched, "hyper.lr", "set", factor=0.5)
    assert receipt["applied"] is True
    branch = Branch(watched, "0/0")
    for rate in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = rate
        update(model, optimizer)
        update(by_hand, other)
        assert intervention.after_step(branch) is True
        assert optimizer.param_groups[0]["lr"] == 0.05
    update(model, optimizer)
    update(by_hand, other)
    assert intervention.after_step(branch) is False
    for one, two in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_held_tensor_rate_is_put_back_in_place() -> None:
    model = model_of()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=False)
    watched = watching(model=model, optimizer=optimizer)
    intervention, _ = intervene(watched, "hyper.lr", "set", value=0.25)
    rate.fill_(7.0)
    assert intervention.after_step(Branch(watched, "0/0")) is True
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_held_layers_use_what_is_held_when_they_are_called() -> None:
    model, by_hand = nn.Sequential(nn.BatchNorm1d(2)), nn.Sequential(nn.BatchNorm1d(2, momentum=0.5))
    watched = watching(model=model)
    intervention, _ = intervene(watched, "hyper.bn_momentum", "set", value=0.5)
    for _ in range(3):
        batch = torch.randn(4, 2)
        model[0].momentum = 0.01
        model(batch)
        by_hand(batch)
        assert intervention.after_step(Branch(watched, "0/0")) is True
    assert torch.equal(model[0].running_mean, by_hand[0].running_mean)


def test_without_hold_a_later_value_stands() -> None:
    model = model_of()
    optimizer = sgd(model)
    watched = watching(model=model, optimizer=optimizer)
    intervention, _ = intervene(watched, "hyper.lr", "set", value=0.5, hold="no")
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.param_groups[0]["lr"] = 0.2
    update(model, optimizer)
    assert intervention.after_step(Branch(watched, "0/0")) is False
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_groups_that_come_later_keep_their_own_rate() -> None:
    model, more = model_of(), nn.Linear(2, 2)
    optimizer = sgd(model)
    watched = watching(model=model, more=more, optimizer=optimizer)
    intervention, _ = intervene(watched, "hyper.lr", "set", value=0.5)
    optimizer.add_param_group({"params": more.parameters(), "lr": 0.125})
    optimizer.param_groups[0]["lr"] = 0.3
    assert intervention.after_step(Branch(watched, "0/0")) is True
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125]
    assert intervention.after_step(Branch(watched, "0/0")) is False


def test_what_is_held_is_let_go_with_its_intervention() -> None:
    model = model_of()
    optimizer = sgd(model)
    gc.collect()
    before = len(_global_optimizer_pre_hooks)
    intervention, _ = intervene(watching(model=model, optimizer=optimizer), "hyper.lr", "set", value=0.5)
    assert len(_global_optimizer_pre_hooks) == before + 1
    del intervention
    gc.collect()
    assert len(_global_optimizer_pre_hooks) == before


def test_holding_what_already_is_so_is_applied_and_setting_it_once_is_not() -> None:
    model = model_of()
    watched = watching(model=model, optimizer=sgd(model))
    assert intervene(watched, "hyper.lr", "set", value=0.1)[1]["applied"] is True
    _, receipt = intervene(watched, "hyper.lr", "set", value=0.1, hold="no")
    assert receipt["reason"] == "hyper.lr already was as set makes it"


def test_one_of_two_optimizers_rates_is_set_where_it_is_named() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    first, second = sgd(one), sgd(two)
    watched = watching(one=one, two=two, first=first, second=second)
    intervene(watched, "hyper[second].lr", "set", value=0.5, hold="no")
    assert [each.param_groups[0]["lr"] for each in (first, second)] == [0.1, 0.5]
    _, receipt = intervene(watched, "hyper.lr", "set", value=0.7, hold="no")
    assert receipt["digest_before"].keys() == {"hyper[first].lr", "hyper[second].lr"}
    assert [each.param_groups[0]["lr"] for each in (first, second)] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("source", "arguments", "reason"),
    [
        ("hyper", {"value": 1}, "say which hyper-parameter"),
        ("hyper.rate", {"value": 1}, "there is no hyper.rate at this step; there are: hyper.bn_momentum, "),
        ("hyper.nesterov", {"value": 1}, "hyper.nesterov is a bool, not a number"),
        ("hyper.lr", {"value": 1, "index": 0}, "hyper.lr is one number: it has no index"),
        ("hyper.dropout", {"factor": 5}, "1.25 is no hyper.dropout"),
    ],
)
def test_what_cannot_be_set_is_not_applied(source: str, arguments: dict[str, Any], reason: str) -> None:
    model = model_of()
    _, receipt = intervene(watching(model=model, optimizer=sgd(model)), source, "set", **arguments)
    assert receipt["applied"] is False
    assert reason in receipt["reason"]


def test_a_plain_mean_has_no_multiple_and_can_be_given_a_momentum() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=None))
    _, receipt = intervene(watching(model=model), "hyper.bn_momentum", "set", factor=2)
    assert receipt["reason"] == "hyper.bn_momentum is None in some layers, which has no multiple"
    intervene(watching(model=model), "hyper.bn_momentum", "set", value=0.2)
    assert model[0].momentum == 0.2


def test_nothing_is_set_where_one_of_several_places_cannot_be() -> None:
    model = model_of()
    groups = [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": math.inf}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    _, receipt = intervene(watching(model=model, optimizer=optimizer), "hyper.lr", "set", factor=2)
    assert receipt["reason"] == "inf is no hyper.lr"


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("hyper.lr", {}, "exactly one of value, half_life and factor"),
        ("hyper.lr", {"value": 1, "factor": 2}, "exactly one of"),
        ("hyper.lr", {"half_life": 0}, "a half-life is above 0"),
        ("hyper.betas", {"value": 0.5}, "say which by index=0 or index=1"),
        ("hyper[a].betas", {"value": 0.5, "index": 2}, "a whole number from 0 to 1"),
        ("hyper.lr", {"value": 1, "hold": "maybe"}, "one of yes, no"),
        ("hyper.lr", {"value": "much"}, "it is a number"),
    ],
)
def test_arguments_of_set_are_checked_before_anything_runs(
    source: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(MemauditError, match=message):
        make({"source": source, "do": "set", **arguments})


def test_yes_and_no_are_understood_as_yaml_reads_them() -> None:
    assert make({"source": "hyper.lr", "do": "set", "value": 1, "hold": False}).arguments["hold"] == "no"
    assert make({"source": "hyper.lr", "do": "set", "value": 1, "hold": True}).arguments["hold"] == "yes"
