"""Cutting the sample ids of passes into the steps that consumed them, to compare each step with its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.artifact.digest import array_digest, digest_text
from auditor.artifact.order_file import Ids

SEARCHED_IDS = 4096
"""Where the batch size is unknown, a step's ids are looked for up to this many."""

Event = dict[str, Any]


def batch_size_of(event: Event, ids: Ids) -> int | None:
    """Return the batch size that cuts a pass's ids exactly, by its ``pass`` event; None where it is not known."""
    policy = event["policy"]
    if policy is None or policy["batch_size"] is None or policy["kind"] == "batches":
        return None
    if event.get("resumed", {}).get("repeated") != 0 and "resumed" in event:
        return None  # a short batch may stand where the program began its loader anew
    size, batches = int(policy["batch_size"]), int(event["batches"])
    # Fewer ids than so many batches hold, or more: then not every batch but the last has this size.
    fits = size * (batches - 1) < ids.size <= size * batches or (ids.size == 0 and batches == 0)
    return size if fits else None


@dataclass(frozen=True)
class Kept:
    """The sample ids that were kept of one pass."""

    ids: Ids
    """In the order consumed, shape ``(samples,)``."""
    size: int | None = None
    """The batch size, None where it is unknown: then a step's ids are found by its digest."""
    batches: int | None = None
    """How many batches the ids are of, None where it is unknown; later ones were not kept."""

    @classmethod
    def of(cls, event: Event, ids: Ids) -> Kept:
        """Return what a ``pass`` event and its order file keep."""
        return cls(ids, batch_size_of(event, ids), event["batches"])


class OrderWalk:
    """Goes through the steps with the ids of every pass beside it.

    ``kept`` gives the ids by pass; passes whose ids are unknown are left out.
    """

    def __init__(self, kept: Mapping[int, Kept]) -> None:
        self.kept = kept
        self.used: dict[int, int] = {}
        """How many ids of each pass are consumed so far."""
        self.lost: set[int] = set()
        """The passes in which it is no longer known how many."""
        self.ends: dict[int, dict[int, int]] = {}
        """How many ids were consumed when a pass reached a position, where a step's digest confirmed it."""

    def advance(self, step: Event) -> bool | None:
        """Return whether a step's ids are those of its passes; None where that cannot be told."""
        consumed = [tuple(each) for each in step.get("also", ())]
        if step["pass"] is not None:
            consumed.append((step["pass"], step["position"]))
        consumed.sort(key=lambda each: each[0])
        begins = {number: self.used.get(number, 0) for number, _ in consumed}
        # By position where the batch size is known; these stay right whatever the steps say.
        for number, position in consumed:
            each = self.kept.get(number)
            if each is not None and each.size is not None and position is not None:
                self.used[number] = min(each.size * position, int(each.ids.size))
        sought = [number for number, _ in consumed if number in self.kept and self.kept[number].size is None]
        known = all(self._has(number, position) for number, position in consumed)
        if step["ids"] is None or "by_hand" in step or not consumed or not known:
            self.lost.update(sought)
            return None
        if len(sought) > 1 or self.lost.intersection(sought):
            self.lost.update(sought)
            return None
        order = [number for number, _ in consumed]
        if sought:
            return self._search(step, order, begins, sought[0])
        return self._note(step, self._fits(step["ids"], order, begins, self.used))

    def _has(self, number: int, position: int | None) -> bool:
        if number not in self.kept or position is None:
            return False
        batches = self.kept[number].batches
        return batches is None or position <= batches

    def _search(self, step: Event, order: list[int], begins: dict[int, int], sought: int) -> bool | None:
        size = int(self.kept[sought].ids.size)
        for end in range(begins[sought], min(size, begins[sought] + SEARCHED_IDS) + 1):
            self.used[sought] = end
            if self._fits(step["ids"], order, begins, self.used):
                return self._note(step, True)
        self.used[sought] = begins[sought]
        self.lost.add(sought)
        return False if size - begins[sought] <= SEARCHED_IDS else None

    def _note(self, step: Event, found: bool) -> bool:
        if found and step["pass"] is not None:
            self.ends.setdefault(step["pass"], {})[step["position"]] = self.used[step["pass"]]
        return found

    def _fits(self, digest: str, order: list[int], begins: dict[int, int], ends: dict[int, int]) -> bool:
        parts = [self.kept[number].ids[begins[number] : ends[number]].astype(np.int64) for number in order]
        return digest_text(array_digest("ids", np.concatenate(parts))) == digest
