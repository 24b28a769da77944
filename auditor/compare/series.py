"""Long series made short, with their extremes kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[int, float]


def decimate(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most about `limit` of the points, in order: the first, the last, and each bucket's lowest and highest.

    `points` are (step, value), finite and sorted by step. A spike of one step survives, which a mean or a stride
    would lose.
    """
    if len(points) <= limit:
        return list(points)
    buckets = max(1, (limit - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        if part:
            low = min(range(len(part)), key=lambda i: part[i][1])
            high = max(range(len(part)), key=lambda i: part[i][1])
            kept.extend(part[i] for i in sorted({low, high}))
    kept.append(points[-1])
    return kept


def finite(points: Sequence[Point]) -> list[Point]:
    """The points whose value is a finite number."""
    return [point for point in points if math.isfinite(point[1])]
