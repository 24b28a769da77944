"""Distances between two classifiers' probabilities on one probe.

Both are the observables of the back-flow witness of "Process-Tensor Tomography of SGD" (arXiv 2601.16563). They are
averaged over the probe's samples, lie in [0, 1] and are zero for equal arguments. A distance is never negative, so its
mean over units is positive whenever anything at all differs: it describes, and is never tested against zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.errors import MemauditError

Probabilities = NDArray[np.float64]


def _pair(p: Probabilities, q: Probabilities) -> tuple[Probabilities, Probabilities]:
    """Both arrays as float64 of one shape `[samples, classes]`, or a refusal."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.ndim != 2 or p.shape != q.shape or p.shape[0] == 0 or p.shape[1] == 0:
        raise MemauditError(
            f"two predictions cannot be compared: shapes {list(p.shape)} and {list(q.shape)}",
            why="a distance needs two arrays of one shape [samples, classes] that are not empty",
            next_step="measure both arms on the same probe",
        )
    return p, q


def total_variation(p: Probabilities, q: Probabilities) -> float:
    """Mean total variation, ½‖p - q‖₁ for each sample.

    `p` and `q` are probabilities of shape `[samples, classes]`. The result is NaN where either holds a NaN: a network
    that diverged has no distance, and whoever asked has to say so. Raises `MemauditError` for unequal shapes.
    """
    p, q = _pair(p, q)
    return float(np.mean(0.5 * np.abs(p - q).sum(axis=1)))


def disagreement(p: Probabilities, q: Probabilities) -> float:
    """Share of samples whose most probable class differs ("churn").

    `p` and `q` have shape `[samples, classes]`. Of classes that are equally probable the first counts, as
    `numpy.argmax` has it. NaN where either holds a NaN. Raises `MemauditError` for unequal shapes.
    """
    p, q = _pair(p, q)
    if np.isnan(p).any() or np.isnan(q).any():
        return float("nan")
    return float(np.mean(p.argmax(axis=1) != q.argmax(axis=1)))


DISTANCES = {"tv": total_variation, "disagreement": disagreement}
