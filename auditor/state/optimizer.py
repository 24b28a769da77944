"""Sources that live in an optimizer: one a state slot, one a hyper-parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from auditor.errors import MemauditError
from auditor.state.source import HIDDEN, Reading, Source, half_life_of
from auditor.state.values import decode, encode

# How an optimizer computes, not what: part of the numerics class, not of what training remembers.
IMPLEMENTATION_FLAGS = frozenset({"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"})

_DECAY_OF_SLOT: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "momentum_buffer": lambda group: group.get("momentum"),
    "exp_avg": lambda group: group["betas"][0] if "betas" in group else None,
    "exp_avg_sq": lambda group: group["betas"][1] if "betas" in group else None,
    "square_avg": lambda group: group.get("alpha"),
}


class WatchedOptimizer:
    """An optimizer together with the names of the parameters it moves.

    ``names`` maps a parameter's identity to its dotted name; one without a name is ``group0.param3``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> None:
        self.optimizer = optimizer
        self.names = names

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, parameter) in the optimizer's order."""
        for index, group in enumerate(self.optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                yield self.names.get(id(parameter), f"group{index}.param{position}"), parameter

    def slots(self) -> list[str]:
        """Return the names of all slots that any parameter has now, sorted."""
        states = [state for state in self.optimizer.state.values() if isinstance(state, Mapping)]
        return sorted({str(slot) for state in states for slot in state})

    def hyper_names(self) -> list[str]:
        """Return the names of the hyper-parameters of all groups, sorted."""
        return sorted(
            {
                key
                for group in self.optimizer.param_groups
                for key, value in group.items()
                if key not in IMPLEMENTATION_FLAGS and key not in ("params", "param_names") and value is not None
            }
        )


class SlotSource(Source):
    """One slot of an optimizer (``momentum_buffer``, ``exp_avg``, ``step``), over all parameters that have it."""

    def __init__(self, name: str, watched: WatchedOptimizer, slot: str) -> None:
        super().__init__(name, "optimizer", visibility=HIDDEN)
        self.watched = watched
        self.slot = slot

    def read(self) -> Reading:
        """Return the slot's live tensors under the parameters' names; numbers among them as values."""
        tensors: dict[str, torch.Tensor] = {}
        values: dict[str, Any] = {}
        state = self.watched.optimizer.state
        for name, parameter in self.watched.parameters():
            held = state.get(parameter, {})
            if self.slot not in held:
                continue
            value = held[self.slot]
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            else:
                values[name] = encode(value, tensors, name)
        return Reading(tensors, values or None)

    def restore(self, reading: Reading) -> None:
        """Put the slot back for every parameter; parameters that did not have it lose it."""
        state = self.watched.optimizer.state
        values = reading.values or {}
        for name, parameter in self.watched.parameters():
            if name in values:
                state[parameter][self.slot] = decode(values[name], reading.tensors)
            elif name in reading.tensors:
                stored = reading.tensors[name]
                # A `step` counter lives on the CPU whatever the parameter's device; a moment lives with its parameter.
                device = parameter.device if stored.shape == parameter.shape else stored.device
                fresh = torch.empty_like(parameter, dtype=stored.dtype) if stored.shape == parameter.shape else stored
                state[parameter][self.slot] = (
                    fresh.detach().copy_(stored) if fresh is not stored else stored.clone().to(device)
                )
            elif parameter in state:
                state[parameter].pop(self.slot, None)

    def half_life(self) -> float | None:
        """Return the half-life in steps that follows from β or momentum, if all groups share it."""
        decay = _DECAY_OF_SLOT.get(self.slot)
        if decay is None:
            return None
        found = {decay(group) for group in self.watched.optimizer.param_groups}
        value = found.pop() if len(found) == 1 else None
        return None if value is None else half_life_of(float(value))


class HyperSource(Source):
    """One hyper-parameter of an optimizer, one value a parameter group."""

    def __init__(self, name: str, watched: WatchedOptimizer, key: str) -> None:
        super().__init__(name, "hyper", visibility=HIDDEN, lifetime="until it is set")
        self.watched = watched
        self.key = key

    def read(self) -> Reading:
        """Return the values, a list in the order of the groups."""
        tensors: dict[str, torch.Tensor] = {}
        groups = self.watched.optimizer.param_groups
        values = [encode(group.get(self.key), tensors, f"group{index}") for index, group in enumerate(groups)]
        return Reading(tensors, values)

    def restore(self, reading: Reading) -> None:
        """Set the stored values."""
        groups = self.watched.optimizer.param_groups
        if len(groups) != len(reading.values):
            raise MemauditError(
                f"the program's optimizer has {len(groups)} parameter groups, the anchor {len(reading.values)}",
                where=self.name,
                next_step="replay the program and arguments that were recorded",
            )
        for index, (group, value) in enumerate(zip(groups, reading.values, strict=True)):
            decoded = decode(value, reading.tensors)
            current = group.get(self.key)
            if isinstance(current, torch.Tensor):
                current.copy_(reading.tensors[f"group{index}"])
            elif decoded is None:
                group.pop(self.key, None)
            else:
                group[self.key] = decoded
