"""Every class of cause, in words, and the detectors in the order in which equally sure causes are told."""

from __future__ import annotations

from dataclasses import replace

from auditor.compare.causal_order import rank
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
from auditor.compare.situation import CERTAIN, CONFIDENCES, LIKELY, Cause, Situation

_DETECTORS = (corruption, state, augmentation, data, order, stream, hyper, numerics, program, nondeterminism)

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
    """Return every class of cause that fits: the surest first, then those of what parted first; none for equal runs."""
    first = situation.first
    found = [cause for detector in _DETECTORS for cause in detector.find(situation)]
    if any(state.cuts(situation)):
        # What differs right after a cut differs by it, unless that is shown not to be so.
        found = [
            each if each.class_ == "state" or each.confidence != CERTAIN else replace(each, confidence=LIKELY)
            for each in found
        ]

    def key(cause: Cause) -> tuple[int, bool, int, int]:
        kind = "end" if cause.source is None else situation.walk.a.kind_of(cause.source)
        later = first is not None and cause.source not in (None, first.name)
        return CONFIDENCES.index(cause.confidence), later, cause.step or 0, rank(kind)

    return sorted(found, key=key)
