"""Whether memory sources may have come or gone, told cheaply: from sizes, types and identities, at every step."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from auditor.state.survey import Place


class Pulse:
    """What is looked at. It is filled while sources are looked for, and felt until they are looked for again."""

    def __init__(self) -> None:
        self._sizes: list[Sized] = []
        self._filled: list[Sized] = []
        self._held: list[dict[str, Any]] = []
        self._kinds: list[dict[str, Any]] = []
        self._places: dict[type, tuple[list[Any], list[Any]]] = {dict: ([], []), list: ([], [])}
        self._entered: list[Place] = []
        self._lazy: list[torch.Tensor] = []
        self._optimizers: list[torch.optim.Optimizer] = []

    def module(self, module: nn.Module) -> None:
        """Watch a module for layers, parameters and buffers that come, go or are replaced."""
        for layer in module.modules():
            self._sizes += [vars(layer), layer._modules, layer._parameters, layer._buffers]
            # Scripted modules have containers of another type, and nothing of them is ever replaced.
            self._held += [each for each in (layer._modules, layer._parameters) if each and isinstance(each, dict)]
            if layer._buffers and isinstance(layer._buffers, dict):
                # By type only: a buffer may be bound anew at each step.
                self._kinds.append(layer._buffers)
            tensors = [*layer._parameters.values(), *layer._buffers.values()]
            self._lazy += [tensor for tensor in tensors if tensor is not None and is_lazy(tensor)]

    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch an optimizer for slots, groups and hyper-parameters that come or go."""
        self._optimizers.append(optimizer)

    def containers(self, sizes: Iterable[Sized], filled: Iterable[Sized] = ()) -> None:
        """Watch containers for their length, or only for being empty or not."""
        self._sizes += sizes
        self._filled += filled

    def entered(self, places: Iterable[Place]) -> None:
        """Watch places for other objects: what was found below the one that stood there is no longer the program's."""
        self._entered += places

    def places(self, places: Iterable[Place]) -> None:
        """Watch places for values of another type."""
        for place in places:
            for kind, (holders, keys) in self._places.items():
                if isinstance(place.holder, kind):
                    holders.append(place.holder)
                    keys.append(place.key)

    def feel(self) -> tuple[object, ...]:
        """Return what changes when sources come, go or are bound anew; a few microseconds for fifty modules."""
        holders, keys = self._places[dict]
        lists, indices = self._places[list]
        return (
            tuple(map(len, self._sizes)),
            tuple(map(bool, self._filled)),
            tuple(map(id, chain.from_iterable(map(dict.values, self._held)))),
            tuple(map(type, chain.from_iterable(map(dict.values, self._kinds)))),
            tuple(map(type, map(dict.get, holders, keys))),
            tuple(type(held[index]) if index < len(held) else None for held, index in zip(lists, indices, strict=True)),
            tuple(map(id, map(Place.value, self._entered))),
            sum(map(is_lazy, self._lazy)),
            *map(_of_optimizer, self._optimizers),
        )


def _of_optimizer(optimizer: torch.optim.Optimizer) -> tuple[object, ...]:
    state = optimizer.state
    try:
        slots = sum(map(len, state.values()))
    except TypeError:  # numbers among them, or tensors without a length
        slots = sum(len(held) if isinstance(held, dict) else 1 for held in state.values())
    groups = optimizer.param_groups
    return (
        len(state),
        slots,
        *[(len(group["params"]), *map(type, group.values())) for group in groups],
    )
