"""Looking through a watched object for state that is registered nowhere: plain attributes and what hangs on them."""

from __future__ import annotations

import argparse
import datetime
import functools
import io
import logging
import pathlib
import queue
import re
import sys
import types
import weakref
from collections import UserDict, UserList, defaultdict, deque
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from auditor.errors import MemauditError
from auditor.state.known import Known
from auditor.state.tensors import dtype_name, is_storable
from auditor.state.values import encode

MAX_LEVELS = 6
"""How many objects deep attributes are followed."""

MAX_PLAIN_VALUES = 1000
"""A plain attribute with more numbers and strings than this is not read at every step."""

TOO_LONG = f"more than {MAX_PLAIN_VALUES} plain values; kept in a tensor or an array it could be read"

_MODULE_INTERNALS = frozenset(vars(nn.Module())) | {
    *("_is_full_backward_hook", "_torchdynamo_orig_callable", "_c", "_concrete_type"),
}
_MACHINERY = (
    *(type, types.ModuleType, types.MethodType, types.BuiltinFunctionType, types.FunctionType, functools.partial),
    *(Dataset, DataLoader, logging.Logger, io.IOBase, pathlib.PurePath, re.Pattern, weakref.ReferenceType, slice),
    *(datetime.date, datetime.time, datetime.timedelta),
)
_MACHINERY_HOMES = ("_thread", "threading", "torch.utils.tensorboard.writer")
_LIBRARY_HOLDERS = (UserDict, UserList, queue.Queue, weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
_HOOKS = {
    "_forward_pre_hooks": "forward_pre_hook",
    "_forward_hooks": "forward_hook",
    "_backward_pre_hooks": "backward_pre_hook",
    "_backward_hooks": "backward_hook",
}
_TENSOR_HOOKS = {"_backward_hooks": "hook", "_post_accumulate_grad_hooks": "post_accumulate_grad_hook"}
OPTIMIZER_HOOKS = {
    "_optimizer_step_pre_hooks": "step_pre_hook",
    "_optimizer_step_post_hooks": "step_post_hook",
}
_CONTAINERS = (list, tuple, dict, deque, set, frozenset)
_LOOKED_AT = 2000


class Place(NamedTuple):
    """Where a value stands: ``holder[key]``, under ``path`` below the watched object."""

    path: str
    holder: Any
    key: Any

    def value(self, default: Any = None) -> Any:
        """Return what stands there now; ``default`` if nothing does."""
        try:
            return self.holder[self.key]
        except (KeyError, IndexError):
            return default


@dataclass
class Survey:
    """What was found below one object."""

    places: list[Place] = field(default_factory=list)
    """Plain attributes and items that are read, by path."""
    registered: list[Place] = field(default_factory=list)
    """Parameters and buffers of modules that are not watched themselves."""
    left: dict[str, str] = field(default_factory=dict)
    """What cannot be captured, by path, with the reason."""
    sizes: list[Sized] = field(default_factory=list)
    """Containers whose length tells that something came or went."""
    filled: list[Sized] = field(default_factory=list)
    """Containers that hold nothing of interest as long as they are empty."""
    entered: list[Place] = field(default_factory=list)
    """Where the objects stand that were looked through: others may be bound there."""
    types: list[Place] = field(default_factory=list)
    """Attributes that held nothing of interest, and may hold something else one day."""


@dataclass
class Memory:
    """What is remembered of one watched object from survey to survey."""

    failed: dict[str, str] = field(default_factory=dict)
    """Attributes that turned out to be unreadable: the reason by path."""
    lengths: dict[str, int] = field(default_factory=dict)
    """How many items a list of objects had when it was first entered."""


class Surveyor:
    """Walks one watched object.

    Parameters
    ----------
    known
        Tensors registered somewhere: sources of their own, named where they are met.
    skipped
        Identities of objects that are not entered: those that are watched themselves.
    memory
        What was learnt of the same object before.
    strict
        Whether everything must be read: for a plain object, which holds nothing but its state. A module or optimizer
        also holds much that is none.
    """

    def __init__(self, known: Known, skipped: set[int], memory: Memory, *, strict: bool) -> None:
        self._known = known
        self._memory = memory
        self._skipped = skipped
        self._strict = strict
        self._seen: set[int] = set()
        self.found = Survey()

    def module(self, module: nn.Module, path: str = "") -> None:
        """Look through the plain attributes of a module and its submodules."""
        for name, layer in module.named_modules():
            prefix = _join(path, name)
            self._seen.add(id(layer))
            own = type(layer).__module__.partition(".")[0] == "torch"
            hidden = _MODULE_INTERNALS | _computed(layer)
            for key in [key for key in vars(layer) if key not in hidden]:
                self._judge(Place(_join(prefix, key), vars(layer), key), level=0, plain=not own)
            self.hooks(layer, prefix, _HOOKS)
            for key, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
                if tensor is not None:
                    self._on_tensor(tensor, _join(prefix, key))

    def _on_tensor(self, tensor: torch.Tensor, path: str) -> None:
        """Look at what the program put on a registered tensor: ``p.velocity = …``, and hooks."""
        self.found.sizes.append(vars(tensor))
        for key in list(vars(tensor)):
            self._judge(Place(_join(path, key), vars(tensor), key), level=0, plain=False)
        self.hooks(tensor, path, _TENSOR_HOOKS)

    def hooks(self, owner: object, path: str, kinds: dict[str, str]) -> None:
        """Look at the hooks of a layer, tensor or optimizer, numbered in their order; torch's own are passed over."""
        for attribute, name in kinds.items():
            hooks = getattr(owner, attribute, None)
            if not isinstance(hooks, dict):
                continue
            self.found.sizes.append(hooks)
            for index, (key, hook) in enumerate(list(hooks.items())):
                home = hook.__module__ if isinstance(hook, types.FunctionType) else type(hook).__module__
                if str(home).partition(".")[0] != "torch":
                    self._judge(Place(_join(path, f"{name}{index}"), hooks, key), level=0, plain=True)

    def registered(self, module: nn.Module, path: str) -> None:
        """Take over the parameters and buffers of a module that hangs on a plain attribute, and its attributes."""
        self.found.registered += [
            place for place in registered_places(module, path) if place.value() not in self._known
        ]
        strict, self._strict = self._strict, False
        self.module(module, path)
        self._strict = strict

    def attributes(self, thing: object, path: str = "", level: int = 0, hidden: frozenset[str] = frozenset()) -> None:
        """Look through the attributes of an object of the program's own."""
        self._seen.add(id(thing))
        self.found.sizes.append(vars(thing))
        for key in [key for key in vars(thing) if key not in hidden and not _is_data(thing, key)]:
            self._judge(Place(_join(path, key), vars(thing), key), level=level, plain=True)
        for name, value in _slots(thing):
            if self._tensors_below(value):
                self._leave(Place(_join(path, name), {}, name), "it stands in __slots__, not among the attributes")

    def _judge(self, place: Place, *, level: int, plain: bool) -> None:
        """Decide what becomes of one value. ``plain``: whether numbers and text count, not only tensors."""
        value = place.value()
        if id(value) in self._skipped or id(value) in self._seen:
            return
        if place.path in self._memory.failed:
            self._leave(place, self._memory.failed[place.path])
            return
        scratch: dict[str, torch.Tensor] = {}
        try:
            encoded = encode(value, scratch, place.path, self._known)
        except MemauditError as error:
            self._judge_special(place, value, error, level=level, plain=plain)
            return
        wrong = next((t.dtype for t in scratch.values() if not is_storable(t.dtype)), None)
        if wrong is not None:
            self._leave(place, f"a tensor of dtype {dtype_name(wrong)}: safetensors has no such dtype")
        elif scratch or self._strict:
            self.found.places.append(place)
        elif plain and (not _has_alias(encoded) or _has_number(encoded)):
            if is_too_long(encoded):
                self._leave(place, TOO_LONG)
            else:
                self.found.places.append(place)

    def _judge_special(self, place: Place, value: Any, error: MemauditError, *, level: int, plain: bool) -> None:
        """Decide about what is not written as it stands: enter it, leave it with a reason, or pass it over."""
        if isinstance(value, types.MethodType):  # a hook, or a function to call: what it remembers is its object's
            value = value.__self__
            if id(value) in self._skipped or id(value) in self._seen:
                return
            if self._strict and not self._tensors_below(value):
                self.found.types.append(place)
                return
        if isinstance(value, torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler | torch.amp.GradScaler):
            self._leave(place, f"a {type(value).__name__} that is not watched: name it to run.watch(…) too")
        elif isinstance(value, nn.Module):
            self.found.entered.append(place)
            self.registered(value, place.path)
        elif self._no_state(value) and not self._tensors_below(value):
            self.found.types.append(place)
        elif level < MAX_LEVELS and _is_group(value) and (self._strict or self._tensors_below(value)):
            self._items(place, value, level=level, plain=plain)
        elif (
            level < MAX_LEVELS
            and _is_own_object(value)
            and (self._strict or (plain and _is_of_the_program(value)) or self._tensors_below(value))
        ):
            self.found.entered.append(place)
            self.attributes(value, place.path, level + 1)
        elif self._strict or self._tensors_below(value) or (plain and isinstance(value, defaultdict) and value):
            self._leave(place, _reason(value, error))
        else:
            self._pass_over(place, value)

    def _items(self, place: Place, value: Any, *, level: int, plain: bool) -> None:
        """Enter a list or dict of objects, such as the layers of a policy: always the same ones."""
        if self._memory.lengths.setdefault(place.path, len(value)) != len(value):
            one = next(iter(value.values() if isinstance(value, dict) else value), None)
            self._leave(
                place,
                f"a {type(value).__name__} of {type(one).__name__} objects that grows or shrinks: they cannot be made "
                "anew without pickle; tuples, named tuples and dicts can",
            )
            return
        self._seen.add(id(value))
        self.found.entered.append(place)
        self.found.sizes.append(value)
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            self._judge(Place(_join(place.path, key), value, key), level=level + 1, plain=plain)

    def _pass_over(self, place: Place, value: Any) -> None:
        self.found.types.append(place)
        if _is_own_object(value):
            inner = [item for item in vars(value).values() if isinstance(item, list | dict | deque | set)]
            self.found.sizes.append(vars(value))
            self.found.filled += inner[:50]
        elif isinstance(value, list | dict | deque | set):
            self.found.filled.append(value)

    def _leave(self, place: Place, reason: str) -> None:
        if self._strict:
            raise MemauditError(
                f"{place.path} cannot be captured",
                where=place.path,
                why=reason,
                next_step="give the object state_dict() and load_state_dict(), or watch the tensors in it",
            )
        self.found.left[place.path] = reason
        self.found.types.append(place)

    def _no_state(self, value: Any) -> bool:
        """Return whether a value is code, data or machinery: what a program has, not what its training left behind."""
        if isinstance(value, _MACHINERY) or type(value).__module__ in _MACHINERY_HOMES:
            return True
        return not self._strict and not isinstance(value, _CONTAINERS) and not _is_own_object(value)

    def _tensors_below(self, value: Any) -> bool:
        """Return whether an array, or a tensor that is registered nowhere, can be reached from a value."""
        found = _reachable(value, self._skipped)
        return any(isinstance(each, np.ndarray) or each not in self._known for each in found)


def registered_places(module: nn.Module, path: str = "", *, buffers: bool = True) -> list[Place]:
    """Return where a module's parameters and buffers stand, each tensor once; uninitialized ones are left out."""
    found: list[Place] = []
    seen: set[int] = set()
    layers = list(module.named_modules())
    for kind in ("_parameters", "_buffers") if buffers else ("_parameters",):
        for name, layer in layers:
            for key, tensor in getattr(layer, kind).items():
                if tensor is not None and id(tensor) not in seen and not is_lazy(tensor):
                    seen.add(id(tensor))
                    found.append(Place(_join(path, _join(name, key)), getattr(layer, kind), key))
    return found


def hook_at(owner: object, part: str) -> Any:
    """Return the hook of an object that a part of a path names (``forward_hook0``); None if it has none there."""
    named, number = part.rstrip("0123456789"), part[len(part.rstrip("0123456789")) :]
    for attribute, name in {**_HOOKS, **_TENSOR_HOOKS, **OPTIMIZER_HOOKS}.items():
        hooks = getattr(owner, attribute, None) if name == named and number else None
        if isinstance(hooks, dict) and int(number) < len(hooks):
            return list(hooks.values())[int(number)]
    return None


def _reachable(value: Any, skipped: set[int]) -> Iterator[torch.Tensor | np.ndarray[Any, Any]]:
    """Yield the tensors and arrays in reach through containers, own objects, modules and closures, within bounds."""
    waiting, seen = [value], set(skipped)
    for _ in range(_LOOKED_AT):
        if not waiting:
            return
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor) or (isinstance(item, np.ndarray) and item.dtype.kind not in "SU"):
            yield item
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, _CONTAINERS):
            waiting += list(item)
        elif isinstance(item, functools.partial):
            waiting += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.MethodType):
            waiting.append(item.__self__)
        elif isinstance(item, types.FunctionType):
            waiting += [*_cells(item), *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        elif isinstance(item, nn.Module):
            waiting += [*item.parameters(), *item.buffers()]
        elif isinstance(item, torch.ScriptObject):
            yield torch.empty(0)  # whatever it holds, it cannot be seen from here
        else:
            if _is_own_object(item) or isinstance(item, _LIBRARY_HOLDERS):
                waiting += list(vars(item).values())
            waiting += [held for _, held in _slots(item)]


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue


def _is_own_object(value: Any) -> bool:
    """Return whether a value is an object of the program's or a library's class, with attributes to look through."""
    if isinstance(value, (*_MACHINERY, torch.Tensor, np.ndarray, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    known = (Sampler, types.SimpleNamespace, argparse.Namespace, torch.distributions.Distribution)
    return isinstance(value, known) or _is_foreign(type(value))


def _is_foreign(kind: type) -> bool:
    """Return whether a class is neither Python's nor torch's nor NumPy's."""
    home = kind.__module__.partition(".")[0]
    return home == "__main__" or (home not in sys.stdlib_module_names and home not in ("torch", "numpy"))


def _is_of_the_program(value: Any) -> bool:
    """Return whether a class is the program's own, not one of an installed library: its numbers may be memory."""
    if not _is_foreign(type(value)):
        return False
    home = getattr(sys.modules.get(type(value).__module__), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(pathlib.PurePath(home).parts)


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what stands in the ``__slots__`` of an object of the program's or a library's class."""
    for kind in type(value).__mro__ if _is_foreign(type(value)) else ():
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(value)
                except AttributeError:  # nothing was put there yet
                    continue


def _is_group(value: Any) -> bool:
    """Return whether a value is a list or dict of objects and modules and nothing else."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(items) and all(_is_own_object(item) or isinstance(item, nn.Module) for item in items)


def _is_data(thing: object, key: str) -> bool:
    """Return whether an attribute is what a sampler draws from, not what it remembers."""
    return isinstance(thing, Sampler) and key in ("data_source", "dataset")


def _computed(layer: nn.Module) -> set[str]:
    """Return the attributes that hooks of ``weight_norm``, ``spectral_norm`` and ``prune`` compute at each forward."""
    hooks = [hook for hook in layer._forward_pre_hooks.values() if type(hook).__module__.startswith("torch.nn.utils.")]
    named = [getattr(hook, "name", None) or getattr(hook, "_tensor_name", None) for hook in hooks]
    return {name for name in named if isinstance(name, str)}


def _reason(value: Any, error: MemauditError) -> str:
    if isinstance(value, types.FunctionType | functools.partial):
        return "a tensor that only a function holds on to (a closure or a default)"
    if isinstance(value, torch.ScriptObject):
        return "an object of compiled code: what it holds cannot be seen"
    where = f" (at {error.where})" if error.where else ""
    return f"{error.what}{where}"


def _has_alias(encoded: Any) -> bool:
    if isinstance(encoded, list):
        return any(_has_alias(item) for item in encoded)
    if not isinstance(encoded, dict):
        return False
    return encoded.get("$") == "alias" or any(_has_alias(item) for item in encoded.values())


def _has_number(encoded: Any) -> bool:
    """Return whether there is a number beside what names registered tensors."""
    if isinstance(encoded, list):
        return any(map(_has_number, encoded))
    if isinstance(encoded, dict):
        return encoded.get("$") != "alias" and any(map(_has_number, encoded.values()))
    return isinstance(encoded, int | float) and not isinstance(encoded, bool)


def is_too_long(encoded: Any) -> bool:
    """Return whether an encoded value holds more numbers and strings than are read at every step."""
    return _count(encoded) > MAX_PLAIN_VALUES


def _count(encoded: Any) -> int:
    if isinstance(encoded, list):
        return sum(map(_count, encoded))
    return sum(map(_count, encoded.values())) if isinstance(encoded, dict) else 1


def _join(path: str, part: object) -> str:
    return f"{path}.{part}" if path and part != "" else f"{path}{part}"
