"""The anchors that both runs have at the same step: what lets a difference be measured, and not only seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from auditor.artifact import run_directory
from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.causal_order import STREAM
from auditor.compare.side import Side
from auditor.compare.tensors import SourceDifference, alignment, source_difference
from auditor.compare.walk import Parting
from auditor.errors import MemauditError
from auditor.evidence.run_view import AnchorView

Loaded = tuple[dict[str, StoredTensor], dict[str, Any]]


@dataclass(frozen=True)
class AnchorPair:
    """A's and B's anchor after the same step."""

    step: int
    a: AnchorView
    b: AnchorView

    def differs(self, name: str) -> bool | None:
        """Say by the digests whether a source or stream differs here; None where one of them lacks it."""
        group, key = ("streams", name.removeprefix(STREAM)) if name.startswith(STREAM) else ("sources", name)
        one, two = self.a.event[group].get(key), self.b.event[group].get(key)
        return None if one is None or two is None else bool(one != two)


class AnchorPairs:
    """Every pair, by step; files are read when they are asked for, and only if they are what the trace says."""

    def __init__(self, a: Side, b: Side) -> None:
        self._sides = (a, b)
        self._loaded: dict[tuple[int, str], Loaded | None] = {}
        self._compared: dict[tuple[int, str], SourceDifference | None] = {}

    @cached_property
    def pairs(self) -> dict[int, AnchorPair]:
        """The pairs by step; where several stand at a step, those taken at the same place."""
        found: dict[int, AnchorPair] = {}
        b = self._sides[1].anchors
        for one in self._sides[0].anchors:
            others = [two for two in b if two.step == one.step]
            same = next((two for two in others if two.event["at"] == one.event["at"]), None)
            if same is not None or (others and one.step not in found):
                found[one.step] = AnchorPair(one.step, one, same or others[0])
        return dict(sorted(found.items()))

    def last_before(self, step: int) -> AnchorPair | None:
        """Return the last pair after an earlier step than this."""
        return next((pair for pair in reversed(self.pairs.values()) if pair.step < step), None)

    def from_parting(self, parted: Parting) -> AnchorPair | None:
        """Return the first pair at which what parted differs: the one right before that step, if it does there."""
        return next(
            (pair for pair in self.pairs.values() if pair.step >= parted.step - 1 and pair.differs(parted.name)), None
        )

    def compare(self, pair: AnchorPair, name: str) -> SourceDifference | None:
        """Compare one source or stream in both anchors; None where files are damaged."""
        key = (pair.step, name)
        if key not in self._compared:
            one, two = self.content(0, pair.a, name), self.content(1, pair.b, name)
            self._compared[key] = (
                None
                if one is None or two is None
                else source_difference(name, pair.step, (one[0], two[0]), (one[1], two[1]))
            )
        return self._compared[key]

    def alignment(self, before: AnchorPair, after: AnchorPair, name: str) -> float | None:
        """Return the cosine between what B lacks of A in one pair and what A held in an earlier one."""
        earlier, a = self.content(0, before.a, name), self.content(0, after.a, name)
        b = self.content(1, after.b, name)
        return None if earlier is None or a is None or b is None else alignment(earlier[0], a[0], b[0])

    def content(self, side: int, anchor: AnchorView, name: str) -> tuple[dict[str, StoredTensor], Any] | None:
        """Return a source's or stream's tensors by their full names, and its nested value; None where damaged."""
        loaded = self._load(side, anchor)
        if loaded is None:
            return None
        tensors, values = loaded
        group, key = ("streams", name.removeprefix(STREAM)) if name.startswith(STREAM) else ("sources", name)
        own = {full: tensor for full, tensor in tensors.items() if full.partition("/")[0] == name}
        return own, values[group].get(key)

    def _load(self, side: int, anchor: AnchorView) -> Loaded | None:
        key = (side, anchor.path)
        if key not in self._loaded:
            self._loaded[key] = self._read(self._sides[side], anchor)
        return self._loaded[key]

    @staticmethod
    def _read(side: Side, anchor: AnchorView) -> Loaded | None:
        files = {f"{anchor.path}/{name}": sha256 for name, sha256 in anchor.event["files"].items()}
        # Every file is looked at, so that all damage is told.
        damaged = [name for name, sha256 in files.items() if not side.is_intact(name, sha256)]
        if damaged:
            return None
        try:
            tensors, values = anchor.tensors(), anchor.values()
        except MemauditError as error:
            side.damage[error.where or anchor.path] = error.what
            return None
        groups = [values.get(group) for group in ("sources", "streams")] if isinstance(values, dict) else [None]
        if not all(isinstance(group, dict) for group in groups):
            side.damage[f"{anchor.path}/{run_directory.VALUES}"] = "it is no anchor's values.json"
            return None
        return tensors, values

    def spread(self, steps: Iterable[int], most: int) -> list[AnchorPair]:
        """Return up to ``most`` of the pairs after these steps: the first, ever wider apart, and the last."""
        found = [self.pairs[step] for step in steps]
        if len(found) <= most:
            return found
        last = len(found) - 1
        chosen = {round(last ** (k / (most - 1))) for k in range(1, most)} | {0, last}
        return [found[position] for position in sorted(chosen)]
