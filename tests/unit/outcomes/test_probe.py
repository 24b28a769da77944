"""Measuring leaves everything as it was: streams, modes, gradients, statistics."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.artifact.resources import validator
from auditor.errors import MemauditError
from auditor.outcomes.probe import CHUNK, Probe, UserOutcome, content_digest
from auditor.state.streams import Preserved, global_streams

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


class Careless(nn.Module):
    """Draws, and moves its statistics and a buffer, in evaluation mode too; its BatchNorm is frozen while training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.body[1].eval()
        self.careless = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("small", torch.ones(2).to(torch.float8_e4m3fn))
        self.register_buffer("hole", torch.tensor([float("nan"), -0.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.careless.training = True
        return self.careless(nn.functional.dropout(self.body(inputs), 0.3, training=True)) + np.random.random()


def state_of(model: nn.Module) -> list[Any]:
    found: list[Any] = [layer.training for layer in model.modules()]
    found += [bytes(t.detach().reshape(-1).view(torch.uint8).tolist()) for t in model.state_dict().values()]
    found += [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    found += [p.requires_grad for p in model.parameters()]
    return found + [stream.digest() for stream in global_streams()]


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_everything_as_it_was(training: bool) -> None:
    with Preserved(global_streams()):
        torch.manual_seed(0)
        model = Careless()
        if not training:
            model.eval()
        model.body(INPUTS).sum().backward()
        before = state_of(model)
        addresses = [buffer.data_ptr() for buffer in model.buffers()]
        probe = Probe("probe", model, INPUTS, TARGETS)
        first = probe.measure(global_streams())
        assert state_of(model) == before
        assert [buffer.data_ptr() for buffer in model.buffers()] == addresses
        assert probe.measure(global_streams()).values == first.values, "the same draws again"
    assert any("calls" in warning for warning in probe.warnings)
    assert any("careless.running_mean" in warning for warning in probe.warnings)
    assert not any("small" in warning or "hole" in warning for warning in probe.warnings)


def test_an_error_in_the_model_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 2))
    before = state_of(model)
    with pytest.raises(RuntimeError):
        Probe("probe", model, INPUTS, None).measure(global_streams())
    assert state_of(model) == before
    assert torch.is_grad_enabled()


def test_the_model_is_measured_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    measured = Probe("probe", model, INPUTS, TARGETS).measure(global_streams())
    logits = model.eval()(INPUTS).detach().double()
    assert measured.predictions.dtype == np.float64
    assert measured.predictions == pytest.approx(torch.softmax(logits, 1).numpy())
    assert measured.values["nll"] == pytest.approx(float(nn.functional.cross_entropy(logits, TARGETS)))
    assert set(measured.values) == {"nll", "accuracy"}


@pytest.mark.parametrize(
    ("targets", "kind"), [(None, "none"), (TARGETS, "classification"), (torch.randn(6), "regression")]
)
def test_kinds(targets: torch.Tensor | None, kind: str) -> None:
    probe = Probe("probe", nn.Linear(4, 3), INPUTS, targets)
    assert probe.kind == kind
    measured = probe.measure([])
    assert bool(measured.values) == (kind == "classification")
    if kind != "classification":
        assert measured.predictions == pytest.approx(probe.model(INPUTS).detach().double().numpy())
    document = {"format": "probes-1", "probes": {"probe": probe.describe()}, "outcomes": [], "warnings": []}
    validator("probes").validate(document)
    assert probe.describe()["size"] == 6


def test_the_probe_is_what_it_was_when_it_was_named() -> None:
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    probe = Probe("probe", nn.Linear(4, 3), inputs, targets)
    described, measured = probe.describe(), probe.measure([])
    inputs.zero_()
    targets.zero_()
    assert probe.describe() == described
    assert probe.measure([]).values == measured.values


def test_more_samples_than_a_forward_pass_takes() -> None:
    inputs = torch.randn(2 * CHUNK + 3, 4)
    sizes: list[int] = []
    model = nn.Linear(4, 2)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert len(Probe("probe", model, inputs, None).measure([]).predictions) == len(inputs)
    assert sizes == [CHUNK, CHUNK, 3]


class Answer(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> Any:
        return self.wrap(first if second is None else first + second)


class Logits:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, None), lambda x: {"logits": x, "loss": 0}, Logits],
    ids=["tensor", "tuple", "dict", "object"],
)
@pytest.mark.parametrize("inputs", [INPUTS, (INPUTS, INPUTS), {"second": INPUTS, "first": INPUTS}], ids=type)
def test_inputs_and_answers_in_their_usual_forms(wrap: Any, inputs: Any) -> None:
    found = Probe("probe", Answer(wrap), inputs, None).measure([]).predictions
    assert found == pytest.approx(INPUTS.double().numpy() * (1 if inputs is INPUTS else 2))


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(MemauditError, match="returned a str"):
        Probe("probe", Answer(lambda _: "x"), INPUTS, None).measure([])
    with pytest.raises(MemauditError, match="6 inputs and 5 targets"):
        Probe("probe", nn.Linear(4, 3), INPUTS, TARGETS[:5])
    for name in ("", "../x", "a/b", "-x", ".hidden", "a" * 65):
        with pytest.raises(MemauditError, match="cannot name a probe"):
            Probe(name, nn.Linear(4, 3), INPUTS, None)


def test_an_outcome_of_the_users_own_consumes_nothing() -> None:
    before = [stream.digest() for stream in global_streams()]
    weight = torch.ones(1, requires_grad=True)
    outcome = UserOutcome("own", lambda: weight * torch.rand(1))
    assert outcome.measure(global_streams()) == outcome.measure(global_streams())
    assert [stream.digest() for stream in global_streams()] == before


def test_content_is_told_apart_by_path_and_value() -> None:
    one, two = torch.ones(2), torch.zeros(2)
    contents = [(one, two), (two, one), [one, two], {"a": one, "b": two}, {"a": one, "c": two}, (one, "x"), (one, "y")]
    digests = {content_digest(content) for content in contents}
    assert len(digests) == len(contents)
    assert content_digest((one.clone(), two.clone())) in digests
