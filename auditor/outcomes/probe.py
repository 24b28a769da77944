"""A probe: fixed inputs on which functions are compared."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from auditor.artifact.digest import digest_text
from auditor.errors import MemauditError
from auditor.outcomes.classification import accuracy, nll, probabilities
from auditor.state.source import Reading
from auditor.state.streams import Preserved, Stream
from auditor.state.tensors import torch_digest
from auditor.state.values import encode

CHUNK = 256
"""Samples a forward pass. Part of the measurement: another size may round differently."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it names files


class Measurement(NamedTuple):
    """Outcomes by name, and what the model said: float64 ``[samples, classes]`` probabilities, or raw outputs."""

    values: dict[str, float]
    predictions: np.ndarray[Any, Any]


class Probe:
    """A model and the fixed inputs it is measured on.

    Parameters
    ----------
    name
        What the results call it.
    model
        The module to evaluate; it is put into evaluation mode and back.
    inputs
        A tensor whose first dimension counts samples, or a tuple of positional or a dict of keyword arguments.
    targets
        Integer classes ``[samples]``, or None. NLL and accuracy exist only with class targets and ``[samples,
        classes]`` outputs.
    """

    def __init__(self, name: str, model: nn.Module, inputs: Any, targets: torch.Tensor | None) -> None:
        if not _NAME.fullmatch(name):
            raise MemauditError(
                f"{name!r} cannot name a probe", where="run.probe(…)", next_step="use letters, digits, '_', '.' and '-'"
            )
        if targets is not None and isinstance(inputs, torch.Tensor) and len(targets) != len(inputs):
            raise MemauditError(
                f"probe {name!r} has {len(inputs)} inputs and {len(targets)} targets", where="run.probe(…)"
            )
        self.name = name
        self.model = model
        # Copies: the probe stays what it was when it was named, whatever the script does with its tensors.
        self.inputs = _cloned(inputs)
        self.targets = None if targets is None else targets.detach().clone()
        self.warnings: set[str] = set()

    @property
    def kind(self) -> str:
        """Return ``classification`` (integer targets), ``regression`` (other targets) or ``none``."""
        if self.targets is None:
            return "none"
        classes = self.targets.dim() == 1 and not self.targets.is_floating_point()
        return "classification" if classes else "regression"

    def describe(self) -> dict[str, Any]:
        """Return the probe's entry in probes.json."""
        targets = None if self.targets is None else digest_text(Reading({"targets": self.targets}).digest())
        return {
            "inputs": digest_text(content_digest(self.inputs)),
            "targets": targets,
            "size": self.size,
            "kind": self.kind,
        }

    @property
    def size(self) -> int | None:
        """Return the number of samples, where it is known."""
        if isinstance(self.inputs, torch.Tensor):
            return len(self.inputs)
        return None if self.targets is None else len(self.targets)

    def measure(self, streams: list[Stream]) -> Measurement:
        """Run the model on the probe; streams, modes, gradients and buffers are afterwards as they were."""
        with Preserved(streams), _evaluating(self.model, self.warnings), torch.no_grad():
            outputs = self._forward()
            if self.kind != "classification" or outputs.dim() != 2:
                return Measurement({}, outputs.double().cpu().numpy().copy())
            assert self.targets is not None  # noqa: S101 - what kind says
            targets = self.targets.to(outputs.device)
            values = {"nll": nll(outputs, targets), "accuracy": accuracy(outputs, targets)}
            return Measurement(values, probabilities(outputs).cpu().numpy().copy())

    def call(self, inputs: Any) -> Any:
        """Return what the model as it stands answers to inputs of the probe's form, compiled or not."""
        with _eagerly():
            if isinstance(inputs, torch.Tensor):
                return self.model(inputs)
            return self.model(**inputs) if isinstance(inputs, dict) else self.model(*inputs)

    def _forward(self) -> torch.Tensor:
        parts = torch.split(self.inputs, CHUNK) if isinstance(self.inputs, torch.Tensor) else None
        if parts is None:
            return _tensor_of(self.call(self.inputs)).detach()
        return torch.cat([_tensor_of(self.call(part)) for part in parts]).detach()


class UserOutcome:
    """A scalar of the user's own."""

    def __init__(self, name: str, function: Callable[[], float]) -> None:
        self.name = name
        self.function = function

    def measure(self, streams: list[Stream]) -> float:
        """Return ``float(function())``; streams are afterwards as they were.

        Raises
        ------
        MemauditError
            If the function fails, or gives no number.
        """
        try:
            with Preserved(streams), _eagerly(), torch.no_grad():
                return float(self.function())
        except Exception as error:
            raise MemauditError(
                f"the outcome {self.name} cannot be measured",
                where="run.outcome(…)",
                why=f"{type(error).__name__}: {error}",
                next_step="it is measured before the first step too: let it give a number there, such as nan",
            ) from error


class _evaluating:  # noqa: N801 - reads as a statement
    """A block in which a module evaluates; modes and buffers are put back, and a changed buffer is warned about."""

    def __init__(self, model: nn.Module, warnings: set[str]) -> None:
        self._model = model
        self._warnings = warnings
        self._training = {name: layer.training for name, layer in model.named_modules()}
        self._attributes = {name: _plain_attributes(layer) for name, layer in model.named_modules()}
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        for name, layer in self._model.named_modules():
            layer.training = self._training.get(name, layer.training)
            for attribute, value in self._attributes.get(name, {}).items():
                if layer.__dict__.get(attribute) != value:
                    layer.__dict__[attribute] = value
                    self._warnings.add(
                        f"evaluating the model changes {name}.{attribute}; it was put back".replace(" .", " ")
                    )
        for name, buffer in self._model.named_buffers():
            before = self._buffers.get(name)
            if before is None:
                self._warnings.add(f"evaluating the model adds a buffer, {name}")
                continue
            # By their bits: torch.equal knows no float8, and NaN is not equal to itself.
            if torch_digest(name, buffer) != torch_digest(name, before):
                with torch.no_grad():
                    buffer.copy_(before)
                self._warnings.add(f"evaluating the model changes its buffer {name}; it was put back")


def _eagerly() -> AbstractContextManager[Any]:
    """Return a block in which compiled modules run as they were written.

    A probe's batch has another size than the training's: compiled, it would make torch.compile remember dynamic
    shapes, and training's next compilation come out with other bits.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    eagerly: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eagerly


def _plain_attributes(layer: nn.Module) -> dict[str, Any]:
    """Return a module's own numbers, strings and flags; its mode is kept apart."""
    return {
        name: value
        for name, value in layer.__dict__.items()
        if name != "training" and isinstance(value, bool | int | float | str | None)
    }


def content_digest(content: Any) -> bytes:
    """Return the 16-byte digest of nested tensors and values, such as a batch (docs/run-directory.md)."""
    tensors: dict[str, torch.Tensor] = {}
    values = encode(content, tensors)
    # A batch of tensors in a tuple or list is told apart by its tensors' paths; the rest stands in the values.
    return Reading(tensors, values).digest()


def _tensor_of(output: Any) -> torch.Tensor:
    """Return the tensor a model answers with: itself, the first of a tuple, or ``.logits``."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict) and "logits" in output:
        logits: torch.Tensor = output["logits"]
        return logits
    if hasattr(output, "logits"):
        return torch.as_tensor(output.logits)
    if isinstance(output, Iterable):
        first = next(iter(output))
        if isinstance(first, torch.Tensor):
            return first
    raise MemauditError(
        f"a probed model returned a {type(output).__qualname__}",
        where="run.probe(…)",
        next_step="probe a module that returns a tensor, or a tuple whose first item is one",
    )


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_cloned(item) for item in value)
    return value
