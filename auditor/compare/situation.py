"""All that is known of how two runs part: what the detectors of causes look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from auditor.compare.anchor_pairs import AnchorPair, AnchorPairs
from auditor.compare.beside import DATA, Row
from auditor.compare.causal_order import COMPUTED, IDS, LOSS, STATE, STREAM
from auditor.compare.order_difference import Orders
from auditor.compare.program_text import ProgramTexts
from auditor.compare.walk import Parting, Walk

CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"
CONFIDENCES = (CERTAIN, LIKELY, POSSIBLE)
"""``certain``: what was recorded shows it; ``likely``: it explains what was recorded, and little else does;
``possible``: nothing speaks against it."""

UNKNOWN_SAMPLES = "batches differ in content, and which samples they hold is not known"

NEAR = 20
"""Steps after a parting within which its size still tells rounding from a change."""
LOSS_ROUNDING = 1e-6
"""The same of losses: one number, which hides much of what parts beneath it."""
ROUNDING = 1e-5
"""Relative differences up to this, soon after a parting, are of the size that rounding makes in 32 bits."""


@dataclass(frozen=True)
class Cause:
    """One class of cause, with what speaks for it."""

    class_: str
    confidence: str
    evidence: tuple[str, ...]
    """Sentences; names in them are the submitters' own."""
    source: str | None = None
    """What parted by it first, and where."""
    step: int | None = None


@dataclass(frozen=True)
class Size:
    """How large the difference was, soon after it arose."""

    relative: float
    """Norm of the difference over the norm of A's."""
    step: int
    source: str
    """The source it was measured on in an anchor, or ``loss``."""

    def __str__(self) -> str:
        return f"{self.source} differs by {self.relative:.2g} of its size after step {self.step}"


@dataclass
class Situation:
    """Two walked traces and what stands beside them."""

    walk: Walk
    anchors: AnchorPairs
    rows: tuple[Row, ...]
    orders: Orders
    programs: ProgramTexts

    @cached_property
    def partings(self) -> list[Parting]:
        """Every parting, by step and in causal order."""
        return self.walk.sorted()

    @property
    def first(self) -> Parting | None:
        """The first parting in causal order.

        Other batches draw other numbers: where loaders are set up otherwise and the order parts, the streams that part
        in the same step followed.
        """
        found = next(iter(self.partings), None)
        order = self.walk.partings.get(IDS)
        if found is None or order is None or found.kind != "stream" or found.step != order.step:
            return found
        return order if self.other_loaders() else found

    def other_loaders(self) -> list[Row]:
        """Return what differs in how the loader was set up whose order parted, workers apart."""
        rows = [row for row in self.loader_rows() if " workers " not in row.name]
        return [row for row in rows if not row.name.endswith(" drop_last")] or rows

    def loader_rows(self) -> list[Row]:
        """Return what differs in the loader of the pass in which ids or content parted first; of all, if unknown."""
        parted = next(self.early("ids", "batch"), None)
        number = None if parted is None or parted.step < 1 else self._loader_at(parted.step)
        rows = [row for row in self.of_group(DATA) if row.name.startswith("loader")]
        name = "loader" if number == 1 else f"loader[{number}]"
        return rows if number is None else [row for row in rows if row.name.partition(" ")[0] == name]

    def _loader_at(self, step: int) -> int | None:
        """Return the number of the loader that gave the batches of a step in A."""
        places = self.walk.places[0]
        if step > len(places) or not places[step - 1]:
            return None
        events = [event for event in self.walk.a.history.timeline if event["event"] == "iter"]
        return next((event["loader"] for event in events if event["pass"] == places[step - 1]), None)

    def acts(self, stream: Parting) -> bool:
        """Say whether a stream can have made the training part.

        Python's and NumPy's reach it through what is consumed (ids, content), or through what the contract names.
        """
        if stream.name.split(".")[1].partition("[")[0] not in ("python", "numpy"):
            return True
        short = stream.name.removeprefix(STREAM)
        entries = [e for side in (self.walk.a, self.walk.b) for e in side.census["streams"] if e["name"] == short]
        return any(entry["consumers"] for entry in entries) or any(self.early("ids", "batch"))

    @cached_property
    def computed(self) -> Parting | None:
        """The first parting of something that a step computes, state before outcomes."""
        state = (each for each in self.partings if each.kind in STATE)
        return next(state, None) or next((each for each in self.partings if each.kind in COMPUTED), None)

    @cached_property
    def reached(self) -> int | None:
        """The step at which training parted: what comes later cannot have caused it. None where it did not."""
        return None if self.computed is None else self.computed.step

    def early(self, *kinds: str) -> Iterator[Parting]:
        """Yield the partings of some kinds that came no later than training parted."""
        for each in self.partings:
            if each.kind in kinds and (self.reached is None or each.step <= self.reached):
                yield each

    def given(self) -> list[str]:
        """Return what parted no later than training and was given to the step, not computed by it."""
        kinds = ("stream", "order", "ids", "batch", "augment", "scheduler", "scaler", "hyper")
        return [each.name for each in self.early(*kinds) if each.kind != "stream" or self.acts(each)]

    def of_group(self, group: str) -> list[Row]:
        """Return what differs in one group beside the steps, and did where the runs parted."""
        parted = next((each.step for each in self.partings), 0)
        return [row for row in self.rows if row.group == group and row.since <= parted]

    def between_steps(self, parted: Parting) -> AnchorPair | None:
        """Return the anchors right before the step at which something parted, if they differ in it already.

        The line of the step before them agrees, so it changed after that line was written.
        """
        pair = self.anchors.pairs.get(parted.step - 1)
        return pair if pair is not None and parted.at == "step" and pair.differs(parted.name) else None

    @cached_property
    def size(self) -> Size | None:
        """How large the difference was soon after training parted; None where nothing near enough says."""
        parted = self.computed
        if parted is None:
            return None
        pair = self.anchors.from_parting(parted) if parted.kind in STATE else None
        compared = None if pair is None else self.anchors.compare(pair, parted.name)
        relative = None if compared is None else compared.relative
        # A difference grows: small is small however late it is measured, large only tells soon.
        if pair is not None and relative is not None and (pair.step <= parted.step + NEAR or relative <= ROUNDING):
            return Size(relative, pair.step, parted.name)
        return self._loss_size(parted.step)

    def _loss_size(self, step: int) -> Size | None:
        for at, a, b in self.walk.losses:
            if step <= at <= step + NEAR and a != b and math.isfinite(a) and math.isfinite(b):
                return Size(abs(a - b) / max(abs(a), abs(b)), at, LOSS)
        return None

    @property
    def is_rounding(self) -> bool | None:
        """Whether the difference was of the size of rounding where it arose; None where nothing says."""
        if self.size is None:
            return None
        return self.size.relative <= (LOSS_ROUNDING if self.size.source == LOSS else ROUNDING)


def told_pair(a: Any, b: Any) -> tuple[str, str]:
    """Return two recorded values in words, numbers as short as they still differ."""
    if isinstance(a, float) and isinstance(b, float) and f"{a:.6g}" != f"{b:.6g}":
        return f"{a:.6g}", f"{b:.6g}"
    return told(a), told(b)


def told(value: Any) -> str:
    """Return a recorded value in words."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(told, value)) or "nothing"
    return str(value)


def pair_of(row: Row) -> str:
    """Return a row in words: ``batch_size: 8 in A, 16 in B``."""
    if row.a is None or row.b is None:
        return f"{row.name}: only in {'A' if row.b is None else 'B'}"
    a, b = told_pair(row.a, row.b)
    return f"{row.name}: {a} in A, {b} in B"
