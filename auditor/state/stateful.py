"""Sources that speak for themselves: anything with ``state_dict`` and ``load_state_dict``, and bare tensors."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import torch

from auditor.state.source import HIDDEN, Reading, Source, copy_into
from auditor.state.values import decode, encode


@runtime_checkable
class Stateful(Protocol):
    """What torch.distributed.checkpoint calls stateful: schedulers, scalers, averages, replay buffers, …"""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a dict of tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put back a state that :meth:`state_dict` gave."""
        ...


class StatefulSource(Source):
    """An object with ``state_dict`` and ``load_state_dict``."""

    def __init__(self, name: str, kind: str, owner: Stateful) -> None:
        super().__init__(name, kind, visibility=HIDDEN)
        self.owner = owner

    def read(self) -> Reading:
        """Return the state dict, split into tensors and values."""
        tensors: dict[str, torch.Tensor] = {}
        values = encode(dict(self.owner.state_dict()), tensors)
        return Reading(tensors, values)

    def restore(self, reading: Reading) -> None:
        """Load the stored state through the object's own ``load_state_dict``."""
        # A copy: some loaders keep the very objects they are given.
        self.owner.load_state_dict(copy.deepcopy(decode(reading.values, reading.tensors)))


class TensorSource(Source):
    """A bare tensor, such as a contrastive queue kept beside the model."""

    def __init__(self, name: str, kind: str, tensor: torch.Tensor) -> None:
        super().__init__(name, kind, visibility=HIDDEN)
        self.tensor = tensor

    def read(self) -> Reading:
        """Return the live tensor under the path ``value``."""
        return Reading({"value": self.tensor})

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live tensor."""
        copy_into({"value": self.tensor}, reading.tensors, self.name)
