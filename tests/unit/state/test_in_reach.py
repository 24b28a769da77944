"""What a program remembers in less usual places: hooks, parameters' attributes, methods, slots, objects bound anew."""

import functools
import io
import pathlib
import queue
import re
import threading
import weakref
from collections import UserDict, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from auditor.errors import MemauditError
from auditor.state.census import Watched
from auditor.state.source import Source
from tests.unit.state.state_support import capture, digests, names, put_back, watch


class Net(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class RunningMean:
    """A hook with a memory, also as a method."""

    def __init__(self) -> None:
        self.mean = torch.zeros(2)
        self.count = 0

    def __call__(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.mean = 0.9 * self.mean + output.detach().mean(0)
        self.count += 1

    def see(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self(layer, inputs, output)


class Slotted:
    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys = torch.zeros(2)


@dataclass(slots=True)
class SlottedData:
    keys: torch.Tensor = field(default_factory=lambda: torch.zeros(2))


class PartlySlotted(Slotted):
    """Has attributes too."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.zeros(1)


def source(found: Watched, name: str) -> Source:
    return next(each for each in found.sources() if each.name == name)


def held(found: Watched, name: str = "other") -> tuple[list[str], dict[str, Any]]:
    reading = source(found, name).read()
    return sorted(reading.tensors), (reading.values or {"held": {}})["held"]


@pytest.mark.parametrize("method", [False, True], ids=["object", "method"])
def test_a_hooks_memory_is_found_and_comes_back(method: bool) -> None:
    def build() -> tuple[Net, Watched]:
        net, hook = Net(), RunningMean()
        net.layer.register_forward_hook(hook.see if method else hook)
        return net, watch(model=net)

    net, found = build()
    net.layer(torch.ones(4, 2))
    assert held(found) == (["layer.forward_hook0.mean"], {"layer.forward_hook0.count": 1})
    before = capture(found)
    again, found2 = build()
    put_back(found2, before)
    net.layer(torch.ones(4, 2))
    again.layer(torch.ones(4, 2))
    assert digests(found) == digests(found2)


def test_a_hook_that_comes_later_is_found() -> None:
    net = Net()
    found = watch(model=net)
    assert names(found) == ["params"]
    net.layer.register_forward_hook(RunningMean())
    assert names(found) == ["params", "other"]


@pytest.mark.parametrize("where", ["layer", "parameter"])
def test_what_only_a_hook_function_holds_is_told(where: str) -> None:
    net, seen = Net(), torch.zeros(2)
    if where == "layer":
        net.layer.register_forward_hook(lambda *_: seen.add_(1) and None)
    else:
        net.layer.weight.register_hook(lambda gradient: gradient + seen.sum())
    found = watch(model=net)
    name = "other.layer.forward_hook0" if where == "layer" else "other.layer.weight.hook0"
    assert "only a function holds on to" in (source(found, name).reason or "")


def test_hooks_without_a_memory_and_torchs_own_are_no_noise() -> None:
    net = Net()
    net.layer.register_forward_hook(lambda *_: None)
    net.layer.register_forward_hook(functools.partial(print, end=""))
    nn.utils.parametrizations.weight_norm(net.layer)
    net.layer2 = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    assert names(watch(model=net)) == ["params", "buffers"]


def test_what_pruning_computes_anew_is_no_source() -> None:
    net = Net()
    prune.l1_unstructured(net.layer, "weight", 1)
    found = watch(model=net)
    assert names(found) == ["params", "buffers"]
    net.layer(torch.zeros(1, 2))
    assert names(found) == ["params", "buffers"]


def test_a_tensor_put_on_a_parameter_is_found_and_made_in_a_new_program() -> None:
    net = Net()
    found = watch(model=net)
    found.sources()
    net.layer.weight.velocity = torch.ones(2, 2)
    net.layer.weight.no_decay = True
    assert held(found) == (["layer.weight.velocity"], {})
    fresh = Net()
    put_back(watch(model=fresh), capture(found))
    assert fresh.layer.weight.velocity.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_reading_puts_nothing_on_anything() -> None:
    net = Net(hidden=Slotted(), mean=RunningMean().see)
    before = {name: dict(vars(layer)) for name, layer in net.named_modules()}
    versions = [parameter._version for parameter in net.parameters()]
    found = watch(model=net)
    digests(found)
    assert {name: dict(vars(layer)) for name, layer in net.named_modules()} == before
    assert [parameter._version for parameter in net.parameters()] == versions
    assert all(parameter._backward_hooks is None for parameter in net.parameters())


def test_a_method_kept_as_an_attribute_leads_to_its_object() -> None:
    tracker = RunningMean()
    net = Net(update=tracker.see, again=tracker.see, own=nn.Linear(1, 1).forward)
    tensors, values = held(watch(model=net))
    assert tensors == ["own.bias", "own.weight", "update.mean"]
    assert values == {"update.count": 0}


def test_arrays_and_numbers_in_objects_of_the_programs_own_are_found() -> None:
    net = Net(replay=Holder(data=np.zeros(3), lock=threading.Lock(), path=pathlib.Path("x")), ramp=Holder(t=3))
    found = watch(model=net)
    assert held(found, "queue")[0] == ["replay.data"]
    assert held(found)[1] == {"ramp.t": 3}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Slotted(), "Slotted cannot be written"),
        ([SlottedData()], "SlottedData cannot be written"),
        (PartlySlotted(), "__slots__"),
        (np.zeros(3, dtype=[("priority", "f4"), ("index", "i8")]), "an array of dtype"),
        (np.array([None, 1], dtype=object), "an array of dtype object"),
        (np.ma.array([1, 2], mask=[False, True]), "a masked array"),
        (defaultdict(lambda: 0, {"a": 3}), "default of the program's own"),
        (UserDict(a=torch.zeros(2)), "UserDict"),
        ({torch.zeros(2), torch.ones(2)}, "a set of tensors"),
    ],
    ids=["slots", "slotted data", "some slots", "structured", "objects", "masked", "defaultdict", "UserDict", "set"],
)
def test_what_was_passed_over_is_told(value: Any, reason: str) -> None:
    told = [each.reason for each in watch(model=Net(cache=value)).sources() if not each.captured]
    assert len(told) == 1
    assert reason in (told[0] or "")


def test_a_standard_queue_is_told() -> None:
    waiting: queue.Queue[torch.Tensor] = queue.Queue()
    waiting.put(torch.zeros(2))
    assert "queue.Queue" in (source(watch(model=Net(waiting=waiting)), "other.waiting").reason or "")


def test_a_distribution_is_read() -> None:
    net = Net(prior=torch.distributions.Normal(torch.zeros(2), torch.ones(2)))
    assert held(watch(model=net))[0] == ["prior.loc", "prior.scale"]


def test_numbers_beside_parameters_are_kept() -> None:
    def build() -> tuple[Net, Watched]:
        net = Net()
        net.visits = {net.layer.weight: 0, net.layer.bias: 0}
        net.named = list(net.named_parameters())
        return net, watch(model=net)

    net, found = build()
    assert held(found)[1].keys() == {"visits"}
    net.visits[net.layer.bias] = 7
    fresh, found2 = build()
    put_back(found2, capture(found))
    assert fresh.visits == {fresh.layer.weight: 0, fresh.layer.bias: 7}


@pytest.mark.parametrize("strict", [False, True], ids=["in a module", "watched"])
def test_an_object_that_is_bound_anew_is_followed(strict: bool) -> None:
    holder = Holder(bank=Holder(keys=torch.zeros(2)))
    found = watch(thing=holder) if strict else watch(model=Net(thing=holder))
    before = digests(found)
    holder.bank = Holder(keys=torch.ones(2))
    assert digests(found) != before
    reading = source(found, "other" if strict else "queue").read()
    assert any(tensor is holder.bank.keys for tensor in reading.tensors.values())


def test_a_hidden_module_that_is_bound_anew_is_followed() -> None:
    net = Net(teacher=[nn.Linear(1, 1)])
    found = watch(model=net)
    found.sources()
    net.teacher[0] = nn.Linear(1, 1)
    assert source(found, "teacher").read().tensors["teacher.0.weight"] is net.teacher[0].weight


def test_the_past_of_a_buffer_that_is_bound_anew_is_not_taken_for_its_present() -> None:
    def build() -> tuple[Net, Watched]:
        net = Net(past=[])
        net.register_buffer("center", torch.zeros(1))
        return net, watch(model=net)

    net, found = build()
    found.sources()
    for _ in range(3):
        net.past.append(net.center)
        net.center = net.center + 1
        digests(found)
    fresh, found2 = build()
    put_back(found2, capture(found))
    assert (fresh.center.item(), [each.item() for each in fresh.past]) == (3.0, [0.0, 1.0, 2.0])


def test_a_list_that_grows_too_long_is_read_no_more() -> None:
    net = Net(losses=[])
    found = watch(model=net)
    assert held(found)[1] == {"losses": []}
    net.losses += [0.5] * 1001
    source(found, "other").read()
    assert "more than 1000 plain values" in (source(found, "other.losses").reason or "")


def test_a_reference_to_a_weights_memory_stays_one_in_a_watched_object() -> None:
    net = Net()
    before = capture(watch(model=net, master=Holder(weight=net.layer.weight.data)))
    fresh = Net()
    holder = Holder(weight=fresh.layer.weight.data)
    put_back(watch(model=fresh, master=holder), before)
    assert holder.weight.data_ptr() == fresh.layer.weight.data_ptr()


@pytest.mark.parametrize(
    "thing",
    [
        *(pathlib.Path("x"), re.compile("x"), io.StringIO(), threading.Event(), threading.Condition()),
        *(weakref.ref(Net), slice(3)),
    ],
    ids=["path", "pattern", "file", "event", "condition", "weakref", "slice"],
)
def test_paths_files_and_the_like_are_passed_over_in_a_watched_object(thing: Any) -> None:
    assert held(watch(trainer=Holder(best=0.5, thing=thing))) == ([], {"best": 0.5})


def test_a_memory_map_is_written_in_place(tmp_path: pathlib.Path) -> None:
    def build(name: str) -> Any:
        return np.memmap(tmp_path / name, dtype="f4", mode="w+", shape=(3,))

    one, two = build("one"), build("two")
    one[:] = [1, 2, 3]
    net = Net(ring=two)
    put_back(watch(model=net), {**capture(watch(model=Net(ring=one))), "params": capture(watch(model=net))["params"]})
    assert net.ring is two
    assert np.fromfile(tmp_path / "two", dtype="f4").tolist() == [1.0, 2.0, 3.0]


def test_layers_frozen_or_thawed_come_back_so() -> None:
    def build() -> Net:
        net = Net()
        net.layer.weight.requires_grad_(False)
        return net

    net = build()
    net.layer.weight.requires_grad_(True)
    net.layer.bias.requires_grad_(False)
    before = capture(watch(model=net))
    fresh = build()
    put_back(watch(model=fresh), before)
    assert (fresh.layer.weight.requires_grad, fresh.layer.bias.requires_grad) == (True, False)
    net.layer.bias.requires_grad_(True)
    put_back(watch(model=fresh), capture(watch(model=net)))
    assert fresh.layer.bias.requires_grad


def test_a_tensor_that_is_trained_no_more_comes_back_so() -> None:
    before = capture(watch(model=Net(delta=torch.ones(2))))
    fresh = Net(delta=torch.zeros(2, requires_grad=True))
    put_back(watch(model=fresh), before)
    assert (fresh.delta.requires_grad, fresh.delta.tolist()) == (False, [1.0, 1.0])


def test_two_weights_do_not_come_back_into_one() -> None:
    def build(*, tied: bool) -> nn.Module:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        if tied:
            net[1].weight = net[0].weight
        return net

    before = capture(watch(model=build(tied=False)))
    with pytest.raises(MemauditError, match="one tensor of the program was two in the anchor"):
        watch(model=build(tied=True)).restore(before)
