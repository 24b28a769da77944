"""Multisets of windows of batches: which samples came when, to some batches, without telling their order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from auditor.artifact.digest import array_digest, digest_text

MIN_BATCHES = 16
MAX_WINDOWS = 64


def multiset(ids: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Return the digest of sample ids, whatever their order: that of the sorted array, named ``ids``."""
    return digest_text(array_digest("ids", np.sort(ids)))


def window_batches(batches: int) -> int:
    """Return how many batches make a window: the least power of two from 16 on that gives at most 64 windows."""
    width = MIN_BATCHES
    while -(-batches // width) > MAX_WINDOWS:
        width *= 2
    return width


def window_multisets(ids: np.ndarray[Any, np.dtype[np.int64]], per_batch: Sequence[int]) -> tuple[int, list[str]]:
    """Return the batches a window and the multiset digest of each window of a pass; the last may be shorter.

    Parameters
    ----------
    ids
        The sample ids of a pass as consumed, shape ``(samples,)``, int64.
    per_batch
        How many of them each batch had; they add up to ``samples``.

    Raises
    ------
    ValueError
        If they do not.
    """
    ends = np.cumsum(np.asarray(per_batch, dtype=np.int64))
    if (int(ends[-1]) if ends.size else 0) != ids.size:
        raise ValueError(f"{ids.size} ids in batches of {int(ends[-1]) if ends.size else 0} altogether")
    width = window_batches(len(per_batch))
    cuts = [0, *(int(ends[min(last, len(per_batch)) - 1]) for last in range(width, len(per_batch) + width, width))]
    return width, [multiset(ids[start:end]) for start, end in pairwise(cuts)]
