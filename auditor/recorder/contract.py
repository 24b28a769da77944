"""The RNG contract: which streams exist, how each was seeded, who consumes it, and what is doubtful about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from auditor.recorder.settings import Settings
from auditor.state.census import loader_generators
from auditor.state.streams import TORCH_DEFAULT_SEED, GeneratorStream, Stream

_UNSEEDED = "seeded by nobody that memaudit saw: another run will draw other numbers"


def describe(
    streams: list[Stream], settings: Settings, modules: list[nn.Module], loaders: list[DataLoader[Any]]
) -> list[dict[str, Any]]:
    """Return the contract's entries, one a stream in the order given: name, seeded_by, consumers, warnings."""
    return [_entry(stream, settings, modules, loaders) for stream in streams]


def _entry(
    stream: Stream, settings: Settings, modules: list[nn.Module], loaders: list[DataLoader[Any]]
) -> dict[str, Any]:
    warnings: list[str] = []
    if isinstance(stream, GeneratorStream) and stream.name.partition(":")[0] not in ("cuda", "mps", "xpu"):
        seed = stream.generator.initial_seed()
        seeded_by = f"its own seed, {seed}"
        if seed == TORCH_DEFAULT_SEED:
            seeded_by = "torch's fixed default seed"
            warnings.append("nobody seeded this generator; it starts from torch's default in every run")
    elif settings.seed is not None:
        seeded_by = f"{settings.seeded_by}, {settings.seed}"
    elif stream.name == "torch" and torch.initial_seed() == TORCH_DEFAULT_SEED:
        seeded_by = "torch's fixed default seed"
        warnings.append(_UNSEEDED)
    elif stream.name == "torch":
        seeded_by = f"the program, {torch.initial_seed()}"
    else:
        seeded_by = "unknown"
        warnings.append(_UNSEEDED)
    return {
        "name": stream.name,
        "seeded_by": seeded_by,
        "consumers": _consumers(stream, modules, loaders),
        "warnings": warnings,
    }


def _consumers(stream: Stream, modules: list[nn.Module], loaders: list[DataLoader[Any]]) -> list[str]:
    """Return the consumers that can be told from the objects; others may exist in the program's own code."""
    found: list[str] = []
    for index, loader in enumerate(loaders, start=1):
        name = "loader" if len(loaders) == 1 else f"loader {index}"
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        own = dict(loader_generators(loader))
        mine = isinstance(stream, GeneratorStream) and any(stream.generator is other for other in own.values())
        if (stream.name == "torch" and loader.generator is None) or (
            isinstance(stream, GeneratorStream) and stream.generator is loader.generator
        ):
            found.append(f"{name}: base seed of each pass")
        unowned = getattr(sampler, "generator", None) is None
        if isinstance(sampler, RandomSampler) and ((stream.name == "torch" and unowned) or (mine and not unowned)):
            found.append(f"{name}: order of each pass")
    if stream.name == "torch":
        dropout = [
            layer
            for module in modules
            for layer in module.modules()
            if isinstance(layer, nn.modules.dropout._DropoutNd)
        ]
        if dropout:
            found.append(f"dropout in {len(dropout)} module{'s' if len(dropout) > 1 else ''}")
    return found
