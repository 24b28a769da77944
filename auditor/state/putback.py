"""Putting encoded values back into live ones, in place wherever somebody else may hold on to them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import nn

from auditor.state.known import NONE_KNOWN, Known
from auditor.state.tensors import logical
from auditor.state.values import Tensors, decode, empty_dict, set_generator

_NOTHING = object()
_GENERATORS = ("torch.Generator", "random.Random", "numpy.Generator", "numpy.RandomState")


class PutBack:
    """Puts the values of one reading back.

    Tensors, arrays, lists, dicts, deques, sets and generators of the live program keep their identity where what is
    stored fits into them; anything else is made anew, and never shares memory with what is stored.
    """

    def __init__(self, tensors: Tensors, known: Known = NONE_KNOWN) -> None:
        self.tensors = tensors
        self.known = known
        self._written: dict[int, torch.Tensor] = {}

    def value(self, live: Any, stored: Any, *, rebind: bool = False) -> Any:
        """Return what shall stand where ``live`` stands: ``live`` itself, changed in place, or something new.

        ``rebind`` is for places whose old content may belong to others, such as the batches a queue refers to:
        their tensors are replaced, not overwritten.
        """
        if isinstance(stored, list):
            return self._items(live, stored, list)
        if not isinstance(stored, dict):
            return stored
        kind = stored.get("$")
        if kind in ("tensor", "leaf", "parameter"):
            return self._tensor(live, stored, rebind=rebind)
        if kind == "array":
            return self._array(live, stored, rebind=rebind)
        if kind in _GENERATORS:
            return self._generator(live, stored)
        if kind == "deque":
            return self._items(live, stored["items"], deque, stored["maxlen"])
        if kind in ("tuple", "namedtuple"):
            return self._tuple(live, stored)
        if kind == "set" and isinstance(live, set):
            found = decode(stored, self.tensors, self.known)
            live.clear()
            live.update(found)
            return live
        if kind in (None, "dict", "ordered", "counter", "defaultdict"):
            return self._dict(live, stored)
        return decode(stored, self.tensors, self.known)

    def tensor(self, live: Any, stored: torch.Tensor) -> torch.Tensor:
        """Return what shall stand where ``live`` stands for a tensor stored without any tag."""
        if isinstance(live, torch.Tensor) and live.requires_grad and live.is_leaf:
            live = None  # it was not trained itself when it was recorded
        fitted = self._fit(live, stored, rebind=False)
        return stored.detach().clone() if fitted is None else fitted

    def _tensor(self, live: Any, stored: dict[str, Any], *, rebind: bool) -> torch.Tensor:
        value = self.tensors[stored["path"]]
        leaf = stored["$"] != "tensor"
        same_role = isinstance(live, torch.Tensor) and leaf == (live.requires_grad or isinstance(live, nn.Parameter))
        fitted = self._fit(live, value, rebind=rebind and not leaf) if same_role else None
        if fitted is not None:
            return fitted
        made: torch.Tensor = decode(stored, self.tensors)
        return made.clone() if made is value else made

    def _fit(self, live: Any, stored: torch.Tensor, *, rebind: bool) -> torch.Tensor | None:
        """Make ``live`` equal to what is stored, if that can be done to it; None if something new must stand there."""
        if not isinstance(live, torch.Tensor) or live.shape != stored.shape or live.dtype != stored.dtype:
            return None
        if not live.is_leaf or live in self.known or live.is_inference():
            return None
        if not _equal(live, stored):
            # Two places that share a tensor now did not when it was recorded: the second gets one of its own.
            if id(live) in self._written or rebind or _overlaps_itself(live):
                return None
            with torch.no_grad():
                live.copy_(stored)
        self._written[id(live)] = live
        return live

    def _array(self, live: Any, stored: dict[str, Any], *, rebind: bool) -> np.ndarray[Any, Any]:
        value: np.ndarray[Any, Any] = decode(stored, self.tensors)
        fits = isinstance(live, np.ndarray) and live.shape == value.shape and live.dtype == value.dtype
        if not fits or rebind or not live.flags.writeable:
            return value
        live[...] = value
        kept: np.ndarray[Any, Any] = live
        return kept

    def _generator(self, live: Any, stored: dict[str, Any]) -> Any:
        fresh = decode(stored, self.tensors)
        same = type(live) is type(fresh) and (
            not isinstance(fresh, np.random.Generator) or type(live.bit_generator) is type(fresh.bit_generator)
        )
        return set_generator(live, stored, self.tensors) if same else fresh

    def _items(self, live: Any, stored: list[Any], kind: type, maxlen: int | None = None) -> Any:
        fits = isinstance(live, kind) and getattr(live, "maxlen", None) == maxlen
        old = list(live) if fits else []
        rebind = kind is deque
        new = [
            self.value(old[index] if index < len(old) else _NOTHING, item, rebind=rebind)
            for index, item in enumerate(stored)
        ]
        if not fits:
            return deque(new, maxlen=maxlen) if kind is deque else new
        live.clear()
        live.extend(new)
        return live

    def _tuple(self, live: Any, stored: dict[str, Any]) -> Any:
        size = len(stored["items"])
        fits = isinstance(live, tuple) and len(live) == size
        old = live if fits else (_NOTHING,) * size
        new = [self.value(one, item) for one, item in zip(old, stored["items"], strict=True)]
        if fits and all(one is two for one, two in zip(live, new, strict=True)):
            return live
        if stored["$"] == "tuple":
            return tuple(new)
        if fits and list(getattr(live, "_fields", ())) == stored["fields"]:
            return type(live)._make(new)
        empty = decode({**stored, "items": [None] * size}, {})
        return type(empty)._make(new)

    def _dict(self, live: Any, stored: dict[str, Any]) -> Any:
        pairs = stored["items"] if "$" in stored else stored.items()
        fits = isinstance(live, dict)
        new = {}
        for key, item in pairs:
            name = decode(key, self.tensors, self.known) if "$" in stored else key
            new[name] = self.value(live.get(name, _NOTHING) if fits else _NOTHING, item)
        if not fits:
            made = empty_dict(stored)
            made.update(new)
            return made
        if list(live) != list(new):
            live.clear()
        for name, item in new.items():
            live[name] = item
        return live


def _equal(live: torch.Tensor, stored: torch.Tensor) -> bool:
    """Return whether two tensors of one shape and dtype hold the same bits."""
    one, two = logical(live.detach()), logical(stored)
    if not one.numel():
        return True
    return torch.equal(one.reshape(-1, 1).view(torch.uint8), two.reshape(-1, 1).view(torch.uint8))


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Return whether several elements lie in one place, as in an expanded tensor: it cannot be written to."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
