"""Long series made short, with their extremes kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Point = tuple[int, float]


def kept(values: Sequence[float] | np.ndarray[Any, Any], limit: int) -> list[int]:
    """The places of at most about `limit` of the values, in order: first, last, and each bucket's lowest and highest.

    A spike of one step survives, which a mean or a stride would lose. Values are finite.
    """
    if len(values) <= limit:
        return list(range(len(values)))
    array = np.asarray(values, dtype=np.float64)
    buckets = max(1, (limit - 2) // 2)
    edges = [1 + bucket * (len(array) - 2) // buckets for bucket in range(buckets + 1)]
    places = {0, len(array) - 1}
    for begin, end in itertools.pairwise(edges):
        if begin < end:
            places |= {begin + int(array[begin:end].argmin()), begin + int(array[begin:end].argmax())}
    return sorted(places)


def decimate(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most about `limit` of the points, (step, finite value), sorted by step; extremes are kept (:func:`kept`)."""
    return [points[place] for place in kept([value for _, value in points], limit)]


def finite(points: Sequence[Point]) -> list[Point]:
    """The points whose value is a finite number."""
    return [point for point in points if math.isfinite(point[1])]
