"""What every intervention has: a target, a semantics, and a receipt of what it measurably did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from auditor.artifact.canonical import encode_float
from auditor.artifact.digest import digest_text
from auditor.errors import MemauditError
from auditor.state.anchor import copied
from auditor.state.census import Watched
from auditor.state.source import Reading, Source
from auditor.state.tensors import logical


class NotApplicable(Exception):  # noqa: N818 - an answer, not an error
    """The source has nothing this intervention could change; the message says why."""


class Intervention(ABC):
    """One named change to one memory source.

    ``source`` is the name it was asked for; a bare kind (``optimizer``) means all sources of that kind.
    """

    action: ClassVar[str]
    parameters: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Allowed values by argument; the first is the default."""

    def __init__(self, source: str, arguments: dict[str, Any]) -> None:
        unknown = arguments.keys() - self.parameters.keys()
        if unknown:
            raise MemauditError(
                f"{self.action} of {source} takes no argument {sorted(unknown)[0]!r}",
                next_step=f"it takes: {', '.join(self.parameters) or 'none'}",
            )
        for name, allowed in self.parameters.items():
            if arguments.get(name, allowed[0]) not in allowed:
                raise MemauditError(
                    f"{name}={arguments[name]} is not known to {self.action} of {source}",
                    next_step=f"use one of: {', '.join(allowed)}",
                )
        self.source = source
        self.arguments = {name: arguments.get(name, allowed[0]) for name, allowed in self.parameters.items()}

    @abstractmethod
    def targets(self, watched: Watched) -> list[Source]:
        """Return the sources to be changed.

        Raises
        ------
        NotApplicable
            If there is none.
        """

    @abstractmethod
    def change(self, sources: list[Source]) -> None:
        """Change the live state.

        Raises
        ------
        NotApplicable
            If the state has nothing to change; nothing was changed then.
        """

    def apply(self, watched: Watched) -> dict[str, Any]:
        """Change the live state and return the receipt (docs/study.md).

        Raises
        ------
        MemauditError
            If a source that was not to be touched changed: the arm would not be what it is called.
        """
        receipt: dict[str, Any] = {"source": self.source, "do": self.action, "arguments": self.arguments}
        try:
            targets = self.targets(watched)
            names = {source.name for source in targets}
            before = {source.name: copied(source.read()) for source in targets}
            others = {s.name: s.read().digest() for s in watched.sources() if s.name not in names}
            self.change(targets)
        except NotApplicable as answer:
            return {**receipt, **_measured({}, {}), "applied": False, "reason": str(answer)}
        after = {source.name: source.read() for source in targets}
        now = {s.name: s.read().digest() for s in watched.sources() if s.name not in names}
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


Factory = Callable[[str, dict[str, Any]], Intervention]


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
