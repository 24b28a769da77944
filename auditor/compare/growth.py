"""How a difference grows: the losses step by step, and the state in the anchors that both runs have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.artifact.canonical import encode_float
from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.causal_order import STATE
from auditor.compare.series import kept
from auditor.compare.walk import Walk

MOST_ANCHORS = 10
"""Pairs of anchors that are read: the first ones, ever wider apart, and the last."""
MOST_LOSSES = 400


@dataclass(frozen=True)
class GrowthPoint:
    """How far one source is apart after a step."""

    step: int
    source: str
    relative: float | None
    """Norm of the difference over the norm of A's; None where it is no finite number."""
    largest: float | None
    """The largest absolute difference of two elements."""
    differing: int
    elements: int
    """Of the tensors that differ."""


@dataclass(frozen=True)
class Growth:
    """A difference over time."""

    losses: tuple[tuple[int, float, float], ...]
    """Step, A's and B's loss, where both gave one, from the parting on; long series are thinned, extremes kept."""
    points: tuple[GrowthPoint, ...]
    """By source, then by step."""

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in ``diff-1``."""
        return {
            "loss": [{"step": step, "a": encode_float(a), "b": encode_float(b)} for step, a, b in self.losses],
            "sources": [
                {
                    "step": point.step,
                    "source": point.source,
                    "relative": None if point.relative is None else encode_float(point.relative),
                    "largest": None if point.largest is None else encode_float(point.largest),
                    "differing": point.differing,
                    "elements": point.elements,
                }
                for point in self.points
            ],
        }


def growth_of(walk: Walk, anchors: AnchorPairs) -> Growth:
    """Measure how far both runs are apart after they parted."""
    first = walk.first
    if first is None:
        return Growth((), ())
    losses = _losses(walk)
    names = [each.name for each in walk.sorted() if each.kind in STATE]
    later = [step for step in anchors.pairs if step >= first.step]
    points = []
    for pair in anchors.spread(later, MOST_ANCHORS):
        for name in names:
            found = anchors.compare(pair, name) if pair.differs(name) else None
            if found is not None and found.tensors:
                points.append(
                    GrowthPoint(
                        pair.step,
                        name,
                        found.relative,
                        found.largest,
                        sum(each.differing or 0 for each in found.tensors),
                        sum(each.elements for each in found.tensors),
                    )
                )
    points.sort(key=lambda point: (names.index(point.source), point.step))
    return Growth(losses, tuple(points))


def _losses(walk: Walk) -> tuple[tuple[int, float, float], ...]:
    """Return both losses where one was given, thinned by the size of their difference."""
    steps, a, b = (np.asarray(each) for each in (walk.losses.steps, walk.losses.a, walk.losses.b))
    given = ~(np.isnan(a) & np.isnan(b))
    steps, a, b = steps[given], a[given], b[given]
    with np.errstate(invalid="ignore"):
        gap = np.abs(b - a)
    places = kept(np.where(np.isfinite(gap), gap, 0.0), MOST_LOSSES)
    return tuple((int(steps[at]), float(a[at]), float(b[at])) for at in places)
