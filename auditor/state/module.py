"""Sources that live in modules: weights, BatchNorm statistics, other buffers, and what sets a layer's memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from auditor.errors import MemauditError
from auditor.state.half_life import norm_half_life
from auditor.state.source import Reading, Source, copy_into
from auditor.state.survey import Place, registered_places


class RegisteredSource(Source):
    """Parameters or buffers of a module, under their dotted names; tied ones once."""

    def __init__(self, name: str, kind: str, module: nn.Module, places: list[Place]) -> None:
        super().__init__(name, kind)
        self.module = module
        self._places = places

    def read(self) -> Reading:
        """Return the live tensors."""
        return Reading(self._now())

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live tensors; uninitialized ones get their shape first."""
        initialize(self.module, reading.tensors)
        targets = self._now()
        for path in reading.tensors.keys() - targets.keys():
            tensor = _at(self.module, path)
            if tensor is not None:
                targets[path] = tensor
        copy_into(targets, reading.tensors, self.name)

    def _now(self) -> dict[str, torch.Tensor]:
        found = ((path, holder[key]) for path, holder, key in self._places if key in holder)
        return {path: tensor for path, tensor in found if tensor is not None}


class ParamsSource(RegisteredSource):
    """A module's parameters, and which of them are frozen.

    A reading's values are null where all are trained, else ``{"frozen": [path]}``: layers may be frozen or thawed as
    training goes on.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, "params", module, registered_places(module, buffers=False))

    def read(self) -> Reading:
        """Return the live parameters."""
        tensors = self._now()
        frozen = [path for path, tensor in tensors.items() if not tensor.requires_grad]
        return Reading(tensors, {"frozen": frozen} if frozen else None)

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live parameters, and train those that were trained."""
        super().restore(reading)
        frozen = set((reading.values or {"frozen": []})["frozen"])
        for path, tensor in self._now().items():
            if tensor.requires_grad == (path in frozen):
                tensor.requires_grad_(path not in frozen)


class BatchNormSource(RegisteredSource):
    """The running mean, variance and count of every BatchNorm (1d to 3d, Sync) in a module."""

    def __init__(self, name: str, module: nn.Module) -> None:
        statistics = batch_norm_names(module)
        super().__init__(name, "bn", module, [p for p in registered_places(module) if p.path in statistics])
        if all(getattr(layer, "momentum", 0.0) is None for _, layer in batch_norms(module)):
            self.lifetime = "the run: a mean over all batches"

    def half_life(self) -> float | None:
        """Return the half-life of the running averages, if all layers share one momentum."""
        return norm_half_life([layer for _, layer in batch_norms(self.module)])


class BuffersSource(RegisteredSource):
    """A module's registered buffers of those names, saved with it or not."""

    def __init__(self, name: str, module: nn.Module, names: set[str]) -> None:
        super().__init__(name, "buffers", module, [p for p in registered_places(module) if p.path in names])


class LayerHyperSource(Source):
    """A number that layers hold and a schedule may change: BatchNorm's momentum, the share that dropout drops."""

    def __init__(self, name: str, attribute: str, layers: list[tuple[str, nn.Module]]) -> None:
        super().__init__(name, "hyper", lifetime="until it is set")
        self._attribute = attribute
        self.layers = layers

    def read(self) -> Reading:
        """Return the value of each layer under its dotted name."""
        return Reading({}, {name: vars(layer)[self._attribute] for name, layer in self.layers})

    def restore(self, reading: Reading) -> None:
        """Set the stored values."""
        if reading.values.keys() != {name for name, _ in self.layers}:
            raise MemauditError(
                "the program has other layers than the anchor",
                where=self.name,
                next_step="replay the program and arguments that were recorded",
            )
        for name, layer in self.layers:
            setattr(layer, self._attribute, reading.values[name])


def layer_hypers(module: nn.Module) -> list[Source]:
    """Return what sets the memory and the noise of a module's layers, where it is a plain number."""
    kinds = {
        "bn_momentum": ("momentum", [pair for pair in batch_norms(module) if _is_number(pair[1], "momentum")]),
        "dropout": ("p", [pair for pair in module.named_modules() if isinstance(pair[1], _DropoutNd)]),
    }
    return [
        LayerHyperSource(f"hyper.{name}", attribute, layers) for name, (attribute, layers) in kinds.items() if layers
    ]


def batch_norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the normalisation layers of ``module`` that keep running statistics, a library's own ones included."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if (isinstance(layer, _NormBase) and layer.track_running_stats)
        or all(name in layer._buffers and layer._buffers[name] is not None for name in ("running_mean", "running_var"))
    ]


def batch_norm_names(module: nn.Module) -> set[str]:
    """Return the dotted names of the running statistics of ``module``."""
    return {
        f"{name}.{key}" if name else key
        for name, layer in batch_norms(module)
        for key, buffer in layer._buffers.items()
        if buffer is not None
    }


def other_buffer_names(module: nn.Module) -> list[str]:
    """Return the dotted names of the registered buffers of ``module`` that are not running statistics."""
    statistics = batch_norm_names(module)
    return [name for name, _ in module.named_buffers() if name not in statistics]


def initialize(module: nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Give uninitialized parameters and buffers (lazy modules) the shapes of stored ones, as torch does on loading."""
    for name, layer in module.named_modules():
        for key, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            path = f"{name}.{key}" if name else key
            if tensor is not None and is_lazy(tensor) and path in stored:
                lazy: Any = tensor
                lazy.materialize(stored[path].shape, dtype=stored[path].dtype)


def _at(module: nn.Module, path: str) -> torch.Tensor | None:
    """Return the parameter or buffer at a dotted name, if it is there and initialized."""
    home, _, key = path.rpartition(".")
    try:
        layer = module.get_submodule(home)
    except AttributeError:
        return None
    homes = [held for held in (layer._parameters, layer._buffers) if key in held]
    tensor: torch.Tensor | None = homes[0][key] if homes else None
    return None if tensor is None or is_lazy(tensor) else tensor


def _is_number(layer: nn.Module, name: str) -> bool:
    value = vars(layer).get(name, "")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def evaluation_modes(module: nn.Module) -> list[str]:
    """Return the dotted names of the submodules in evaluation mode (``""`` is the module itself)."""
    return [name for name, layer in module.named_modules() if not layer.training]


def restore_modes(module: nn.Module, evaluating: list[str]) -> None:
    """Put every submodule into the mode that :func:`evaluation_modes` saw."""
    names = set(evaluating)
    unknown = names - {name for name, _ in module.named_modules()}
    if unknown:
        raise MemauditError("the anchor names modules that the program does not have", why=str(sorted(unknown)[:5]))
    for name, layer in module.named_modules():
        layer.training = name not in names
