"""Sources that live in modules: weights, BatchNorm statistics, other buffers, teachers and averaged copies."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from auditor.errors import MemauditError
from auditor.state.source import (
    CHANGES_EVALUATION,
    HIDDEN,
    IN_THE_WEIGHTS,
    THROUGH_AVERAGE,
    Reading,
    Source,
    copy_into,
    half_life_of,
)


class ParamsSource(Source):
    """A module's parameters, under their dotted names; tied ones once."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, "params", visibility=IN_THE_WEIGHTS)
        self.module = module

    def read(self) -> Reading:
        """Return the live parameters."""
        return Reading(dict(self.module.named_parameters()))

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live parameters."""
        copy_into(dict(self.module.named_parameters()), reading.tensors, self.name)


class BatchNormSource(Source):
    """The running mean, variance and count of every BatchNorm (1d to 3d, Sync) in a module."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, "bn", visibility=CHANGES_EVALUATION)
        self.module = module

    def read(self) -> Reading:
        """Return the live statistics, under their dotted names."""
        return Reading(batch_norm_buffers(self.module))

    def restore(self, reading: Reading) -> None:
        """Copy the stored statistics into the live buffers."""
        copy_into(batch_norm_buffers(self.module), reading.tensors, self.name)

    def half_life(self) -> float | None:
        """Return the half-life of the running averages, if all layers share one momentum."""
        momenta = {layer.momentum for _, layer in batch_norms(self.module)}
        momentum = momenta.pop() if len(momenta) == 1 else None
        return None if momentum is None else half_life_of(1.0 - momentum)


class BuffersSource(Source):
    """A module's registered buffers that are not BatchNorm statistics, and are saved with it or not."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, "buffers", visibility=HIDDEN)
        self.module = module

    def read(self) -> Reading:
        """Return the live buffers, under their dotted names."""
        return Reading(other_buffers(self.module))

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live buffers."""
        copy_into(other_buffers(self.module), reading.tensors, self.name)


class ModuleCopySource(Source):
    """A second module that follows the first: a teacher, or averaged weights; parameters and buffers together."""

    def __init__(self, name: str, kind: str, module: nn.Module) -> None:
        super().__init__(
            name, kind, visibility=HIDDEN if kind == "teacher" else THROUGH_AVERAGE, lifetime="its decay's half-life"
        )
        self.module = module

    def read(self) -> Reading:
        """Return the live parameters and buffers, under their dotted names."""
        return Reading(self._tensors())

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live module."""
        copy_into(self._tensors(), reading.tensors, self.name)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def batch_norms(module: nn.Module) -> list[tuple[str, _NormBase]]:
    """Return the normalisation layers of ``module`` that keep running statistics."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, _NormBase) and layer.track_running_stats
    ]


def batch_norm_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the running statistics of ``module``, under their dotted names."""
    return {
        f"{name}.{key}" if name else key: buffer
        for name, layer in batch_norms(module)
        for key, buffer in layer.named_buffers(recurse=False)
    }


def other_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the registered buffers of ``module`` that are not running statistics."""
    statistics = batch_norm_buffers(module)
    return {name: buffer for name, buffer in module.named_buffers() if name not in statistics}


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
