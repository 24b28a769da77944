"""Which kind of memory something is: its type says so, then the words of its name."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from auditor.state.half_life import averaging_decay

ORDER = (
    *("params", "bn", "buffers", "optimizer", "hyper", "scheduler", "scaler"),
    *("ema", "swa", "teacher", "queue", "order", "augment", "other"),
)
"""The kinds in the order of the census."""

_WORDS = {
    "teacher": "teacher",
    **dict.fromkeys(("ema", "average", "averaged", "shadow"), "ema"),
    "swa": "swa",
    **dict.fromkeys(("queue", "bank", "buffer", "memory", "negatives", "replay", "fifo"), "queue"),
    **dict.fromkeys(("scheduler", "schedule"), "scheduler"),
    "scaler": "scaler",
    **dict.fromkeys(("optimizer", "optimiser", "optim"), "optimizer"),
    **dict.fromkeys(("sampler", "order", "curriculum", "loader"), "order"),
    **dict.fromkeys(("augment", "augmentation", "augmentations", "transform", "transforms"), "augment"),
}
_MODULE_KINDS = frozenset({"teacher", "ema", "swa", "queue", "augment", "order"})
_ATTRIBUTE_KINDS = frozenset({"teacher", "ema", "swa", "queue"})
_DESCRIPTIONS = frozenset(
    {*("size", "length", "len", "dim", "dims", "weight", "weights", "rate", "loss", "factor", "temperature", "tau")}
    | {*("num", "n", "max", "min", "decay", "momentum", "steps", "every", "start", "type", "name", "average")}
)
_POINTERS = frozenset({"ptr", "pointer"})
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: ``memory_bank2`` and ``MemoryBank`` have ``memory`` and ``bank``."""
    return [part.lower() for part in _PART.findall(name)]


def word_kind(name: str) -> str | None:
    """Return the kind that a word of a name stands for; a teacher's queue is a queue, a momentum teacher a teacher."""
    found = [_WORDS[word] for word in words(name) if word in _WORDS]
    return found[-1] if found else None


def module_kind(keyword: str, module: nn.Module) -> str:
    """Return the kind of a watched module: ``params``, unless type or keyword say that it follows another."""
    named = word_kind(keyword)
    if isinstance(module, AveragedModel):
        if averaging_decay(module) is not None:
            return "ema"
        return "ema" if "ema" in words(keyword) else "swa"
    if named is None and {"ema", "swa"} & set(words(type(module).__name__)):
        named = word_kind(type(module).__name__)
    return named if named in _MODULE_KINDS else "params"


def object_kind(keyword: str, thing: Any) -> str:
    """Return the kind of any other watched object."""
    if isinstance(thing, torch.optim.lr_scheduler.LRScheduler):
        return "scheduler"
    if isinstance(thing, torch.amp.GradScaler):
        return "scaler"
    if isinstance(thing, torch.utils.data.Sampler):
        return "order"
    named = word_kind(keyword)
    if named is None and not isinstance(thing, torch.Tensor) and type(thing).__module__ != "builtins":
        named = word_kind(type(thing).__name__)
    return named or "other"


def attribute_kind(path: str) -> str:
    """Return the kind of a plain attribute, by its name, or of the attribute that it hangs on.

    It does not depend on what stands there: a queue that is made at the first step was None before.
    """
    for name in reversed(path.split(".")):
        named = word_kind(name)
        if is_pointer(name):
            return "queue"
        if named in _ATTRIBUTE_KINDS and not _DESCRIPTIONS & set(words(name)):
            return named
    return "other"


def is_pointer(name: str) -> bool:
    """Return whether a name is that of a queue's pointer."""
    return bool(_POINTERS & set(words(name)))


def queue_buffers(names: list[str]) -> set[str]:
    """Return which of a module's registered buffers (dotted names) are queues, with their pointers."""
    queues = {name for name in names if word_kind(name.rpartition(".")[2]) == "queue"}
    homes = {name.rpartition(".")[0] for name in queues}
    return queues | {name for name in names if name.rpartition(".")[0] in homes and is_pointer(name.rpartition(".")[2])}
