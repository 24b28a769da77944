"""Looking for generators inside an object, and finding them again at the same place."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""The types whose objects are streams, not memory sources."""

MAX_DEPTH = 5
"""How many objects deep the search goes; the tree of a network's modules counts for nothing."""
MAX_OBJECTS = 10_000
MAX_ITEMS = 256
"""How many items of a list, tuple or dict are looked at: a list of samples is long, one of transforms is not."""

_PLAIN = (str, bytes, int, float, complex, type, ModuleType, torch.Tensor, np.ndarray, np.generic, torch.dtype)
_MODULE_OWN = frozenset(vars(nn.Module()))
"""What every module has: parameters, buffers, hooks, the mode."""

Step = tuple[str, Any]
"""One step down: ``attr``, ``member``, ``module`` and a name, ``item`` and an index or key, ``cell`` and an index."""


class Held(NamedTuple):
    """A generator inside an object."""

    steps: tuple[Step, ...]
    """The way to it; empty if the object is the generator."""
    name: str
    """The way as text, to follow the object's name: ``.transform.transforms[0].rng``."""
    holder: int
    """The identity of the object that holds it; of the generator itself where the way is empty."""


def is_generator(thing: object) -> bool:
    """Say whether an object is a stream of its own; the operating system's randomness has no state to be one."""
    return isinstance(thing, GENERATORS) and not isinstance(thing, random.SystemRandom)


def generators_in(root: object, seen: set[int]) -> list[Held]:
    """Return the generators in an object's attributes, lists, tuples and dicts, nearest first.

    The search is bounded (see the constants of this module), follows no property, class or import, and enters an
    object once: those whose identity is in ``seen`` not at all. ``seen`` is added to, except for generators.
    """
    if is_generator(root):
        return [Held((), "", id(root))]
    found: list[Held] = []
    queue: deque[tuple[Any, tuple[Step, ...], str, int]] = deque([(root, (), "", 0)])
    left = MAX_OBJECTS
    while queue and left:
        thing, steps, name, depth = queue.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        left -= 1
        for step, text, child in _children(thing):
            if is_generator(child):
                found.append(Held((*steps, step), name + text, id(thing)))
            elif child is not None and not isinstance(child, _PLAIN):
                below = depth if step[0] == "module" else depth + 1
                if below <= MAX_DEPTH:
                    queue.append((child, (*steps, step), name + text, below))
    return found


def holds(root: object, thing: object) -> bool:
    """Return whether an object can be reached from another one, by the same bounded search."""
    seen: set[int] = set()
    queue: deque[tuple[Any, int]] = deque([(root, 0)])
    while queue and len(seen) < MAX_OBJECTS:
        each, depth = queue.popleft()
        if each is thing:
            return True
        if id(each) in seen:
            continue
        seen.add(id(each))
        for step, _, child in _children(each):
            below = depth if step[0] == "module" else depth + 1
            if child is not None and not isinstance(child, _PLAIN) and below <= MAX_DEPTH:
                queue.append((child, below))
    return False


def follow(root: Any, held: Held) -> Any:
    """Return the generator that stands now where ``held`` says; None if none does."""
    thing = root
    try:
        for kind, key in held.steps:
            if kind == "attr":
                thing = thing.__dict__[key]
            elif kind == "member":
                thing = getattr(thing, key)
            elif kind == "item":
                thing = thing[key]
            elif kind == "module":
                thing = thing._modules[key]
            else:
                thing = thing.__closure__[key].cell_contents
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return thing if is_generator(thing) else None


def _children(thing: Any) -> Iterator[tuple[Step, str, Any]]:
    if isinstance(thing, list | tuple | deque):
        for index in range(min(len(thing), MAX_ITEMS)):
            yield ("item", index), f"[{index}]", thing[index]
    elif isinstance(thing, dict):
        for index, key in enumerate(list(thing)[:MAX_ITEMS]):
            named = isinstance(key, str) and key.isidentifier()
            yield ("item", key), f".{key}" if named else f"[{index}]", thing[key]
    elif isinstance(thing, MethodType):
        yield ("member", "__self__"), "", thing.__self__
    elif isinstance(thing, partial):
        yield ("member", "func"), "", thing.func
        yield ("member", "args"), ".args", thing.args
        yield ("member", "keywords"), "", thing.keywords
    elif isinstance(thing, FunctionType):
        for index, (variable, cell) in enumerate(zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)):
            try:
                yield ("cell", index), f".{variable}", cell.cell_contents
            except ValueError:
                continue  # a variable that has no value yet
    else:
        is_module = isinstance(thing, nn.Module)
        for name, value in list(getattr(thing, "__dict__", {}).items()):
            if not (is_module and name in _MODULE_OWN):
                yield ("attr", name), f".{name}", value
        if is_module:
            for name, module in thing._modules.items():
                yield ("module", name), f".{name}", module
