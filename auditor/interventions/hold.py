"""Sources held as they stand: put back after each step, and before anything computes with them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from auditor.interventions.calls import before_calls
from auditor.state.anchor import copied
from auditor.state.optimizer import HyperSource
from auditor.state.putback import PutBack
from auditor.state.source import Reading, Source


class Hold:
    """Keeps sources as they are when it is made, for as long as it is referred to.

    A program may set a rate anew between a step's record and the next update (at the top of its loop, at the end of an
    epoch): put back after each step alone, the held value would stand in the trace and the training would use another.
    So it is also put back right before each update of any optimizer, and before each call of one of ``users``.
    The hooks for that are global ones, which no module or optimizer holds: the census stays as it was.

    Parameters
    ----------
    sources
        What is held. Of hyper-parameters, the groups that are there now.
    users
        Modules before whose calls it is put back.
    """

    def __init__(self, sources: Iterable[Source], users: Iterable[nn.Module] = ()) -> None:
        self._held = [(source, copied(source.read())) for source in sources]
        self._changed = False
        reference = weakref.ref(self)

        def before_update(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            hold = reference()
            if hold is not None:
                hold.put_back()

        weakref.finalize(self, register_optimizer_step_pre_hook(before_update).remove).atexit = False
        before_calls(self, users, lambda hold, _: hold.put_back())

    def put_back(self) -> None:
        """Put back what was changed since."""
        for source, held in self._held:
            now = _of_held_groups(source, held)
            if now.digest() != held.digest():
                self._changed = True
                _restore(source, held)

    def after_step(self) -> bool:
        """Put back what was changed, and return whether anything was since the last call."""
        self.put_back()
        changed, self._changed = self._changed, False
        return changed


def _of_held_groups(source: Source, held: Reading) -> Reading:
    now = source.read()
    if not isinstance(source, HyperSource):
        return now
    return Reading(
        {path: now.tensors[path] for path in held.tensors if path in now.tensors}, now.values[: len(held.values)]
    )


def _restore(source: Source, held: Reading) -> None:
    if not isinstance(source, HyperSource):
        source.restore(held)
        return
    # Not its own restore(): groups may have been added since, and they keep what they came with.
    put = PutBack(held.tensors, source.watched.known)
    for group, value in zip(source.watched.optimizer.param_groups, held.values, strict=False):
        if value is not None:
            group[source.key] = put.value(group.get(source.key), value)
