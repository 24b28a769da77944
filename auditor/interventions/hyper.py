"""Interventions on what sets a memory's length or a step's: ``hyper.<name>``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from auditor.interventions.hold import Hold
from auditor.interventions.intervention import Branch, Intervention, Lasting, NotApplicable
from auditor.state.module import LayerHyperSource
from auditor.state.optimizer import HyperSource
from auditor.state.source import Reading, Source

_KEPT = frozenset({"momentum", "betas", "decay"})
"""Hyper-parameters that say which share of itself an average keeps in a step, whatever the optimizer."""

_KEPT_OF: dict[str, type[torch.optim.Optimizer]] = {"alpha": torch.optim.RMSprop, "rho": torch.optim.Adadelta}
"""Those that do so in one optimizer; elsewhere the same letters mean other things (ASGD's power, SAM's radius)."""

_SHARES = frozenset({"betas", "dropout", "bn_momentum"})
"""Shares: from 0 to 1."""


class SetHyper(Lasting):
    """Set a hyper-parameter in every group of the optimizer, or in every layer that has it: for dose-response curves.

    ``value`` is the new number; ``factor`` multiplies what each group or layer has at the fork; ``half_life`` is the
    half-life in steps of the average that it governs: the share kept is 2^(-1/half_life) (ln 2 / -ln of that share is
    the half-life, "Training Memory in Deep Neural Networks", arXiv 2601.21624). BatchNorm's momentum is the share
    taken over (torch/nn/modules/batchnorm.py), so it becomes 1 - 2^(-1/half_life). ``index`` says which of a pair
    (``betas``).

    With ``hold=yes`` (the default) it stays: what the program or a schedule sets afterwards is put back after each
    step and before each update, and before each call of the layers meant. With ``hold=no`` it is set once: a schedule
    that multiplies goes on from it, one that computes anew overrides it at its next step.

    Types stay: integers where the new number is one, pairs, tensors (written in place), NumPy's numbers. Buffers,
    weights and the other hyper-parameters are carried.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._hold: Hold | None = None

    def targets(self, branch: Branch) -> list[Source]:
        """Return the hyper-parameter of that name; without brackets, of every object that has it."""
        if "." not in self.source:
            raise NotApplicable("say which hyper-parameter: hyper.lr, hyper.momentum, …")
        known = [s for s in branch.watched.sources() if isinstance(s, HyperSource | LayerHyperSource)]
        found: list[Source] = [s for s in known if self.source in (s.name, _without_brackets(s.name))]
        if not found:
            names = sorted({_without_brackets(source.name) for source in known})
            raise NotApplicable(f"there is no {self.source} at this step; there are: {', '.join(names) or 'none'}")
        return found

    def apply(self, branch: Branch) -> dict[str, Any]:
        """Set it, and return the receipt."""
        return super().apply(branch) if self.arguments["hold"] == "yes" else Intervention.apply(self, branch)

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Set it: everywhere, or nowhere if there is a place where it cannot be."""
        setters = [setter for source in sources for setter in self._setters(source)]
        if not setters:
            raise NotApplicable(f"{self.source} is nowhere set at this step")
        for setter in setters:
            setter()
        if self.arguments["hold"] == "yes":
            layers = [layer for s in sources if isinstance(s, LayerHyperSource) for _, layer in s.layers]
            self._hold = Hold(sources, users=layers)

    def after_step(self, branch: Branch) -> bool:
        """Set it back to what is held."""
        return self._hold is not None and self._hold.after_step()

    def _setters(self, source: Source) -> list[Callable[[], None]]:
        if isinstance(source, LayerHyperSource):
            values = source.read().values
            new = {layer: self._new(old, source) for layer, old in values.items()}
            return [lambda: source.restore(Reading({}, new))]
        if not isinstance(source, HyperSource):
            return []
        groups = [group for group in source.watched.optimizer.param_groups if group.get(source.key) is not None]
        return [self._in_group(group, source) for group in groups]

    def _in_group(self, group: dict[str, Any], source: HyperSource) -> Callable[[], None]:
        live = group[source.key]
        index = self.arguments["index"]
        if isinstance(live, tuple | list):
            if index is None or index >= len(live):
                raise NotApplicable(f"{source.name} holds {len(live)} numbers; say which by index=0 or index=1")
            new = self._new(live[index], source)
            return lambda: group.__setitem__(
                source.key, type(live)([_put(old, new) if i == index else old for i, old in enumerate(live)])
            )
        if index is not None:
            raise NotApplicable(f"{source.name} is one number: it has no index")
        new = self._new(live, source)
        return lambda: group.__setitem__(source.key, _put(live, new))

    def _new(self, old: Any, source: Source) -> Any:
        """Return the new number, of the old one's type (a float for a tensor)."""
        name = _without_brackets(source.name).rpartition(".")[2]
        one = isinstance(old, torch.Tensor) and old.numel() == 1 and old.is_floating_point()
        if old is not None and not one and (isinstance(old, bool) or not isinstance(old, int | float | np.number)):
            raise NotApplicable(f"{source.name} is a {type(old).__name__}, not a number")
        new = self._number(None if old is None else float(old), name, source)
        if not math.isfinite(new) or (name in _SHARES and not 0.0 <= new <= 1.0) or (name == "betas" and new == 1.0):
            raise NotApplicable(f"{new:g} is no {source.name}")
        if isinstance(old, int | np.integer):
            return type(old)(new) if new == int(new) else new
        return new if old is None or isinstance(old, torch.Tensor) else type(old)(new)

    def _number(self, old: float | None, name: str, source: Source) -> float:
        value, half_life, factor = (self.arguments[key] for key in ("value", "half_life", "factor"))
        if value is not None:
            return float(value)
        if half_life is not None:
            kept = math.pow(2.0, -1.0 / half_life)
            if name == "bn_momentum":
                return 1.0 - kept
            governs = isinstance(source, HyperSource) and isinstance(source.watched.optimizer, _KEPT_OF.get(name, ()))
            if name in _KEPT or governs:
                return kept
            raise NotApplicable(f"which half-life follows from {source.name} is not known; give value=")
        if old is None:
            raise NotApplicable(f"{source.name} is None in some layers, which has no multiple")
        return float(old * factor)


def _put(live: Any, new: Any) -> Any:
    """Return what shall stand where ``live`` stands: a tensor itself, written in place."""
    if not isinstance(live, torch.Tensor):
        return new
    with torch.no_grad():
        return live.fill_(new)


def _without_brackets(name: str) -> str:
    """Return ``hyper.lr`` for ``hyper[generator].lr``."""
    head, bracket, rest = name.partition("[")
    return head + rest.partition("]")[2] if bracket and "." not in head else name
