import pytest
import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state.anchor import copied
from auditor.state.module import (
    BatchNormSource,
    BuffersSource,
    ParamsSource,
    batch_norms,
    evaluation_modes,
    other_buffer_names,
    restore_modes,
)
from auditor.state.source import Source


class Net(nn.Module):
    """Weights (two of them tied), BatchNorm with and without statistics, buffers that are saved and that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.stateless = nn.BatchNorm1d(3, track_running_stats=False)
        self.instance = nn.InstanceNorm1d(3, track_running_stats=True)
        self.register_buffer("mask", torch.ones(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.tied(self.first(inputs)))


def buffers(name: str, net: nn.Module) -> BuffersSource:
    return BuffersSource(name, net, set(other_buffer_names(net)))


def paths(source: Source) -> list[str]:
    return list(source.read().tensors)


def test_each_tensor_belongs_to_one_source() -> None:
    net = Net()
    assert paths(ParamsSource("params", net)) == [
        *("first.weight", "first.bias", "tied.bias", "norm.weight", "norm.bias", "stateless.weight", "stateless.bias")
    ]
    statistics = ["running_mean", "running_var", "num_batches_tracked"]
    expected = [f"{layer}.{name}" for layer in ("norm", "instance") for name in statistics]
    assert paths(BatchNormSource("bn", net)) == expected
    assert paths(buffers("buffers", net)) == ["mask", "scratch"]
    assert [name for name, _ in batch_norms(net)] == ["norm", "instance"]


def test_a_lone_layer_has_paths_without_a_dot() -> None:
    assert paths(BatchNormSource("bn", nn.BatchNorm2d(2))) == ["running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("make", [ParamsSource, BatchNormSource, buffers])
def test_a_state_goes_into_another_module_in_place(make: type) -> None:
    torch.manual_seed(0)
    one, two = Net(), Net()
    one(torch.randn(8, 3))
    one.mask.mul_(3)
    source, target = make("x", one), make("x", two)
    assert source.read().digest() != target.read().digest()
    live = target.read().tensors
    target.restore(copied(source.read()))
    assert source.read().digest() == target.read().digest()
    assert all(tensor is live[path] for path, tensor in target.read().tensors.items())
    assert two.tied.weight is two.first.weight
    assert all(parameter.requires_grad for parameter in two.parameters())


def test_half_life_of_the_statistics() -> None:
    assert BatchNormSource("bn", nn.BatchNorm1d(2, momentum=0.5)).half_life() == 1.0
    cumulative = nn.BatchNorm1d(2, momentum=None)
    assert BatchNormSource("bn", cumulative).half_life() is None
    assert BatchNormSource("bn", nn.Sequential(nn.BatchNorm1d(2), cumulative)).half_life() is None
    assert "half-life 6.58 steps" in BatchNormSource("bn", nn.BatchNorm1d(2)).describe()["lifetime"]


def test_modes_are_put_back_one_by_one() -> None:
    net = Net()
    net.norm.eval()
    frozen = evaluation_modes(net)
    assert frozen == ["norm"]
    other = Net().eval()
    assert "" in evaluation_modes(other)
    restore_modes(other, frozen)
    assert evaluation_modes(other) == ["norm"]
    with pytest.raises(MemauditError, match="does not have") as caught:
        restore_modes(other, ["norm", "gone"])
    assert caught.value.why == "['gone']"
    assert evaluation_modes(other) == ["norm"]
