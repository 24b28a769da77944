"""Jitter moves every floating parameter by exactly what it says, and nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch
from auditor.interventions.params import one_ulp
from auditor.interventions.registry import make
from auditor.state.streams import derive_seed
from tests.support.intervene import intervene, watching

INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}


def bits(tensor: torch.Tensor) -> list[int]:
    integer = INTEGERS.get(tensor.dtype, torch.int16)
    return list(tensor.detach().clone().view(integer).flatten().tolist())


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.register_buffer("seen", torch.tensor([1.0, 2.0]))
    return model


@given(st.floats(width=64, allow_nan=True), st.booleans())
def test_one_ulp_is_numpys_next_number_in_float64(value: float, up: bool) -> None:
    found = one_ulp(torch.tensor([value], dtype=torch.float64), torch.tensor([up]))
    target = np.inf if up else -np.inf
    with np.errstate(all="ignore"):
        expected = np.nextafter(value, target) if math.isfinite(value) else value
        if math.isfinite(value) and not math.isfinite(expected):
            expected = np.nextafter(value, 0.0)
    assert bits(found) == bits(torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@given(value=st.floats(width=16, allow_nan=False), up=st.booleans())
def test_one_ulp_is_numpys_next_number_in_smaller_types(kind: Any, value: float, up: bool) -> None:
    old = np.array([value], dtype=kind)
    with np.errstate(all="ignore"):
        expected = np.nextafter(old, np.array([np.inf if up else -np.inf], dtype=kind))
        if math.isfinite(value) and not np.isfinite(expected[0]):
            expected = np.nextafter(old, np.zeros(1, dtype=kind))
    expected = expected if math.isfinite(value) else old
    assert bits(one_ulp(torch.from_numpy(old), torch.tensor([up]))) == bits(torch.from_numpy(expected))


def test_one_ulp_of_bfloat16_is_one_in_its_last_place() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = every[every.isfinite()]
    for up in (True, False):
        new = one_ulp(finite, torch.full(finite.shape, up))
        assert new.isfinite().all()
        inwards = finite == (torch.finfo(torch.bfloat16).max if up else torch.finfo(torch.bfloat16).min)
        assert ((new > finite) == (up & ~inwards if up else inwards)).all()
        # Nothing lies between: the two are neighbours among all numbers of the type, zeros counted once.
        ordered = finite.float().unique()
        place = torch.searchsorted(ordered, finite.float())
        assert (torch.searchsorted(ordered, new.float()) - place).abs().eq(1).all()


def test_ulp_moves_each_floating_element_by_one_place_and_no_buffer() -> None:
    model = two_layers()
    watched = watching(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    old = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    _, receipt = intervene(watched, "params", "jitter")
    assert receipt["applied"] is True
    assert receipt["arguments"] == {"how": "ulp", "sigma": None}
    assert (receipt["tensors"], receipt["changed"]) == (len(old), 1.0)
    assert receipt["digest_before"].keys() == {"params"}
    ups = downs = 0
    for name, tensor in model.named_parameters():
        up = torch.nextafter(old[name], torch.tensor(math.inf))
        down = torch.nextafter(old[name], torch.tensor(-math.inf))
        assert ((tensor == up) | (tensor == down)).all()
        ups, downs = ups + int((tensor == up).sum()), downs + int((tensor == down).sum())
    assert ups > 5
    assert downs > 5


def test_gaussian_adds_the_noise_of_its_own_stream_rounded_once() -> None:
    model = nn.Linear(5, 4)
    half = nn.Linear(4, 4).half()
    double = nn.Linear(4, 4, dtype=torch.float64)
    watched = watching(model=model, half=half, precise=double)
    old = {id(p): p.detach().clone() for module in (model, half, double) for p in module.parameters()}
    before = torch.get_rng_state()
    intervention, receipt = intervene(watched, "params", "jitter", how="gaussian", sigma=0.125)
    assert torch.equal(torch.get_rng_state(), before)
    seed = derive_seed("0/0", f"intervention {sorted(intervention.description.items())!r}")
    generator = torch.Generator().manual_seed(seed)
    for source in watched.sources():
        for tensor in source.read().tensors.values() if source.kind == "params" else ():
            wide = torch.float64 if tensor.dtype is torch.float64 else torch.float32
            noise = torch.randn(tensor.shape, generator=generator, dtype=wide)
            assert torch.equal(tensor, (old[id(tensor)].to(wide) + 0.125 * noise).to(tensor.dtype))
    assert receipt["norm_before"] != receipt["norm_after"]


def test_two_units_are_jittered_differently_and_one_unit_always_alike() -> None:
    moved = []
    for key in ("0/0", "0/0", "0/1"):
        model = two_layers()
        watched = watching(model=model)
        intervene(watched, "params", "jitter", Branch(watched, key))
        moved.append([bits(parameter) for parameter in model.parameters()])
    assert moved[0] == moved[1] != moved[2]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight
        self.counts = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.phase = nn.Parameter(torch.tensor([1 + 2j]))


def test_a_tied_parameter_moves_once_and_integers_stay() -> None:
    model = Tied()
    old, phase = model.embedding.weight.detach().clone(), model.phase.detach().clone()
    intervene(watching(model=model), "params", "jitter")
    near = [torch.nextafter(old, torch.tensor(end)) for end in (math.inf, -math.inf)]
    assert ((model.head.weight == near[0]) | (model.head.weight == near[1])).all()
    assert model.head.weight is model.embedding.weight
    assert model.counts.tolist() == [1, 2]
    pairs = torch.view_as_real(model.phase.detach()), torch.view_as_real(phase)
    assert (pairs[0] != pairs[1]).all()


def test_one_module_of_several_is_moved_alone() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    watched = watching(one=one, two=two)
    _, receipt = intervene(watched, "params[two]", "jitter")
    assert receipt["digest_before"].keys() == {"params[two]"}


def test_a_parameter_shared_with_another_source_is_not_moved_behind_its_back() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    two.weight = one.weight
    watched = watching(one=one, two=two)
    _, receipt = intervene(watched, "params[two]", "jitter")
    assert receipt["reason"] == "params[two] shares a parameter with params[one], which would move along"
    _, receipt = intervene(watched, "params", "jitter")
    assert receipt["applied"] is True


def test_what_is_too_small_for_the_type_is_not_applied() -> None:
    _, receipt = intervene(watching(model=nn.Linear(3, 2)), "params", "jitter", how="gaussian", sigma=1e-30)
    assert "sigma=1e-30 is too small to move" in receipt["reason"]


def test_without_floating_parameters_it_is_not_applied() -> None:
    model = nn.Module()
    model.counts = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    _, receipt = intervene(watching(model=model), "params", "jitter")
    assert receipt["reason"] == "params holds no floating parameters"
    _, receipt = intervene(watching(queue=[1]), "params", "jitter")
    assert receipt["reason"] == "there is no params at this step"


def test_types_without_a_known_neighbour_are_not_guessed_at() -> None:
    model = nn.Module()
    model.small = nn.Parameter(torch.zeros(2, dtype=torch.float8_e4m3fn), requires_grad=False)
    _, receipt = intervene(watching(model=model), "params", "jitter")
    assert "torch.float8_e4m3fn are not known" in receipt["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "gaussian"}, "needs sigma"),
        ({"how": "gaussian", "sigma": 0}, "needs sigma"),
        ({"how": "gaussian", "sigma": -1.0}, "a number from 0"),
        ({"sigma": 0.1}, "sigma goes with how=gaussian"),
    ],
)
def test_arguments_that_make_no_sense_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MemauditError, match=message):
        make({"source": "params", "do": "jitter", **arguments})
