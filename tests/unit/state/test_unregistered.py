"""What is found below watched objects and registered nowhere; what cannot be captured, and why."""

import copy
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state.census import Watched
from auditor.state.source import Source
from tests.unit.state.state_support import capture, names, put_back, watch


class Bank:
    def __init__(self) -> None:
        self.keys = torch.zeros(4, 2)
        self.size = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.rnn = nn.GRU(2, 2)


def source(found: Watched, name: str) -> Source:
    return next(each for each in found.sources() if each.name == name)


def held(found: Watched, name: str = "other") -> tuple[list[str], dict[str, Any]]:
    """Return the paths of a source's tensors and its plain values."""
    reading = source(found, name).read()
    return sorted(reading.tensors), (reading.values or {"held": {}})["held"]


def with_attribute(name: str, value: Any) -> Watched:
    net = Net()
    object.__setattr__(net, name, value)
    return watch(model=net)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.zeros(2), [torch.zeros(2)], {"a": {"b": torch.zeros(2)}}, deque([torch.zeros(2)]), (torch.zeros(2), 1)),
        *(np.zeros(2), torch.zeros(2, requires_grad=True), Bank(), [Bank()], {"first": Bank()}, nn.Linear(1, 1)),
        [nn.Linear(1, 1)],
    ],
    ids=[
        *("tensor", "list", "dict", "deque", "tuple", "array", "leaf", "object", "objects", "dict of objects"),
        *("module", "hidden module"),
    ],
)
def test_a_tensor_is_found_wherever_it_hangs(value: Any) -> None:
    tensors, _ = held(with_attribute("thing", value))
    assert tensors
    assert all(path.startswith("thing") for path in tensors)


@pytest.mark.parametrize("value", [1, 0.5, True, "warm", None, [1, 2], (1, "a"), {"k": [0.5]}], ids=repr)
def test_plain_values_of_the_programs_own_modules_are_found(value: Any) -> None:
    assert held(with_attribute("thing", value))[1].keys() == {"thing"}


def test_what_is_registered_is_flagged_nowhere() -> None:
    net = Net()
    net.aliases = [net.layer.weight, net.layer.weight.data]
    net.__dict__["same"] = net.layer.bias
    assert names(watch(model=net)) == ["params"]
    assert names(watch(model=nn.LSTM(2, 2))) == ["params"]


def test_other_watched_objects_are_not_entered() -> None:
    net, teacher = Net(), Net()
    optimizer = torch.optim.Adam(net.parameters())
    net.__dict__.update(teacher=[teacher], optimizer=optimizer, owner=net)
    found = watch(model=net, teacher=teacher, optimizer=optimizer)
    assert [name for name in names(found) if not name.startswith("hyper")] == ["params", "teacher"]


def test_numbers_in_torchs_own_layers_are_no_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.TransformerEncoderLayer(4, 2, dropout=0.0))
    assert names(watch(model=model)) == ["params", "hyper.dropout"]
    model[0].cache = torch.zeros(1)
    assert held(watch(model=model))[0] == ["0.cache"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("queue", "queue"), ("memory_bank", "queue"), ("replayBuffer", "queue"), ("ptr", "queue"), ("shadow", "ema")),
        *(("teacher_logits", "teacher"), ("centre", "other"), ("queue_size", "other"), ("average_loss", "other")),
    ],
)
def test_the_kind_of_an_attribute_is_in_its_name(name: str, kind: str) -> None:
    assert names(with_attribute(name, torch.zeros(2))) == ["params", kind]


def test_a_queue_is_its_buffers_pointer_and_attributes_together() -> None:
    net = Net()
    net.register_buffer("queue", torch.zeros(4, 32))
    net.register_buffer("ptr", torch.zeros(1))
    net.register_buffer("mask", torch.zeros(1))
    net.queue_labels = torch.zeros(32)
    found = watch(model=net)
    assert names(found) == ["params", "buffers", "queue"]
    assert list(source(found, "queue").read().tensors) == ["queue", "ptr", "queue_labels"]
    assert source(found, "queue").half_life() is None
    found.with_batch_size(4)
    assert source(found, "queue").half_life() == 4.0  # 32 entries, half of them replaced after 4 steps of 4


class Lazy:
    pass


def holding(tensor: torch.Tensor) -> Any:
    return lambda x: x + tensor


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.eye(2).to_sparse(), "a tensor of kind sparse_coo"),
        (torch.zeros(2, dtype=torch.complex128), "dtype complex128"),
        (torch.empty(2, device="meta"), "a tensor of kind meta"),
        (holding(torch.zeros(2)), "a tensor that only a function holds on to"),
        ((Lazy(), torch.zeros(2)), "Lazy cannot be written without pickle"),
        (list(range(2000)), "more than 1000 plain values"),
        (torch.optim.SGD([torch.zeros(1)], lr=0.1), "a SGD that is not watched"),
    ],
    ids=["sparse", "complex128", "meta", "function", "tuple of objects", "long list", "optimizer"],
)
def test_what_cannot_be_captured_is_told_with_the_reason(value: Any, reason: str) -> None:
    found = with_attribute("cache", value)
    entry = source(found, "other.cache").describe()
    assert (entry["kind"], entry["captured"]) == ("other", False)
    assert reason in entry["reason"]
    before = capture(found)
    net = found.objects["model"]
    found.restore({name: reading for name, reading in before.items() if name != "other.cache"})
    assert net.cache is value, "what was not captured is left alone"


def test_an_attribute_that_becomes_unreadable_is_told_from_then_on() -> None:
    net = Net()
    net.log = []
    net.step = 0
    found = watch(model=net)
    assert held(found) == ([], {"log": [], "step": 0})
    before = found.signature()
    net.log.append([torch.zeros(1), Lazy()])
    reading = source(found, "other").read()
    assert reading.values == {"of": "model", "held": {"step": 0}, "left": ["log"]}
    assert found.signature() != before
    assert names(found) == ["params", "other", "other.log"]
    assert "Lazy" in (source(found, "other.log").reason or "")
    fresh = Net()
    fresh.log, fresh.step = [], 5
    put = {name: reading for name, reading in capture(found).items() if name != "other.log"}
    watch(model=fresh).restore(put)
    assert (fresh.log, fresh.step) == ([], 0)


class Attention(nn.Module):
    """Makes its cache at the first forward, and binds it anew at each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.cache = None
        self.bank = Bank()


def change(net: Attention, how: str) -> None:
    match how:
        case "attribute made":
            net.centre = torch.zeros(1)
        case "attribute gone":
            del net.cache
        case "None becomes a tensor":
            net.cache = torch.zeros(1)
        case "layer replaced":
            net.layer = nn.Linear(2, 2)
        case "parameter replaced":
            net.layer.weight = nn.Parameter(torch.zeros(2, 2))
        case "buffer registered":
            net.register_buffer("mask", torch.zeros(1))
        case "attribute of an object":
            net.bank.extra = torch.zeros(1)


@pytest.mark.parametrize(
    "how",
    [
        *("attribute made", "attribute gone", "None becomes a tensor", "layer replaced", "parameter replaced"),
        *("buffer registered", "attribute of an object"),
    ],
)
def test_the_signature_changes_when_sources_may_have(how: str) -> None:
    net = Attention()
    found = watch(model=net)
    before = found.signature()
    net.cache = net.cache
    net.bank.keys = torch.cat([net.bank.keys, net.bank.keys])[:4]  # bound anew: read by its path, nothing to look for
    assert found.signature() == before
    change(net, how)
    assert found.signature() != before
    assert found.signature() == found.signature()


def test_the_signature_follows_an_optimizer() -> None:
    net = Attention()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    found = watch(model=net, optimizer=optimizer)
    seen = {found.signature()}
    net.layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    seen.add(found.signature())
    optimizer.param_groups[0]["foreach"] = False
    seen.add(found.signature())
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    seen.add(found.signature())
    assert len(seen) == 4


def test_a_value_that_is_bound_anew_is_read_anew() -> None:
    net = Attention()
    found = watch(model=net)
    first = source(found, "queue").read().digest()
    net.bank.keys = net.bank.keys + 1
    assert source(found, "queue").read().digest() != first
    assert source(found, "queue").read().tensors["bank.keys"] is net.bank.keys


def test_a_tensor_is_restored_in_place_where_others_hold_on_to_it() -> None:
    net = Attention()
    alias = net.bank.keys
    found = watch(model=net)
    before = capture(found)
    alias += 1
    put_back(found, before)
    assert net.bank.keys is alias
    assert alias.abs().sum() == 0


def test_restoring_writes_into_no_weights_and_into_no_batch() -> None:
    batch = torch.ones(2)
    net = Net()
    net.seen = deque([torch.zeros(2)])
    net.last = torch.zeros(2, 2)
    before = capture(watch(model=net))
    net.seen = deque([batch])
    net.last = net.layer.weight.data  # an alias now, and was none
    net.layer.weight.data.fill_(3.0)
    found = watch(model=net)
    put_back(found, {**before, "params": capture(found)["params"]})
    assert batch.tolist() == [1.0, 1.0]
    assert net.layer.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert net.last.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_two_names_of_one_tensor_take_what_each_had() -> None:
    net = Net()
    net.a, net.b = torch.zeros(1), torch.ones(1)
    before = capture(watch(model=net))
    other = Net()
    other.a = other.b = torch.full((1,), 5.0)
    put_back(watch(model=other), {**before, "params": capture(watch(model=other))["params"]})
    assert (other.a.item(), other.b.item()) == (0.0, 1.0)


def test_a_result_with_a_graph_is_put_back_without_it() -> None:
    net = Net()
    net.hidden = net.layer(torch.ones(1, 2))
    found = watch(model=net)
    before = capture(found)
    net.hidden = net.layer(torch.zeros(1, 2))
    put_back(found, before)
    assert net.hidden.grad_fn is None


class Buffer:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"file": [object()]}, "file"),
        ({"inner": Buffer(x=Buffer(lock=np.array(["s"])))}, "inner.x.lock"),
        ({"net": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, "net"),
    ],
    ids=["object", "nested", "optimizer"],
)
def test_an_object_is_watched_whole_or_not_at_all(value: dict[str, Any], where: str) -> None:
    found = watch(replay=Buffer(items=deque([1, 2]), **value))
    with pytest.raises(MemauditError, match="cannot be captured") as caught:
        found.sources()
    assert caught.value.where is not None
    assert caught.value.where.startswith(f"replay, {where}")
    assert "state_dict()" in (caught.value.next_step or "")


@pytest.mark.parametrize(
    "thing", [3, 0.5, "x", (1, 2), object(), Buffer], ids=["int", "float", "str", "tuple", "object", "class"]
)
def test_what_nothing_could_be_put_back_into_cannot_be_watched(thing: Any) -> None:
    with pytest.raises(MemauditError, match="cannot be watched") as caught:
        watch(thing=thing)
    assert caught.value.next_step


def test_a_loader_is_watched_by_walking_it() -> None:
    with pytest.raises(MemauditError, match="cannot be watched") as caught:
        watch(loader=torch.utils.data.DataLoader([1, 2]))
    assert "run.batches" in (caught.value.next_step or "")


def test_a_lazily_made_attribute_of_the_second_model_goes_back_to_it() -> None:
    def two() -> tuple[dict[str, Attention], Watched]:
        nets = {"first": Attention(), "second": Attention()}
        return nets, watch(**nets)

    nets, found = two()
    nets["second"].centre = torch.full((1,), 7.0)
    before = capture(found)
    assert "other[second]" in before
    again, found2 = two()
    put_back(found2, before)
    assert again["second"].centre.item() == 7.0
    assert not hasattr(again["first"], "centre")


def test_a_state_dict_that_does_not_come_back_is_refused() -> None:
    class Forgetful:
        count = 0

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    thing = Forgetful()
    thing.count = 3
    before = capture(watch(thing=thing))
    with pytest.raises(MemauditError, match="did not come back as it was recorded") as caught:
        watch(thing=Forgetful()).restore(before)
    assert caught.value.where == "other, value count"


def test_another_program_is_refused() -> None:
    before = capture(watch(model=Net(), queue=torch.zeros(2)))
    with pytest.raises(MemauditError, match="the anchor holds queue, which the program does not watch"):
        watch(model=Net()).restore(before)
    with pytest.raises(MemauditError, match="the program watches teacher, which the anchor lacks"):
        watch(model=Net(), queue=torch.zeros(2), teacher=copy.deepcopy(Net())).restore(before)


def test_a_list_of_objects_that_grows_is_told() -> None:
    net = Net()
    net.banks = [Bank(), Bank()]
    found = watch(model=net)
    assert held(found)[0] == ["banks.0.keys", "banks.1.keys"]
    net.banks.append(Bank())
    assert "a list of Bank objects that grows" in (source(found, "other.banks").reason or "")
    replay = Buffer(items=[Bank()])
    strict = watch(replay=replay)
    assert held(strict, "queue")[0] == ["items.0.keys"]
    replay.items.append(Bank())
    with pytest.raises(MemauditError, match="items cannot be captured"):
        strict.sources()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_has_the_same_sources() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    found = watch(model=torch.jit.script(net))
    assert names(found) == ["params", "bn"]
    put_back(found, capture(found))


def test_a_trainer_that_refers_back_to_its_model_is_walked_once() -> None:
    net = Net()
    trainer = Buffer(model=net, best=torch.zeros(1), loader=torch.utils.data.DataLoader([1]))
    net.trainer = trainer
    trainer.itself = trainer
    assert held(watch(model=net)) == (["trainer.best"], {})
