"""Sources that live in an optimizer: one a state slot, one a hyper-parameter, one an attribute of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from auditor.errors import MemauditError
from auditor.state.half_life import slot_half_life
from auditor.state.known import NONE_KNOWN, Known
from auditor.state.putback import PutBack
from auditor.state.source import Reading, Source
from auditor.state.values import encode

# How an optimizer computes, not what: no memory. Only where the program chose `fused` or `foreach` itself (None
# otherwise) are these recorded, beside the hyper-parameters: the kernels differ in their last bits.
IMPLEMENTATION_FLAGS = frozenset({"capturable", "differentiable", "decoupled_weight_decay"})

_LIFETIMES = {
    "old_dirs": "the last history_size updates",
    "old_stps": "the last history_size updates",
    "ro": "the last history_size updates",
    "prev_flat_grad": "one step",
    "prev": "one step",
}
_ABSENT = object()


class WatchedOptimizer:
    """An optimizer together with the names of the parameters it moves.

    ``names`` maps a parameter's identity to its dotted name; one without a name is ``group0.param3``. ``known`` names
    the tensors that are sources of their own: where the state refers to one, the reference is kept.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str], known: Known = NONE_KNOWN) -> None:
        self.optimizer = optimizer
        self.names = names
        self.known = known

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, parameter) in the optimizer's order."""
        for index, group in enumerate(self.optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                yield self.names.get(id(parameter), f"group{index}.param{position}"), parameter

    def slots(self) -> list[str]:
        """Return the names of all slots that any parameter has now, sorted.

        Raises
        ------
        MemauditError
            If a parameter's state is no dict, or a slot's key no text: then it has no name to be recorded under.
        """
        names: set[str] = set()
        for key, held in self._items():
            if not isinstance(key, torch.Tensor):
                continue
            if not isinstance(held, Mapping):
                raise self._nameless(key, f"what stands there is of type {type(held).__qualname__}")
            for slot in held:
                if not isinstance(slot, str):
                    raise self._nameless(key, f"one of the keys there is of type {type(slot).__qualname__}")
            names.update(held)
        return sorted(names)

    def _nameless(self, parameter: torch.Tensor, why: str) -> MemauditError:
        name = next((name for name, each in self.parameters() if each is parameter), "(a tensor in no group)")
        return MemauditError(
            f"{type(self.optimizer).__name__} keeps state that has no name to be recorded under",
            where=f"optimizer.state[{name}]",
            why=why,
            next_step="keep a dict there with text as its keys: state[parameter]['velocity'] = …",
        )

    def own_keys(self) -> list[str]:
        """Return the keys of state that belongs to no parameter (some optimizers count in ``state["k"]``), sorted."""
        return sorted(key for key, _ in self._items() if isinstance(key, str))

    def unlisted(self) -> str | None:
        """Say what state there is under keys that are neither text nor parameters of a group; None if there is none."""
        listed = {id(parameter) for _, parameter in self.parameters()}
        keys = [
            key
            for key, held in self._items()
            if id(key) not in listed and not isinstance(key, str) and (not isinstance(held, Mapping) or held)
        ]
        if all(isinstance(key, torch.Tensor) for key in keys):
            return "state of tensors that are in no parameter group" if keys else None
        return "state under keys that are neither parameters nor text"

    def _items(self) -> list[tuple[Any, Any]]:
        return list(self.optimizer.state.items())

    def hyper_names(self) -> list[str]:
        """Return the names of the hyper-parameters of all groups, sorted; functions are none."""
        return sorted(
            {
                key
                for group in self.optimizer.param_groups
                for key, value in group.items()
                if key not in IMPLEMENTATION_FLAGS
                and key not in ("params", "param_names")
                and value is not None
                and not callable(value)
            }
        )

    def device_of(self, parameter: torch.Tensor, slot: str, stored: torch.Tensor) -> torch.device:
        """Return where a slot lives that is not there yet.

        As ``Optimizer._process_value_according_to_param_policy`` in torch/optim/optimizer.py: a counter stays on the
        CPU unless the optimizer is capturable or fused, everything else goes with its parameter.
        """
        group = next((g for g in self.optimizer.param_groups if any(p is parameter for p in g["params"])), {})
        counts = slot in ("step", "mu_product") and stored.ndim == 0
        return (
            torch.device("cpu") if counts and not (group.get("capturable") or group.get("fused")) else parameter.device
        )


class SlotSource(Source):
    """One slot of an optimizer (``momentum_buffer``, ``exp_avg``, ``step``), over all parameters that have it."""

    def __init__(self, name: str, watched: WatchedOptimizer, slot: str) -> None:
        super().__init__(name, "optimizer", lifetime=_LIFETIMES.get(slot, "the run"))
        self.watched = watched
        self.slot = slot

    def read(self) -> Reading:
        """Return the slot's live tensors under the parameters' names; numbers and lists among them as values."""
        tensors: dict[str, torch.Tensor] = {}
        nested: dict[str, Any] = {}
        known = self.watched.known
        state = self.watched.optimizer.state
        for name, parameter in self.watched.parameters():
            held = state.get(parameter)
            if held is None or self.slot not in held:
                continue
            value = held[self.slot]
            own = isinstance(value, torch.Tensor) and not (value.requires_grad and value.is_leaf)
            if own and not known.has(value) and not _lies_with(value, parameter):
                tensors[name] = value
            else:
                nested[name] = value
        values = {name: encode(value, tensors, name, known) for name, value in nested.items()}
        return Reading(tensors, values or None)

    def restore(self, reading: Reading) -> None:
        """Put the slot back for every parameter; parameters that did not have it lose it."""
        state = self.watched.optimizer.state
        values = reading.values or {}
        put = PutBack(reading.tensors, self.watched.known)
        for name, parameter in self.watched.parameters():
            if name not in values and name not in reading.tensors:
                if isinstance(state.get(parameter), dict):
                    state[parameter].pop(self.slot, None)
                continue
            held = state[parameter] if parameter in state else state.setdefault(parameter, {})
            live = held.get(self.slot, _ABSENT)
            if name in values:
                held[self.slot] = put.value(live, values[name])
            else:
                held[self.slot] = self._put_tensor(put, live, parameter, reading.tensors[name])

    def _put_tensor(self, put: PutBack, live: Any, parameter: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        if isinstance(live, torch.Tensor) and live.shape == stored.shape and live.dtype == stored.dtype:
            return put.tensor(live, stored)
        if stored.shape == parameter.shape:
            # In the parameter's memory format, as the optimizer would have made it.
            return torch.empty_like(parameter, dtype=stored.dtype, requires_grad=False).copy_(stored)
        return stored.detach().clone().to(self.watched.device_of(parameter, self.slot, stored))

    def half_life(self) -> float | None:
        """Return the half-life in steps that follows from β or momentum, if all groups share it."""
        return slot_half_life(self.watched.optimizer, self.slot)


def _lies_with(value: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Return whether a slot begins where its parameter does (``p.data``). Asked at every step, so cheaply."""
    return (
        type(value) is torch.Tensor
        and type(parameter) in (torch.nn.Parameter, torch.Tensor)
        and value.layout is parameter.layout is torch.strided
        and value.data_ptr() == parameter.data_ptr() != 0
    )


class KeySource(Source):
    """State of an optimizer under a key of its own: ``optimizer.state["k"]``."""

    def __init__(self, name: str, watched: WatchedOptimizer, key: str) -> None:
        super().__init__(name, "optimizer")
        self.watched = watched
        self.key = key

    def read(self) -> Reading:
        """Return what stands under the key, its tensors below the path ``value``."""
        tensors: dict[str, torch.Tensor] = {}
        if self.key not in self.watched.optimizer.state:
            return Reading(tensors)
        state: Any = self.watched.optimizer.state
        held = state[self.key]
        return Reading(tensors, {"value": encode(held, tensors, "value", self.watched.known)})

    def restore(self, reading: Reading) -> None:
        """Put it back; take it away if there was none."""
        state: Any = self.watched.optimizer.state
        if reading.values is None:
            state.pop(self.key, None)
            return
        live = state.get(self.key, _ABSENT)
        state[self.key] = PutBack(reading.tensors, self.watched.known).value(live, reading.values["value"])


class HyperSource(Source):
    """One hyper-parameter of an optimizer, one value a parameter group."""

    def __init__(self, name: str, watched: WatchedOptimizer, key: str) -> None:
        super().__init__(name, "hyper", lifetime="until it is set")
        self.watched = watched
        self.key = key

    def read(self) -> Reading:
        """Return the values, a list in the order of the groups."""
        tensors: dict[str, torch.Tensor] = {}
        groups = self.watched.optimizer.param_groups
        known = self.watched.known
        values = [encode(group.get(self.key), tensors, f"group{index}", known) for index, group in enumerate(groups)]
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
        put = PutBack(reading.tensors, self.watched.known)
        for group, value in zip(groups, reading.values, strict=True):
            if value is not None or self.key in group:
                group[self.key] = put.value(group.get(self.key), value)

    def forget(self) -> None:
        """Have no value in any group: something set it after the moment that is put back."""
        for group in self.watched.optimizer.param_groups:
            if self.key in self.watched.optimizer.defaults:
                group[self.key] = None
            else:
                group.pop(self.key, None)
