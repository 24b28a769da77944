import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

from auditor.artifact.resources import schema
from auditor.errors import MemauditError
from auditor.state.census import Watched
from tests.unit.state.state_support import names, watch

DATA = TensorDataset(torch.arange(4.0))


def test_one_of_each_kind_in_the_order_of_the_census() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.ones(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = watch(
        queue=torch.zeros(3),
        teacher=copy.deepcopy(model),
        average=AveragedModel(model),
        scaler=torch.amp.GradScaler("cpu"),
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2),
        optimizer=optimizer,
        model=model,
        extra=torch.zeros(1),
        nothing=None,
    )
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    hyper = ["bn_momentum", "dampening", "initial_lr", "lr", "maximize", "momentum", "nesterov", "weight_decay"]
    assert names(found) == [
        *("params", "bn", "buffers", "optimizer.momentum_buffer"),
        *(f"hyper.{name}" for name in hyper),
        *("scheduler", "scaler", "swa", "teacher", "queue", "other"),
    ]
    from jsonschema import Draft202012Validator

    entry = Draft202012Validator(schema("trace-event"))
    event = {"event": "census", "seq": 1, "prev": "0" * 64, "streams": []}
    entry.validate({**event, "sources": [source.describe() for source in found.sources()]})


def test_slots_appear_with_the_first_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    found = watch(model=model, optimizer=optimizer)
    assert not any(name.startswith("optimizer") for name in names(found))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert [name for name in names(found) if name.startswith("optimizer")] == [
        *("optimizer.exp_avg", "optimizer.exp_avg_sq", "optimizer.step")
    ]
    assert found.slot_source("optimizer.max_exp_avg_sq") is not None
    assert found.slot_source("scheduler") is None


def test_two_of_a_kind_are_told_apart_by_their_keyword() -> None:
    nets = {"generator": nn.Linear(2, 2), "critic": nn.Linear(2, 1)}
    optimizers = {f"{name}_optimizer": torch.optim.Adam(net.parameters()) for name, net in nets.items()}
    found = watch(**nets, **optimizers)
    assert names(found)[:2] == ["params[critic]", "params[generator]"]
    assert "hyper[critic_optimizer].lr" in names(found)
    assert "generator.weight" in found.parameter_names().values()
    assert found.slot_source("optimizer[critic_optimizer].exp_avg") is not None
    assert found.slot_source("optimizer.exp_avg") is None


@pytest.mark.parametrize(
    ("keyword", "kind"),
    [
        ("teacher", "teacher"),
        ("ema_model", "ema"),
        ("swa", "swa"),
        ("momentum_teacher", "teacher"),
        ("student", "params"),
        ("embedding", "params"),
    ],
)
def test_a_modules_keyword_decides(keyword: str, kind: str) -> None:
    assert names(watch(**{keyword: nn.Linear(1, 1)})) == [kind]


@pytest.mark.parametrize(
    ("keyword", "kind"), [("memory_bank", "queue"), ("replay_buffer", "queue"), ("center", "other")]
)
def test_a_tensors_keyword_decides(keyword: str, kind: str) -> None:
    assert names(watch(**{keyword: torch.zeros(1)})) == [kind]


def test_what_cannot_be_captured_is_refused_by_its_keyword() -> None:
    with pytest.raises(MemauditError, match=r"builtins\.int cannot be watched") as caught:
        watch(history=3)
    assert caught.value.where == "run.watch(history=…)"
    found = watch(model=nn.Linear(1, 1))
    with pytest.raises(MemauditError, match="two different objects"):
        found.add("model", nn.Linear(1, 1))
    found.add("model", found.objects["model"])


@pytest.mark.parametrize(
    ("keyword", "kind"),
    [
        ("email_model", "params"),
        ("swap_net", "params"),
        ("ema_model", "ema"),
        ("teacher2", "teacher"),
        ("model_swa", "swa"),
    ],
)
def test_a_kind_is_read_from_whole_words_of_the_keyword(keyword: str, kind: str) -> None:
    watched = Watched()
    watched.add(keyword, torch.nn.Linear(2, 2))
    assert [source.kind for source in watched.sources()] == [kind]
