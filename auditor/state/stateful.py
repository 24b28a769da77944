"""Sources that speak for themselves: anything with ``state_dict`` and ``load_state_dict``, tensors and containers."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from auditor.errors import MemauditError
from auditor.state.half_life import own_half_life, queue_half_life, queue_length
from auditor.state.known import NONE_KNOWN, Known
from auditor.state.putback import PutBack
from auditor.state.source import Reading, Source, copy_into
from auditor.state.values import decode, encode

CONTAINERS = (list, dict, deque, set, np.ndarray)
"""What can be watched as it is: it can be changed in place, so that whoever holds it sees what is put back."""


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

    def __init__(self, name: str, kind: str, owner: Stateful, known: Known = NONE_KNOWN) -> None:
        super().__init__(name, kind)
        self.owner = owner
        self._known = known

    def half_life(self) -> float | None:
        """Return the half-life in steps, if the object averages and says how."""
        return own_half_life(self.owner) if self.kind in ("ema", "teacher") else None

    def read(self) -> Reading:
        """Return the state dict, split into tensors and values."""
        tensors: dict[str, torch.Tensor] = {}
        values = encode(dict(self.owner.state_dict()), tensors, known=self._known)
        return Reading(tensors, values)

    def restore(self, reading: Reading) -> None:
        """Load the stored state through the object's own ``load_state_dict``.

        Raises
        ------
        MemauditError
            If the object then says another state than was loaded.
        """
        # A copy: some loaders keep the very objects they are given.
        own = {path: tensor.clone() for path, tensor in reading.tensors.items()}
        state = decode(reading.values, own, self._known)
        self.owner.load_state_dict(copy.copy(state))
        now = self.read()
        if now.digest() != reading.digest():
            raise MemauditError(
                f"{type(self.owner).__name__} did not come back as it was recorded",
                where=f"{self.name}, {_first_difference(reading, now)}",
                why="its load_state_dict() does not restore all that its state_dict() says",
                next_step="mend these two methods, or watch the tensors in it instead",
            )


class ContainerSource(Source):
    """A list, dict, deque, set or array of the program's own, such as a replay buffer."""

    def __init__(
        self, name: str, kind: str, container: Any, known: Known = NONE_KNOWN, batch_size: int | None = None
    ) -> None:
        super().__init__(name, kind)
        self.container = container
        self._known = known
        self._batch_size = batch_size

    def half_life(self) -> float | None:
        """Return after how many steps half of it is replaced, if it is a queue of known length."""
        return queue_half_life(queue_length(self.container), self._batch_size) if self.kind == "queue" else None

    def read(self) -> Reading:
        """Return what it holds: tensors below the path of their place, an array as ``value``."""
        tensors: dict[str, torch.Tensor] = {}
        path = "value" if isinstance(self.container, np.ndarray) else ""
        return Reading(tensors, encode(self.container, tensors, path, self._known))

    def restore(self, reading: Reading) -> None:
        """Fill the live container with what was stored."""
        put = PutBack(reading.tensors, self._known).value(self.container, reading.values)
        if put is not self.container:
            raise MemauditError(
                f"the program's {self.name} is another container than in the anchor",
                where=self.name,
                why=f"it is a {type(self.container).__qualname__} of another type, length or dtype",
                next_step="replay the program and arguments that were recorded",
            )


class TensorSource(Source):
    """A bare tensor, such as a contrastive queue kept beside the model."""

    def __init__(self, name: str, kind: str, tensor: torch.Tensor, batch_size: int | None = None) -> None:
        super().__init__(name, kind)
        self.tensor = tensor
        self._batch_size = batch_size

    def half_life(self) -> float | None:
        """Return after how many steps half of it is replaced, if it is a queue."""
        return queue_half_life(queue_length(self.tensor), self._batch_size) if self.kind == "queue" else None

    def read(self) -> Reading:
        """Return the live tensor under the path ``value``."""
        return Reading({"value": self.tensor})

    def restore(self, reading: Reading) -> None:
        """Copy the stored values into the live tensor."""
        copy_into({"value": self.tensor}, reading.tensors, self.name)


def _first_difference(recorded: Reading, now: Reading) -> str:
    one, two = recorded.leaves(), now.leaves()
    for path in sorted(one.keys() | two.keys()):
        if one.get(path) != two.get(path):
            return f"tensor {path}"
    return f"value {_differing(recorded.values, now.values, '') or '(the whole)'}"


def _differing(one: Any, two: Any, path: str) -> str | None:
    """Return the path of the first difference between two encoded values."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return next((p for key in one if (p := _differing(one[key], two[key], f"{path}.{key}"))), None)
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return next((p for index, (a, b) in pairs if (p := _differing(a, b, f"{path}.{index}"))), None)
    return None if one == two and type(one) is type(two) else path.lstrip(".") or "(the whole)"
