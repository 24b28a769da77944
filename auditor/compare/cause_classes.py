"""Every class of cause, in words, and the detectors in the order in which equally sure causes are told."""

from __future__ import annotations

from auditor.compare.causes import (
    augmentation,
    corruption,
    data,
    hyper,
    nondeterminism,
    numerics,
    order,
    program,
    state,
    stream,
)
from auditor.compare.situation import CONFIDENCES, Cause, Situation

_DETECTORS = (data, order, augmentation, stream, state, hyper, numerics, nondeterminism, program)

CLASSES = {
    "corruption": "a file is damaged",
    "data": "the data differ",
    "order": "the data order differs",
    "augmentation": "augmentation differs",
    "stream-shifted": "a random stream is shifted",
    "stream-reseeded": "a random stream was seeded otherwise",
    "stream-consumed": "a random stream is consumed by something new",
    "hyper": "a hyper-parameter or schedule differs",
    "state": "state was lost, edited, not restored or not updated",
    "numerics": "the numerics differ: threads, instruction set, kernels or libraries",
    "nondeterminism": "a kernel is not deterministic",
    "program": "the program was changed",
}
"""Every class, in words."""


def causes_of(situation: Situation) -> list[Cause]:
    """Return every class of cause that fits, the surest first; nothing for runs that do not part."""
    found = [cause for detector in _DETECTORS for cause in detector.find(situation)]
    # Looked for last, since what the others read may turn out to be damaged, and told first.
    found = [*corruption.find(situation), *found]
    return sorted(found, key=lambda cause: CONFIDENCES.index(cause.confidence))
