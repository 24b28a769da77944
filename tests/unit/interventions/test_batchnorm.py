"""BatchNorm statistics reset, frozen and recalibrated: closed forms, and torch's own update_bn."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from auditor.artifact.digest import digest_text
from auditor.outcomes.probe import Probe, content_digest
from tests.support.intervening import Scene


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(dropout), nn.BatchNorm1d(4, momentum=0.3)
    )


def inputs(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def probed(model: nn.Module, *names: str, size: int = 12) -> Scene:
    scene = Scene(model=model)
    probes = {name: Probe(name, model, inputs(size, seed), None) for seed, name in enumerate(names)}
    scene.branch = replace(scene.branch, probes=probes)
    return scene


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_reset_leaves_the_statistics_of_a_new_layer_and_the_weights() -> None:
    model = network()
    model(inputs(8, 1))
    scene = Scene(model=model)
    before = scene.digests()
    held = [*model.buffers()]
    receipt = scene.apply("bn", "reset")
    assert equal(statistics(model), statistics(network()))
    assert receipt["norm_after"] == pytest.approx(8**0.5)  # eight variances of 1
    assert {name for name, digest in scene.digests().items() if digest != before[name]} == {"bn"}
    assert all(one is two for one, two in zip(held, model.buffers(), strict=True))
    assert "already was as reset makes it" in scene.refused("bn", "reset")


def test_the_gap_of_a_reset_mean_decays_by_one_minus_the_momentum_a_batch() -> None:
    carried = network().double()
    for seed in range(3):
        carried(inputs(8, seed).double())
    reset = copy.deepcopy(carried)
    gap = carried[1].running_mean.clone()
    Scene(model=reset).apply("bn", "reset")
    for seed in range(3, 8):
        assert torch.equal(carried(inputs(8, seed).double()), reset(inputs(8, seed).double()))
    torch.testing.assert_close(carried[1].running_mean - reset[1].running_mean, 0.9**5 * gap, rtol=1e-10, atol=0.0)


def test_frozen_statistics_are_those_of_the_fork_and_training_is_as_it_would_be() -> None:
    model = network()
    model(inputs(8, 1))
    carry = copy.deepcopy(model)
    scene = Scene(model=model)
    held = statistics(model)
    freeze = scene.last("bn", "freeze")
    for seed in range(2, 5):
        assert torch.equal(model(inputs(8, seed)), carry(inputs(8, seed)))
        # An evaluation within the step sees the frozen statistics too.
        model.eval()
        carry.eval()
        evaluated = model(inputs(4, 9))
        assert equal(statistics(model), held)
        assert not torch.equal(evaluated, carry(inputs(4, 9)))
        model.train()
        carry.train()
        assert freeze.after_step(scene.branch)
        assert equal(statistics(model), held)
    assert not freeze.after_step(scene.branch)


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_recalibration_is_torchs_update_bn_on_the_probes_inputs(batches: int) -> None:
    model = network()
    model(inputs(8, 3))
    model.eval()
    model[1].train()
    expected = copy.deepcopy(model)
    update_bn(torch.tensor_split(inputs(12, 0), batches), expected)
    scene = probed(model, "calibration")
    modes = [module.training for module in model.modules()]
    receipt = scene.apply("bn", "recalibrate", batches=batches)
    assert receipt["applied"]
    assert equal(statistics(model), statistics(expected))
    assert [module.training for module in model.modules()] == modes
    assert [model[1].momentum, model[4].momentum] == [0.1, 0.3]
    digest = digest_text(content_digest(inputs(12, 0)))
    assert receipt["arguments"] == {"batches": batches, "probe": "calibration", "inputs": digest}
    assert digest == scene.branch.probes["calibration"].describe()["inputs"]  # type: ignore[attr-defined]


def test_recalibration_leaves_every_stream_and_every_other_source_and_repeats_itself() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(dropout=0.5)
            self.register_buffer("seen", torch.zeros(1))
            self.calls = 0

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.seen += len(batch)
            self.calls += 1
            found: torch.Tensor = self.inner(batch + random.random() + float(np.random.rand()))
            return found

    results = []
    for _ in range(2):
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        model = Counting()
        model(inputs(8, 3))
        scene = probed(model, "calibration")
        before = scene.digests()
        streams = [stream.read().digest() for stream in scene.branch.streams()]
        assert scene.apply("bn", "recalibrate", batches=2)["applied"]
        assert [stream.read().digest() for stream in scene.branch.streams()] == streams
        assert {name for name, digest in scene.digests().items() if digest != before[name]} == {"bn"}
        assert (float(model.seen), model.calls) == (8.0, 1)
        results.append(statistics(model))
        model.train()
        torch.manual_seed(99)  # what the streams of the training stand at does not matter
        scene.apply("bn", "recalibrate", batches=2)
        assert equal(statistics(model), results[0])
    assert equal(*results)


def test_a_layer_that_the_models_own_train_leaves_in_evaluation_is_measured_too() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self.inner[1].eval()
            return self

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(batch)
            return found

    model = Frozen().train()
    expected = copy.deepcopy(model.inner)
    update_bn([inputs(12, 0)], expected)
    assert probed(model, "calibration").apply("bn", "recalibrate")["applied"]
    assert equal(statistics(model.inner), statistics(expected))
    assert not model.inner[1].training


def test_which_probe_it_is_has_to_be_clear() -> None:
    model = network()
    assert "no probe runs all layers of bn" in Scene(model=model).refused("bn", "recalibrate")
    scene = probed(model, "train", "test")
    assert "there are: train, test: say probe=…" in scene.refused("bn", "recalibrate")
    assert "no probe else runs" in scene.refused("bn", "recalibrate", probe="else")
    assert scene.apply("bn", "recalibrate", probe="test")["arguments"]["probe"] == "test"
    expected = copy.deepcopy(model)
    update_bn([inputs(12, 1)], expected)
    assert equal(statistics(model), statistics(expected))


@pytest.mark.parametrize(
    ("batches", "tuple_", "message"),
    [(7, False, "has 12 samples, too few for 7 batches of two"), (2, True, "no single tensor")],
    ids=["too few samples", "not one tensor"],
)
def test_inputs_that_cannot_be_cut_are_refused(batches: int, tuple_: bool, message: str) -> None:
    model = network()
    scene = probed(model, "calibration")
    if tuple_:
        scene.branch = replace(
            scene.branch, probes={"calibration": Probe("calibration", model, (inputs(12, 0),), None)}
        )
    assert message in scene.refused("bn", "recalibrate", batches=batches)


def test_a_layer_that_the_probe_does_not_reach_refuses_the_whole() -> None:
    model = network()
    model.append(nn.Identity())
    model[5].spare = nn.BatchNorm1d(4)
    scene = probed(model, "calibration")
    assert "does not use bn/5.spare" in scene.refused("bn", "recalibrate")


def test_layers_without_torchs_meaning_are_refused() -> None:
    class Library(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.ones(3))
            self.register_buffer("running_var", torch.ones(3))

    assert "how it begins is not known" in Scene(model=nn.Sequential(Library())).refused("bn", "reset")
    norm = nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))
    assert "keeps no plain mean over batches" in probed(norm, "calibration").refused("bn", "recalibrate")
    assert "there is no bn" in Scene(model=nn.Linear(2, 2)).refused("bn", "reset")


def test_of_two_models_one_is_named() -> None:
    one, two = network(), network()
    for model in (one, two):
        model(inputs(8, 1))
    scene = Scene(first=one, second=two)
    held = statistics(one)
    assert scene.apply("bn[second]", "reset")["digest_after"].keys() == {"bn[second]"}
    assert equal(statistics(one), held)
    assert scene.apply("bn", "reset")["digest_after"].keys() == {"bn[first]", "bn[second]"}
