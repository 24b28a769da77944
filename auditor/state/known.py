"""Tensors that are registered somewhere: what else refers to one of them is named after it, not copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from auditor.errors import MemauditError

Key = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


class Known:
    """Registered tensors by name, found again by identity or by the memory they lie in.

    An RNN's ``_flat_weights`` are its parameters, ``p.data`` lies where ``p`` does, and an optimizer may keep a list
    of what it moves: none of these is a memory source of its own.

    Parameters
    ----------
    named
        Tensors by name.
    placed
        Names with functions that give what is registered under them now (None: nothing any more). A buffer may be
        bound anew at every step, and what refers to the one before it refers to nothing registered.
    """

    def __init__(
        self, named: Mapping[str, torch.Tensor] | None = None, placed: Iterable[tuple[str, Callable[[], Any]]] = ()
    ) -> None:
        self._now: dict[str, Callable[[], Any]] = {name: partial(_same, each) for name, each in (named or {}).items()}
        self._now.update(placed)
        self._by_id: dict[int, str] = {}
        self._by_place: dict[Key, str] = {}
        for name, now in self._now.items():
            tensor = now()
            self._by_id.setdefault(id(tensor), name)
            key = _key(tensor)
            if key is not None:
                self._by_place.setdefault(key, name)

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return self.alias(tensor) is not None

    def has(self, tensor: torch.Tensor) -> bool:
        """Return whether this very object is known; quicker than :meth:`alias`, which looks at the memory too."""
        return id(tensor) in self._by_id

    def alias(self, tensor: torch.Tensor) -> tuple[str, bool] | None:
        """Return the name of a tensor and whether it is only its memory (``p.data``); None if it is not known."""
        if not self._now:
            return None
        name = self._by_id.get(id(tensor))
        if name is not None and self._now[name]() is tensor:
            return name, False
        key = _key(tensor)
        name = None if key is None else self._by_place.get(key)
        if name is None:
            return None
        # Asked again: memory may have been given back and used for something else since.
        registered = self._now[name]()
        return (name, True) if registered is not None and _key(registered) == key else None

    def named(self, name: str, *, detached: bool) -> torch.Tensor:
        """Return the tensor of that name, or another tensor over its memory.

        Raises
        ------
        MemauditError
            If the program has none.
        """
        tensor: torch.Tensor | None = self._now[name]() if name in self._now else None
        if tensor is None:
            raise MemauditError(
                "the anchor refers to a tensor that the program does not have",
                where=name,
                next_step="replay the program and arguments that were recorded",
            )
        return tensor.detach() if detached else tensor


NONE_KNOWN = Known()
"""Where nothing is registered."""


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _key(tensor: torch.Tensor) -> Key | None:
    """Return what two tensors over the same elements share; None where there is no such thing."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        return None
    address = tensor.data_ptr()
    return (address, tensor.dtype, tensor.shape, tensor.stride()) if address else None
