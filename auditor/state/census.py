"""The census: which memory sources and streams a training has, found from the objects it watches."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from auditor.errors import MemauditError
from auditor.state import module as modules
from auditor.state.optimizer import HyperSource, SlotSource, WatchedOptimizer
from auditor.state.source import Source
from auditor.state.stateful import Stateful, StatefulSource, TensorSource
from auditor.state.streams import (
    GeneratorStream,
    NumpyGeneratorStream,
    Stream,
    device_generators,
    global_streams,
)

# Where the type does not decide the kind, a word of the watched keyword (between underscores or digits) does.
_KIND_WORDS = ("teacher", "ema", "swa", "queue", "bank", "buffer", "scheduler", "scaler", "sampler", "augment")
_KIND_OF_WORD = {"bank": "queue", "buffer": "queue", "sampler": "order"}


class Watched:
    """The objects a training showed to the recorder, by the keyword they were shown under."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    def add(self, name: str, thing: object) -> None:
        """Watch one more object.

        Raises
        ------
        MemauditError
            If nothing can be captured of it, or another object was watched under that name.
        """
        if thing is None:
            return
        if name in self.objects and self.objects[name] is not thing:
            raise MemauditError(
                f"two different objects are watched as {name!r}", next_step="give the second one a name of its own"
            )
        if not _can_be_watched(thing):
            raise MemauditError(
                f"a {type(thing).__module__}.{type(thing).__qualname__} cannot be watched",
                where=f"run.watch({name}=…)",
                why="it is no module, optimizer, tensor or generator and has no state_dict() and load_state_dict()",
                next_step="give it these two methods, or watch the tensors in it",
            )
        self.objects[name] = thing

    def modules(self) -> dict[str, nn.Module]:
        """Return the watched modules by keyword."""
        return {name: thing for name, thing in self.objects.items() if isinstance(thing, nn.Module)}

    def parameter_names(self) -> dict[int, str]:
        """Return the dotted name of every parameter of every watched module, by identity.

        With several modules the keyword comes first (``generator.layer1.weight``).
        """
        trained = {name: module for name, module in self.modules().items() if _module_kind(name, module) == "params"}
        prefixed = len(trained) > 1
        return {
            id(parameter): f"{keyword}.{name}" if prefixed else name
            for keyword, module in trained.items()
            for name, parameter in module.named_parameters()
        }

    def sources(self) -> list[Source]:
        """Return the memory sources there are now, in a fixed order: weights, statistics, optimizer, the rest."""
        groups: dict[str, list[tuple[str, list[Source]]]] = defaultdict(list)
        names = self.parameter_names()
        for keyword, thing in self.objects.items():
            for kind, made in _sources_of(keyword, thing, names):
                groups[kind].append((keyword, made))
        result: list[Source] = []
        for entries in groups.values():
            for keyword, made in entries:
                for source in made:
                    if len(entries) > 1:
                        source.name = _bracketed(source.name, keyword)
                    result.append(source)
        order = (
            "params",
            "bn",
            "buffers",
            "optimizer",
            "hyper",
            "scheduler",
            "scaler",
            "ema",
            "swa",
            "teacher",
            "queue",
        )
        rank = {kind: index for index, kind in enumerate(order)}
        return sorted(result, key=lambda source: (rank.get(source.kind, len(order)), source.name))

    def slot_source(self, name: str) -> Source | None:
        """Return a source for an optimizer slot that may not exist yet, such as one an anchor holds; else None."""
        optimizers = {key: thing for key, thing in self.objects.items() if isinstance(thing, torch.optim.Optimizer)}
        head, dot, slot = name.partition(".")
        for keyword, optimizer in optimizers.items():
            expected = "optimizer" if len(optimizers) == 1 else f"optimizer[{keyword}]"
            if dot and head == expected:
                return SlotSource(name, WatchedOptimizer(optimizer, self.parameter_names()), slot)
        return None

    def streams(self, loaders: Iterable[torch.utils.data.DataLoader[Any]] = ()) -> list[Stream]:
        """Return the random streams there are now: the global ones, watched generators, loaders' and samplers' own."""
        found = global_streams()
        seen = {id(generator) for generator in (torch.default_generator, *device_generators())}
        for keyword, thing in self.objects.items():
            if isinstance(thing, torch.Generator) and id(thing) not in seen:
                seen.add(id(thing))
                found.append(GeneratorStream(keyword, thing))
            elif isinstance(thing, np.random.Generator):
                found.append(NumpyGeneratorStream(keyword, thing))
        for index, loader in enumerate(loaders):
            suffix = f"[{index + 1}]" if index else ""
            for name, generator in loader_generators(loader):
                if id(generator) not in seen:
                    seen.add(id(generator))
                    found.append(GeneratorStream(f"{name}{suffix}", generator))
        return found


def loader_generators(loader: torch.utils.data.DataLoader[Any]) -> list[tuple[str, torch.Generator]]:
    """Return the generators a loader and its samplers own, under ``loader`` and ``sampler``."""
    candidates = [
        ("loader", loader.generator),
        ("sampler", getattr(loader.sampler, "generator", None)),
        ("sampler", getattr(getattr(loader.batch_sampler, "sampler", None), "generator", None)),
        ("batch_sampler", getattr(loader.batch_sampler, "generator", None)),
    ]
    found: list[tuple[str, torch.Generator]] = []
    for name, generator in candidates:
        if isinstance(generator, torch.Generator) and all(generator is not other for _, other in found):
            found.append((name, generator))
    return found


def _can_be_watched(thing: object) -> bool:
    kinds = (nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Generator, np.random.Generator)
    return isinstance(thing, (*kinds, Stateful))


def _word_kind(keyword: str) -> str | None:
    words = re.split(r"[^a-z]+", keyword.lower())
    for word in _KIND_WORDS:
        if word in words:
            return _KIND_OF_WORD.get(word, word)
    return None


def _module_kind(keyword: str, module: nn.Module) -> str:
    if isinstance(module, AveragedModel):
        return "swa" if _word_kind(keyword) == "swa" else "ema"
    named = _word_kind(keyword)
    return named if named in ("teacher", "ema", "swa") else "params"


def _sources_of(keyword: str, thing: Any, names: dict[int, str]) -> list[tuple[str, list[Source]]]:
    """Return what one watched object holds, grouped by kind: names are bracketed where a kind comes twice."""
    if isinstance(thing, nn.Module):
        kind = _module_kind(keyword, thing)
        if kind != "params":
            return [(kind, [modules.ModuleCopySource(kind, kind, thing)])]
        found: list[tuple[str, list[Source]]] = [("params", [modules.ParamsSource("params", thing)])]
        if modules.batch_norm_buffers(thing):
            found.append(("bn", [modules.BatchNormSource("bn", thing)]))
        if modules.other_buffers(thing):
            found.append(("buffers", [modules.BuffersSource("buffers", thing)]))
        return found
    if isinstance(thing, torch.optim.Optimizer):
        watched = WatchedOptimizer(thing, names)
        slots: list[Source] = [SlotSource(f"optimizer.{slot}", watched, slot) for slot in watched.slots()]
        hyper: list[Source] = [HyperSource(f"hyper.{key}", watched, key) for key in watched.hyper_names()]
        return [("optimizer", slots), ("hyper", hyper)]
    if isinstance(thing, torch.Tensor):
        kind = _word_kind(keyword) or "other"
        return [(kind, [TensorSource(kind, kind, thing)])]
    if isinstance(thing, torch.Generator | np.random.Generator):
        return []
    kind = _stateful_kind(keyword, thing)
    return [(kind, [StatefulSource(kind, kind, thing)])]


def _stateful_kind(keyword: str, thing: object) -> str:
    if isinstance(thing, torch.optim.lr_scheduler.LRScheduler):
        return "scheduler"
    if isinstance(thing, torch.amp.GradScaler):
        return "scaler"
    return _word_kind(keyword) or "other"


def _bracketed(name: str, keyword: str) -> str:
    head, dot, tail = name.partition(".")
    return f"{head}[{keyword}]{dot}{tail}"
