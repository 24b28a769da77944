"""The samples themselves differ: their number, or what some of them hold."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.beside import DATA
from auditor.compare.situation import CERTAIN, POSSIBLE, UNKNOWN_SAMPLES, Cause, Situation, pair_of


def find(situation: Situation) -> Iterator[Cause]:
    """Yield a data set of another length, and samples whose content differs."""
    lengths = [row for row in situation.of_group(DATA) if row.name.endswith(" length")]
    parted = next(situation.early("ids", "batch"), None)
    if lengths and parted is not None:
        yield Cause("data", CERTAIN, tuple(map(pair_of, lengths)), parted.name, parted.step)
    batch = next(situation.early("batch"), None)
    if batch is None:
        return
    content = situation.orders.content()
    if content is not None and content.samples:
        of = content.differing + content.equal
        samples = ", ".join(map(str, content.samples))
        evidence = (
            f"{content.differing} of {of} batches with equal sample ids differ in content",
            f"all that differ hold one of these samples, and no equal batch does: {samples}",
        )
        yield Cause("data", CERTAIN, evidence, batch.name, batch.step)
    elif content is None and not any(situation.early("ids")) and None not in batch.digests[0]:
        yield Cause("data", POSSIBLE, (UNKNOWN_SAMPLES,), batch.name, batch.step)
