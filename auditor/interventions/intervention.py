"""What every intervention has: a target, a semantics, and a receipt of what it measurably did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from auditor.artifact.canonical import encode_float
from auditor.artifact.digest import digest_text
from auditor.artifact.intervention_table import AT
from auditor.errors import MemauditError
from auditor.state.anchor import copied
from auditor.state.census import Watched
from auditor.state.source import Reading, Source
from auditor.state.streams import Stream, derive_seed
from auditor.state.tensors import logical


class NotApplicable(Exception):  # noqa: N818 - an answer, not an error
    """The source has nothing this intervention could change; the message says why."""


class Probed(Protocol):
    """What interventions know of a probe."""

    model: nn.Module
    inputs: Any

    def call(self, inputs: Any) -> Any:
        """Return what the model as it stands answers to inputs of the probe's form."""


@dataclass
class Branch:
    """The branch of a training that interventions act in: all they may look at and draw from."""

    watched: Watched
    key: str
    """What the random choices of this branch's interventions derive from: the unit's, or the gate's."""
    streams: Callable[[], list[Stream]] = list
    """Gives the random streams of the process."""
    redraw: Callable[[list[Stream]], str | None] = lambda streams: None
    """Draws anew, from streams that were re-keyed, what is left of the passes that they order; says what it did."""
    built: Mapping[str, Reading] = field(default_factory=dict)
    """Clocks and rates (``scheduler``, ``scaler``, ``hyper``) as the program built them, by source."""
    probes: Mapping[str, Probed] = field(default_factory=dict)
    """The training's probes, by name."""
    loaders: Callable[[], Mapping[int, DataLoader[Any]]] = dict
    """Gives the loaders walked so far that the program still holds, by number."""
    given: Callable[[Intervention], Mapping[str, Reading]] = lambda intervention: {}
    """Gives what another cell held after the same step, by source, to an intervention that takes it."""

    def named(self, names: Iterable[str]) -> list[Source]:
        """Return the sources of those names, as they are found now.

        Raises
        ------
        MemauditError
            If one is no longer there: what acts on it later cannot go on.
        """
        sources = {source.name: source for source in self.watched.sources()}
        for name in names:
            if name not in sources:
                raise MemauditError(
                    f"{name} is no longer there, and an intervention goes on acting on it",
                    where=name,
                    next_step="use a horizon before it goes, or an intervention that acts once",
                )
        return [sources[name] for name in names]

    def generator(self, intervention: Intervention) -> torch.Generator:
        """Return a stream of the intervention's own: no stream of the training is drawn from."""
        description = repr(sorted(intervention.description.items()))
        return torch.Generator().manual_seed(derive_seed(self.key, f"intervention {description}"))


class Intervention(ABC):
    """One named change to one memory source.

    ``description`` is ``{source, do, …arguments}`` with every default filled in. ``source`` is the name it was asked
    for; a bare kind (``optimizer``) means all sources of that kind. The class docstring says what changes, what is
    carried, what is held fixed, and the source of that meaning.
    """

    also_changes: frozenset[str] = frozenset()
    """Kinds of sources that may change along (a schedule's learning rate); all others must stay bit-equal."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.source = str(description["source"])
        self.action = str(description["do"])
        self.arguments = {name: value for name, value in description.items() if name not in ("source", "do", AT)}
        self.at: int | None = description.get(AT)
        """The step after which it is applied; the fork's if None."""

    def targets(self, branch: Branch) -> list[Source]:
        """Return the sources to be changed: the one of that name, or all of that kind.

        Raises
        ------
        NotApplicable
            If there is none.
        """
        sources = [source for source in branch.watched.sources() if source.captured]
        found = [source for source in sources if source.name == self.source]
        if not found and "." not in self.source and "[" not in self.source:
            found = [source for source in sources if source.kind == self.source]
        if not found:
            raise NotApplicable(f"there is no {self.source} at this step")
        return found

    @abstractmethod
    def change(self, sources: list[Source], branch: Branch) -> None:
        """Change the live state, in place.

        Raises
        ------
        NotApplicable
            If the state has nothing to change; nothing was changed then.
        """

    def apply(self, branch: Branch) -> dict[str, Any]:
        """Change the live state and return the receipt (docs/study.md).

        Raises
        ------
        MemauditError
            If a source that was not to be touched changed: the arm would not be what it is called.
        """
        receipt: dict[str, Any] = {"source": self.source, "do": self.action, "arguments": self.arguments}
        watched = branch.watched
        try:
            targets = self.targets(branch)
            names = {source.name for source in targets}
            before = {source.name: copied(source.read()) for source in targets}
            others = {s.name: s.read().digest() for s in self._untouched(watched, names)}
            self.change(targets, branch)
        except NotApplicable as answer:
            return {**receipt, **_measured({}, {}), "applied": False, "reason": str(answer)}
        # Sources may have come or gone: a cleared optimizer has no slots.
        after = {source.name: source.read() for source in targets}
        now = {s.name: s.read().digest() for s in self._untouched(watched, names)}
        for name, digest in others.items():
            if now.get(name) != digest:
                raise MemauditError(
                    f"{self.action} of {self.source} also changed {name}",
                    next_step="report this as a defect in memaudit",
                )
        measured = _measured(before, after)
        changed = measured["digest_before"] != measured["digest_after"]
        reason = None if changed else f"{self.source} already was as {self.action} makes it"
        return {**receipt, **measured, "applied": changed, "reason": reason}

    def _untouched(self, watched: Watched, names: set[str]) -> list[Source]:
        return [s for s in watched.sources() if s.name not in names and s.kind not in self.also_changes]


class Lasting(Intervention):
    """An intervention that acts after each later step as well; nothing need change where it begins."""

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self.steps_changed = 0
        """After how many later steps it changed something."""

    @abstractmethod
    def after_step(self, branch: Branch) -> bool:
        """Act again, once a later step has been taken and before it is recorded; return whether anything changed."""

    def before_batch(self, branch: Branch) -> None:
        """Act before a batch is drawn from a loader, in the thread that takes the steps."""

    def apply(self, branch: Branch) -> dict[str, Any]:
        """Begin, and return the receipt: applied, unless there is nothing to act on."""
        receipt = super().apply(branch)
        if not receipt["applied"] and receipt["digest_before"]:
            return {**receipt, "applied": True, "reason": None}
        return receipt


def _measured(before: dict[str, Reading], after: dict[str, Reading]) -> dict[str, Any]:
    """Return what the change did: Euclidean norms, the share of elements that differ, digests by source."""
    total = changed = 0
    for name, old in before.items():
        new = after[name].tensors
        for path, tensor in old.tensors.items():
            total += tensor.numel()
            changed += _elements_changed(tensor, new.get(path))
    return {
        "tensors": sum(len(reading.tensors) for reading in before.values()),
        "norm_before": encode_float(_norm(before)),
        "norm_after": encode_float(_norm(after)),
        "changed": changed / total if total else 0.0,
        "digest_before": {name: digest_text(reading.digest()) for name, reading in before.items()},
        "digest_after": {name: digest_text(reading.digest()) for name, reading in after.items()},
    }


def _elements_changed(old: torch.Tensor, new: torch.Tensor | None) -> int:
    """Return how many elements differ in any bit: NaN equals itself, and 0.0 is not -0.0."""
    if new is None or new.shape != old.shape or new.dtype != old.dtype or not old.numel():
        return old.numel()
    pair = [logical(tensor.detach()).reshape(-1, 1).view(torch.uint8) for tensor in (old, new)]
    return int((pair[0] != pair[1]).any(dim=1).sum())


def _norm(readings: dict[str, Reading]) -> float:
    squares = [
        float(tensor.detach().double().square().sum())
        for reading in readings.values()
        for tensor in reading.tensors.values()
        if tensor.is_floating_point()
    ]
    return float(torch.tensor(squares, dtype=torch.float64).sum().sqrt()) if squares else 0.0
