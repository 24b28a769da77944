"""How long each source remembers: half-lives where one follows from what the program says."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

_Group = Mapping[str, Any]


def half_life_of(decay: float) -> float | None:
    """Return ln 2 / -ln(decay) steps for an exponential average that keeps ``decay`` of itself a step."""
    if not 0.0 < decay < 1.0:
        return None
    return math.log(2.0) / -math.log(decay)


def _beta(index: int) -> Callable[[_Group], Any]:
    return lambda group: group["betas"][index] if "betas" in group else None


_DECAY_OF_SLOT: dict[str, Callable[[_Group], Any]] = {
    "momentum_buffer": lambda group: group.get("momentum"),
    "exp_avg": _beta(0),
    "exp_avg_sq": _beta(1),
    "exp_inf": _beta(1),
    "square_avg": lambda group: group.get("alpha", group.get("rho")),
    "grad_avg": lambda group: group.get("alpha"),
    "acc_delta": lambda group: group.get("rho"),
}
_DECAY_OF_CLASS: dict[tuple[str, str], Callable[[_Group], Any]] = {("Lion", "exp_avg"): _beta(1)}


def slot_half_life(optimizer: torch.optim.Optimizer, slot: str) -> float | None:
    """Return the half-life of an optimizer's slot that follows from its betas or momentum, if all groups share it."""
    decay = _DECAY_OF_CLASS.get((type(optimizer).__name__, slot)) or _DECAY_OF_SLOT.get(slot)
    if decay is None:
        return None
    found = {decay(group) for group in optimizer.param_groups}
    return _of(found.pop()) if len(found) == 1 else None


def averaging_decay(average: AveragedModel) -> float | None:
    """Return the decay of a model averaged exponentially; None for equal weights, or where it cannot be told.

    torch keeps it in a closure: ``get_ema_multi_avg_fn(decay)`` and ``get_ema_avg_fn(decay)`` in
    torch/optim/swa_utils.py.
    """
    function: Any = average.multi_avg_fn or average.avg_fn
    while hasattr(function, "__wrapped__"):  # torch.no_grad() wraps it
        function = function.__wrapped__
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(function, "__closure__", None) or (), strict=False))
    decay = cells["decay"].cell_contents if "decay" in cells else None
    return float(decay) if isinstance(decay, int | float) else None


def own_half_life(thing: object) -> float | None:
    """Return the half-life that follows from what an averaging object says of itself.

    Read are ``decay``, ``ema_decay``, ``momentum``, ``m`` and ``alpha`` between 0.5 and 1: the share of itself that it
    keeps at an update (below that nobody can tell which share is meant); and ``tau``, the share that it takes over. A
    property is not asked: that would run the program's code.
    """
    if isinstance(thing, AveragedModel):
        decay = averaging_decay(thing)
        return None if decay is None else half_life_of(decay)
    for name in ("decay", "ema_decay", "momentum", "m", "alpha"):
        value = _number(inspect.getattr_static(thing, name, None))
        if value is not None and 0.5 <= value < 1.0:
            return half_life_of(value)
    tau = _number(inspect.getattr_static(thing, "tau", None))
    return None if tau is None else half_life_of(1.0 - tau)


def norm_half_life(layers: list[nn.Module]) -> float | None:
    """Return the half-life of running statistics, if all layers share one momentum (None means a plain mean)."""
    momenta = {getattr(layer, "momentum", None) for layer in layers}
    momentum = momenta.pop() if len(momenta) == 1 else None
    return None if momentum is None else half_life_of(1.0 - float(momentum))


def queue_half_life(length: int | None, batch_size: int | None) -> float | None:
    """Return after how many steps half of a first-in-first-out queue is replaced: length / (2 · batch size)."""
    return length / (2 * batch_size) if length and batch_size else None


def queue_length(thing: object) -> int | None:
    """Return how many samples a queue holds when it is full: its longest side, if it is a tensor or array.

    Of a deque it is not known whether an entry is a sample, a batch or a number a step.
    """
    shape = getattr(thing, "shape", ())
    return max(shape) if len(shape) and max(shape) > 1 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _of(decay: Any) -> float | None:
    return None if decay is None else half_life_of(float(decay))
