"""The RNG contract: which streams exist, how each was seeded, who consumes it, and what is doubtful about it.

What is said follows from objects that were seen. A program's own code may draw from any stream; of that nothing shows
before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from auditor.recorder.drawing import drawing_modules
from auditor.recorder.reseeding import Reseeding
from auditor.recorder.settings import Settings
from auditor.recorder.workers import WorkerStream
from auditor.state.generators import Loaders
from auditor.state.streams import (
    TORCH_DEFAULT_SEED,
    GeneratorStream,
    NumpyGeneratorStream,
    NumpyStream,
    Stream,
    device_generators,
)

_UNSEEDED = "seeded by nobody that memaudit saw: another run will draw other numbers"
_DEFAULT = "torch's fixed default seed"
_SEED_UNTOLD = "the program; this kind of generator does not tell its seed"
_LONGEST_SEED_BITS = 64
"""A NumPy generator that was given no seed takes 128 bits from the operating system."""

_ORDER_PARTS = ("loader", "sampler", "batch_sampler")
_OWN_WORDS = {"loader", "sampler", "generator", "shuffle", "order", "data"}
"""Words of a watched keyword that say: this is the loader's generator, shown to the recorder on purpose."""


def describe(
    streams: list[Stream],
    settings: Settings,
    modules: Iterable[nn.Module],
    loaders: Loaders,
    reseeding: Reseeding | None = None,
) -> list[dict[str, Any]]:
    """Return the contract's entries, one a stream in the order given: name, seeded_by, consumers, warnings.

    ``modules`` are the watched ones, ``loaders`` those walked so far; ``reseeding`` says what happened since the start.
    """
    numbered = loaders if isinstance(loaders, Mapping) else dict(enumerate(loaders, start=1))
    drawing = drawing_modules(modules)
    entries = []
    for stream in streams:
        first = None if reseeding is None else reseeding.first_seed(stream.name)
        seeded_by, warnings = _seeding(stream, settings, first)
        warnings += _sharing(stream) + _copies(stream, numbered)
        if reseeding is not None:
            warnings += reseeding.warnings(stream.name)
        consumers = [*_loader_draws(stream, numbered), *_held_draws(stream), *drawing.get(_device(stream), ())]
        if isinstance(stream, WorkerStream):
            consumers = ["the data set and collate_fn inside this worker"]
        entries.append(
            {
                "name": stream.name,
                "seeded_by": seeded_by,
                "consumers": list(dict.fromkeys(consumers)),
                "warnings": warnings,
            }
        )
    return entries


# How a stream was seeded.


def _seeding(stream: Stream, settings: Settings, first: int | None) -> tuple[str, list[str]]:
    """Return how a stream was seeded and what is doubtful about it; ``first`` is the seed it was first seen with."""
    if isinstance(stream, WorkerStream):
        kept = sorted(stream.table.changed)
        warnings = (
            [f"the data set keeps state inside its workers, which no anchor holds: {', '.join(kept)}"] if kept else []
        )
        return f"the base seed of {stream.name.rpartition('.')[0]}'s pass, plus {stream.worker}", warnings
    if isinstance(stream, GeneratorStream) and first is None:
        first = stream.generator.initial_seed()
    if _is_global(stream):
        return _global_seeding(stream, settings, stream.fresh_from if first is None else first)
    if first is not None:
        if first != TORCH_DEFAULT_SEED:
            return f"its own seed, {first}", []
        return _DEFAULT, ["nobody seeded this generator; it starts from torch's default in every run"]
    if isinstance(stream, NumpyGeneratorStream):
        return _entropy(getattr(stream.generator.bit_generator, "seed_seq", None))
    if isinstance(stream, NumpyStream):
        return _entropy(stream.sequence())
    return _SEED_UNTOLD, []


def _global_seeding(stream: Stream, settings: Settings, found: int | None) -> tuple[str, list[str]]:
    if settings.seed is not None and found in (None, settings.seed):
        return f"{settings.seeded_by}, {settings.seed}", []
    if found == TORCH_DEFAULT_SEED:
        return _DEFAULT, [_UNSEEDED]
    if found is not None:
        return f"the program, {found}", []
    if isinstance(stream, NumpyStream) and stream.sequence() is None:
        return _SEED_UNTOLD, []
    return "unknown", [_UNSEEDED]


def _entropy(sequence: Any) -> tuple[str, list[str]]:
    """Return what a NumPy ``SeedSequence`` tells; there is none behind the legacy way of seeding."""
    entropy = getattr(sequence, "entropy", None)
    if isinstance(entropy, int) and entropy.bit_length() > _LONGEST_SEED_BITS:
        warning = (
            f"its seed has {entropy.bit_length()} bits, as when none is given: another run will draw other numbers"
        )
        return "the operating system", [warning]
    if entropy is None:
        return _SEED_UNTOLD, []
    spawned = "".join(f", child {index}" for index in getattr(sequence, "spawn_key", ()))
    return f"its own seed, {entropy}{spawned}", []


def _is_global(stream: Stream) -> bool:
    return stream.name in ("python", "numpy", "torch") or stream.name in device_generators()


# Who draws from it.


def _loader_draws(stream: Stream, loaders: Mapping[int, DataLoader[Any]]) -> list[str]:
    """Return what loaders draw by themselves: base seeds, and the orders of the samplers that torch brings."""
    if not isinstance(stream, GeneratorStream):
        return []
    found = []
    for number, loader in loaders.items():
        name = _loader_name(number)
        if stream.generator is (loader.generator or torch.default_generator):
            found.append(f"{name}: base seed of each pass{_workers(loader)}")
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        drawn = isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
        if drawn and stream.generator is (getattr(sampler, "generator", None) or torch.default_generator):
            found.append(f"{name}: order of each pass")
    return found


def _workers(loader: DataLoader[Any]) -> str:
    """Say what becomes of the base seed."""
    count = loader.num_workers
    if not count:
        return ""
    kind = "persistent worker" if loader.persistent_workers else "worker"
    told = [f"seeds torch, Python and NumPy in {count} {kind}{'s' if count > 1 else ''}"]
    if loader.worker_init_fn is not None:
        told.append(f"then worker_init_fn {_qualified(loader.worker_init_fn)}")
    if not getattr(loader, "in_order", True):
        told.append("in_order=False")
    return f" ({'; '.join(told)})"


def _qualified(function: Any) -> str:
    inner = getattr(function, "func", function)  # of a partial
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"


def _held_draws(stream: Stream) -> list[str]:
    """Return what the objects that hold the generator draw."""
    found = []
    for place in stream.places:
        loader = _loader_name(place.loader)
        if place.part == "watched":
            found.append(f"{place.name}, as watched")
        elif place.part == "dataset":
            found.append(f"{loader}: what {place.name.rpartition('.')[0] or place.name} draws for a sample")
        elif place.part == "collate_fn":
            found.append(f"{loader}: what collate_fn draws for a batch")
        elif place.part != "loader":
            found.append(f"{loader}: order of each pass")
    return found


def _loader_name(number: int | None) -> str:
    return "loader" if number in (None, 1) else f"loader[{number}]"


def _device(stream: Stream) -> str:
    return "cpu" if stream.name == "torch" else stream.name


# What is doubtful.


def _sharing(stream: Stream) -> list[str]:
    """Warn where one generator serves several consumers that may not know of each other, a loader among them."""
    if _is_global(stream):
        return []
    holders = {place.holder for place in stream.places if place.part != "watched"} - {None}
    served: dict[tuple[object, ...], str] = {}
    watched: dict[str, str] = {}
    for place in stream.places:
        if place.part != "watched":
            what = "order" if place.part in _ORDER_PARTS else "data"
            served.setdefault((what, place.loader), f"the {what} of {_loader_name(place.loader)}")
        elif place.holder not in holders and not _OWN_WORDS & set(re.split(r"[^a-z]+", place.name.lower())):
            watched[place.name] = place.name
    users = [*served.values(), *watched.values()]
    if not served or len(users) == 1:
        return []
    return [f"one generator serves {' and '.join(users)}: what one draws changes what the other gets"]


def _copies(stream: Stream, loaders: Mapping[int, DataLoader[Any]]) -> list[str]:
    """Warn where workers draw from copies of a generator that the data set holds; the global ones they seed anew."""
    if _is_global(stream):
        return []
    holding = {place.loader for place in stream.places if place.part in ("dataset", "collate_fn")}
    return [_copied(loader) for number, loader in loaders.items() if number in holding and loader.num_workers]


def _copied(loader: DataLoader[Any]) -> str:
    several = loader.num_workers > 1
    who = f"each of {loader.num_workers} loader workers" if several else "the loader worker"
    text = f"{who} draws from a copy of this generator; the copies are not captured"
    alike = ["as the others"] if several else []
    again = [] if loader.persistent_workers else ["in every pass"]
    if loader.worker_init_fn is None and (alike or again):
        text += f"; unless the data set seeds them anew, the same numbers {' and '.join([*alike, *again])}"
    return text
