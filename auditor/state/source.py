"""A memory source: a piece of state that carries training history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch

from auditor.artifact.digest import source_digest
from auditor.errors import MemauditError
from auditor.state.tensors import torch_digest

IN_THE_WEIGHTS = "in the weights"
CHANGES_EVALUATION = "changes evaluation only"
HIDDEN = "hidden until the next update"
THROUGH_AVERAGE = "only through the averaged model"


VISIBILITY = {
    "params": IN_THE_WEIGHTS,
    "bn": CHANGES_EVALUATION,
    "ema": THROUGH_AVERAGE,
    "swa": THROUGH_AVERAGE,
}
"""How the state of a kind shows; the kinds that are not named are hidden until the next update."""


class Reading(NamedTuple):
    """A source's state at one moment: live tensors by path, and the rest ready for canonical JSON (None: no rest)."""

    tensors: dict[str, torch.Tensor]
    values: Any = None

    def leaves(self) -> dict[str, bytes]:
        """Return each tensor's 16-byte digest, under its path."""
        return {path: torch_digest(path, tensor) for path, tensor in self.tensors.items()}

    def digest(self) -> bytes:
        """Return the 16-byte source digest."""
        return source_digest(self.leaves(), self.values)


class Source(ABC):
    """One memory source.

    ``name`` as in the design (``optimizer.momentum_buffer``, ``params[generator]``), ``kind`` its first word,
    ``visibility`` one of the constants of this module (what the kind says, if None), ``lifetime`` in words.
    """

    reason: str | None = None
    """Why nothing of it is captured; None where it is."""

    def __init__(self, name: str, kind: str, *, visibility: str | None = None, lifetime: str = "the run") -> None:
        self.name = name
        self.kind = kind
        self.visibility = visibility or VISIBILITY.get(kind, HIDDEN)
        self.lifetime = lifetime

    @abstractmethod
    def read(self) -> Reading:
        """Return the state as it is now. Tensors are live: digest or copy them before training goes on."""

    @abstractmethod
    def restore(self, reading: Reading) -> None:
        """Put back a state that :meth:`read` gave, in place, so that every alias sees it."""

    @property
    def captured(self) -> bool:
        """Whether anchors hold it."""
        return self.reason is None

    def half_life(self) -> float | None:
        """Return the half-life in steps where one follows from the hyper-parameters, else None."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return the census entry.

        Its members are name, kind, lifetime (words), half_life (steps or null), visibility, captured (whether anchors
        hold it) and reason (why not, or null).
        """
        half_life = self.half_life()
        lifetime = self.lifetime if half_life is None else f"half-life {half_life:.3g} steps"
        return {
            "name": self.name,
            "kind": self.kind,
            "lifetime": lifetime,
            "half_life": half_life,
            "visibility": self.visibility,
            "captured": self.captured,
            "reason": self.reason,
        }


class UncapturedSource(Source):
    """State that was found and cannot be read: the census says so. Anchors hold nothing of it."""

    def __init__(self, name: str, kind: str, reason: str) -> None:
        super().__init__(name, kind)
        self.reason = reason

    def read(self) -> Reading:
        """Return nothing, always the same."""
        return Reading({})

    def restore(self, reading: Reading) -> None:
        """Leave the program's state as it is."""


def copy_into(targets: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], source: str) -> None:
    """Copy stored tensors into live ones of the same paths, shapes and dtypes.

    Raises
    ------
    MemauditError
        If paths, shapes or dtypes differ: the program builds something else than was recorded.
    """
    if targets.keys() != stored.keys():
        missing, extra = sorted(stored.keys() - targets.keys()), sorted(targets.keys() - stored.keys())
        raise MemauditError(
            f"the program's {source} has other tensors than the anchor",
            where=source,
            why=f"only in the anchor: {missing[:5]}; only in the program: {extra[:5]}",
            next_step="replay the program and arguments that were recorded",
        )
    met: dict[int, str] = {}
    with torch.no_grad():
        for path, tensor in targets.items():
            value = stored[path]
            first = met.setdefault(id(tensor), path)
            if first != path and torch_digest("", stored[first]) != torch_digest("", value):
                raise MemauditError(
                    "one tensor of the program was two in the anchor",
                    where=f"{source}/{first} and {path}",
                    next_step="replay the program and arguments that were recorded",
                )
            if tensor.shape != value.shape or tensor.dtype != value.dtype:
                raise MemauditError(
                    f"a tensor has another shape or dtype than in the anchor ({tuple(tensor.shape)} {tensor.dtype}, "
                    f"recorded {tuple(value.shape)} {value.dtype})",
                    where=f"{source}/{path}",
                    next_step="replay the program and arguments that were recorded",
                )
            tensor.copy_(value)
