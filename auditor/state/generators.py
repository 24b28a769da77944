"""Which random streams a training has: the process-wide ones, and every generator met in what it uses."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from auditor.state.held import GENERATORS, Held, follow, generators_in
from auditor.state.streams import (
    TORCH_DEFAULT_SEED,
    GeneratorStream,
    NumpyGeneratorStream,
    NumpyStream,
    Place,
    PythonStream,
    Stream,
    TorchStream,
    device_generators,
)

__all__ = ["GENERATORS", "Loaders", "StreamFinder"]

Loaders = Mapping[int, DataLoader[Any]] | Iterable[DataLoader[Any]]
"""Loaders by number (from 1, in the order of their first walk), or in that order."""

_PARTS = ("loader", "sampler", "batch_sampler", "dataset", "collate_fn")
"""The parts of a loader in the order in which streams are listed."""


class _Root(NamedTuple):
    """Where a walk began: a watched object or a part of a loader, and the generators found in it."""

    name: str
    part: str
    loader: int | None
    path: str
    """The attribute of the loader that leads there, dotted; empty for the watched object itself."""
    held: list[Held]


class _Walked(NamedTuple):
    """A watched object or a loader that was walked through."""

    thing: Callable[[], Any]
    """Gives the object: a loader lives only as long as the program holds it."""
    roots: list[_Root]


class StreamFinder:
    """Finds the streams of one training, again and again: the same generator is the same :class:`Stream` each time.

    Objects are walked through once; afterwards a generator is looked for where it was found, so that one which is
    bound anew (``self.rng = np.random.default_rng(epoch)``) is seen. :meth:`forget` has them walked through again.
    """

    def __init__(self) -> None:
        self._global: list[Stream] = [PythonStream(), NumpyStream(), TorchStream()]
        self._known: dict[int, Stream] = {}
        self._walked: dict[tuple[str, object], _Walked] = {}
        self._begun = False

    def find(self, objects: Mapping[str, Any], loaders: Loaders = ()) -> list[Stream]:
        """Return the streams there are now, each once by identity: the global ones, then in the order they were met.

        ``objects`` are the watched ones, by keyword.
        """
        if not self._begun:
            self._begun = True
            _note_fresh(self._global)
        streams = {id(_generator(stream)): stream for stream in self._global}
        known: dict[int, Stream] = {}
        places: dict[int, list[Place]] = {}
        taken = {stream.name for stream in self._global}

        def meet(generator: Any, name: str, place: Place | None) -> None:
            key = id(generator)
            if place is not None:
                places.setdefault(key, []).append(place)
            if key in streams:
                return
            stream = self._known.get(key)
            if stream is None or stream.name != _free(name, taken):
                stream = _stream_of(_free(name, taken), generator)
            taken.add(stream.name)
            streams[key] = known[key] = stream

        for name, generator in device_generators().items():
            meet(generator, name, None)
        for keyword, thing in objects.items():
            walk = partial(_walk_watched, keyword, thing)
            for root, held, generator in self._met(("watched", keyword), thing, walk):
                meet(generator, *_placed(root, held))
        numbered = loaders if isinstance(loaders, Mapping) else dict(enumerate(loaders, start=1))
        for number, loader in numbered.items():
            walk = partial(_walk_loader, number, loader)
            for root, held, generator in self._met(("loader", number), loader, walk):
                meet(generator, *_placed(root, held))
        for key, stream in streams.items():
            stream.places = tuple(places.get(key, ()))
        self._known = known
        return list(streams.values())

    def forget(self) -> None:
        """Forget where generators were found: the next :meth:`find` walks through everything anew."""
        self._walked.clear()

    def _met(self, key: tuple[str, object], thing: Any, walk: Callable[[], _Walked]) -> list[tuple[_Root, Held, Any]]:
        """Return the generators that stand in ``thing`` now; it is walked through where that was not done yet."""
        walked = self._walked.get(key)
        if walked is None or walked.thing() is not thing:
            self._walked[key] = walked = walk()
        found = _followed(thing, walked)
        if len(found) < sum(len(root.held) for root in walked.roots):
            self._walked[key] = walked = walk()
            found = _followed(thing, walked)
        return found


def _followed(thing: Any, walked: _Walked) -> list[tuple[_Root, Held, Any]]:
    found = []
    for root in walked.roots:
        start = _reach(thing, root.path)
        for held in root.held:
            generator = follow(start, held)
            if generator is not None:
                found.append((root, held, generator))
    return found


def _walk_watched(keyword: str, thing: Any) -> _Walked:
    return _Walked(lambda: thing, [_Root(keyword, "watched", None, "", generators_in(thing, set()))])


def _walk_loader(number: int, loader: DataLoader[Any]) -> _Walked:
    """Walk through the parts of a loader that may hold generators."""
    suffix = f"[{number}]" if number > 1 else ""
    seen: set[int] = set()
    roots: list[_Root] = []
    # The data set first: samplers know it too, and what it holds is the data set's.
    for part, path in (
        ("dataset", "dataset"),
        ("collate_fn", "collate_fn"),
        ("sampler", "sampler"),
        ("sampler", "batch_sampler.sampler"),
        ("batch_sampler", "batch_sampler"),
        ("loader", "generator"),
    ):
        thing = _reach(loader, path)
        if thing is not None:
            roots.append(_Root(f"{part}{suffix}", part, number, path, generators_in(thing, seen)))
    roots.sort(key=lambda root: _PARTS.index(root.part))
    return _Walked(weakref.ref(loader), [root for root in roots if root.held])


def _reach(thing: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        thing = getattr(thing, name, None)
    return thing


def _placed(root: _Root, held: Held) -> tuple[str, Place]:
    """Return a generator's name and place; the one a sampler calls ``generator`` has the sampler's name."""
    short = root.part in ("sampler", "batch_sampler") and held.name == ".generator"
    name = root.name if short else f"{root.name}{held.name}"
    return name, Place(name, root.part, root.loader, held.holder if held.steps else None)


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, numbered where another stream has it."""
    if name not in taken:
        return name
    number = 2
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def _generator(stream: Any) -> Any:
    return stream.generator


def _stream_of(name: str, generator: Any) -> Stream:
    if isinstance(generator, torch.Generator):
        return GeneratorStream(name, generator)
    if isinstance(generator, np.random.Generator):
        return NumpyGeneratorStream(name, generator)
    if isinstance(generator, np.random.RandomState):
        return NumpyStream(name, generator)
    return PythonStream(name, generator)


def _note_fresh(streams: list[Stream]) -> None:
    """Note which of Python's and NumPy's global streams stand where torch's seed has them begin.

    Neither can be asked for its seed; a program that seeds them all alike shows itself this way.
    """
    seed = torch.initial_seed()
    python = random.Random(seed)  # noqa: S311 -- compared with, never drawn from
    twins = (PythonStream("", python), NumpyStream("", np.random.RandomState(seed & 0xFFFFFFFF)))
    if seed != TORCH_DEFAULT_SEED:
        for stream in streams:
            for twin in twins:
                if type(stream) is type(twin) and stream.read().digest() == twin.read().digest():
                    stream.fresh_from = seed
