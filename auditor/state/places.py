"""State read from where it stands: registered tensors, and plain attributes that are rebound as training goes."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from auditor.artifact.canonical import MAX_SAFE_INTEGER
from auditor.errors import MemauditError
from auditor.state.known import NONE_KNOWN, Known
from auditor.state.putback import PutBack
from auditor.state.source import Reading, Source, copy_into
from auditor.state.survey import TOO_LONG, Place, hook_at, is_too_long
from auditor.state.tensors import is_storable, why_not_readable
from auditor.state.values import encode

_ABSENT = object()

OnFailure = Callable[[str, str], None]
"""Called with the path and the reason where an attribute cannot be read any more."""


class PlacedSource(Source):
    """Tensors at fixed places in modules, and the plain attributes of modules and objects, read anew each time.

    A reading's values are null without attributes, else ``{"of": keyword, "held": {path: value}, "left": [path]}``.
    A tensor that stands in an attribute by itself is a tensor of the reading and not in ``held``.

    Parameters
    ----------
    root
        The watched object, and ``of`` its keyword.
    registered
        Places of parameters and buffers.
    places
        Places of plain attributes.
    left
        Paths that are not captured; restoring leaves what stands there alone.
    known
        Tensors that are sources of their own.
    on_failure
        What to do about an attribute that cannot be read any more; without it that is an error.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        root: object,
        of: str = "",
        *,
        registered: list[Place] | None = None,
        places: list[Place] | None = None,
        left: list[str] | None = None,
        known: Known = NONE_KNOWN,
        on_failure: OnFailure | None = None,
    ) -> None:
        super().__init__(name, kind)
        self.root = root
        self.of = of
        self.registered = registered or []
        self.places = places or []
        self.left = sorted(left or [])
        self._known = known
        self._on_failure = on_failure
        self.decay: Callable[[], float | None] = lambda: None
        """Gives the half-life in steps, where one follows from what the object says of itself."""

    @property
    def vanishes(self) -> bool:
        """Whether it holds nothing but attributes of a module or optimizer, which may be made as training goes."""
        return not self.registered and self._on_failure is not None

    def half_life(self) -> float | None:
        """Return the half-life in steps where one follows from what the object says of itself."""
        return self.decay()

    def read(self) -> Reading:
        """Return what stands at the places now: live tensors, and everything else as values."""
        tensors = self._registered_now()
        if not self.places:
            return Reading(tensors, {"of": self.of, "held": {}, "left": self.left} if self.left else None)
        held: dict[str, Any] = {}
        left = list(self.left)
        for path, holder, key in self.places:
            try:
                value = holder[key]
            except (KeyError, IndexError):
                continue
            kind = type(value)
            if (
                value is None
                or kind is bool
                or (kind is float and math.isfinite(value))
                or (kind is int and abs(value) <= MAX_SAFE_INTEGER)
            ):
                held[path] = value
            elif kind is torch.Tensor and _stands_alone(value) and value not in self._known:
                tensors[path] = value
            else:
                try:
                    self._read_other(path, value, tensors, held)
                except MemauditError as error:
                    if self._on_failure is None:
                        raise
                    self._on_failure(path, error.what)
                    left.append(path)
        return Reading(tensors, {"of": self.of, "held": held, "left": sorted(left)})

    def _registered_now(self) -> dict[str, torch.Tensor]:
        found = {path: holder[key] for path, holder, key in self.registered}
        return {path: tensor for path, tensor in found.items() if tensor is not None}

    def _read_other(self, path: str, value: Any, tensors: dict[str, torch.Tensor], held: dict[str, Any]) -> None:
        own: dict[str, torch.Tensor] = {}
        encoded = encode(value, own, path, self._known)
        wrong = [tensor.dtype for tensor in own.values() if not is_storable(tensor.dtype)]
        if wrong:
            raise MemauditError(f"an anchor cannot hold tensors of {wrong[0]}", where=path)
        if not tensors.keys().isdisjoint(own):
            raise MemauditError("two of the object's tensors have the same path", where=path)
        if self._on_failure is not None and not own and is_too_long(encoded):
            raise MemauditError(TOO_LONG, where=path)
        held[path] = encoded
        tensors.update(own)

    def restore(self, reading: Reading) -> None:
        """Put everything back: in place where it fits, attributes that are not there yet made, others taken away."""
        values = reading.values or {"held": {}, "left": []}
        held, left = values["held"], set(values["left"]) | set(self.left)
        live = self._registered_now()
        empty = {place.path: place for place in self.registered if place.path not in live}
        inner = {path for value in held.values() for path in _tensor_paths(value)}
        alone = [path for path in reading.tensors if path not in inner and path not in live and path not in empty]
        places = {place.path: place for place in self.places}
        copy_into(live, {path: reading.tensors[path] for path in reading.tensors if path in live}, self.name)
        for path, place in empty.items():
            if path in reading.tensors:
                place.holder[place.key] = _beside(place, reading.tensors[path])
        put = PutBack(reading.tensors, self._known)
        for path in [*held, *alone]:
            place = places.get(path) or self._new_place(path)
            old = place.value(_ABSENT)
            new = put.value(old, held[path]) if path in held else put.tensor(old, reading.tensors[path])
            if new is not old:
                place.holder[place.key] = new
        for path in places.keys() - held.keys() - set(alone) - left:
            # Made while training went on, after the moment that is put back: a new object has no such attribute.
            if isinstance(places[path].holder, dict):
                places[path].holder.pop(places[path].key, None)

    def forget(self) -> None:
        """Take the attributes away: they were made after the moment that is put back.

        Where nothing stands (None, an empty list) it stays: that is how a new object looks whose attribute could not
        be captured later on.
        """
        for place in self.places:
            value = place.value()
            full = isinstance(value, torch.Tensor) or bool(value)
            if full and isinstance(place.holder, dict):
                place.holder.pop(place.key, None)

    def _new_place(self, path: str) -> Place:
        """Return the place of an attribute that the program has not made yet.

        Raises
        ------
        MemauditError
            If the object that it belongs to is not there either.
        """
        thing: Any = self.root
        *above, last = path.split(".")
        for part in above:
            thing = _child(thing, part)
            if thing is _ABSENT:
                raise MemauditError(
                    "the anchor holds an attribute of an object that the program has not made",
                    where=f"{self.name}/{path}",
                    next_step="make the object before the loop begins, as the recorded program did",
                )
        if isinstance(thing, list):
            raise MemauditError("a list of the program is shorter than in the anchor", where=f"{self.name}/{path}")
        return Place(path, thing if isinstance(thing, dict) else vars(thing), last)


def _stands_alone(value: torch.Tensor) -> bool:
    """Return whether a tensor needs no note beside it: on the CPU, not trained itself, of a kind that can be read."""
    return (
        value.is_cpu
        and not (value.requires_grad and value.is_leaf)
        and why_not_readable(value) is None
        and is_storable(value.dtype)
    )


def _child(thing: Any, part: str) -> Any:
    if isinstance(thing, nn.Module):
        for held in (thing._modules, thing._parameters, thing._buffers):
            if part in held:
                return held[part]
    if isinstance(thing, dict):
        return thing.get(part, _ABSENT)
    if isinstance(thing, list):
        return thing[int(part)] if part.isdigit() and int(part) < len(thing) else _ABSENT
    found = vars(thing).get(part, _ABSENT) if hasattr(thing, "__dict__") else _ABSENT
    if found is _ABSENT:
        hook = hook_at(thing, part)
        found = _ABSENT if hook is None else hook
    return found.__self__ if isinstance(found, types.MethodType) else found


def _beside(place: Place, stored: torch.Tensor) -> torch.Tensor:
    """Return a copy on the device of the tensors that stand beside a place."""
    others = [tensor for tensor in place.holder.values() if isinstance(tensor, torch.Tensor)]
    return stored.detach().clone().to(others[0].device if others else "cpu")


def _tensor_paths(encoded: Any) -> list[str]:
    """Return the paths of the tensors that an encoded value speaks of."""
    if isinstance(encoded, list):
        return [path for item in encoded for path in _tensor_paths(item)]
    if not isinstance(encoded, dict):
        return []
    if "$" in encoded and isinstance(encoded.get("path"), str):
        return [encoded["path"]]
    return [path for item in encoded.values() for path in _tensor_paths(item)]
