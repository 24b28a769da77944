"""The samples themselves differ: their number, or what some of them hold."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.situation import CERTAIN, LIKELY, POSSIBLE, UNKNOWN_SAMPLES, Cause, Situation, pair_of

_SHOWN = 10
_RARE, _HALF = 1e-3, 0.5


def find(situation: Situation) -> Iterator[Cause]:
    """Yield a data set of another length, and samples whose content differs."""
    lengths = [row for row in situation.loader_rows() if row.name.endswith(" length")]
    parted = next(situation.early("ids", "batch"), None)
    if lengths and parted is not None:
        yield Cause("data", CERTAIN, tuple(map(pair_of, lengths)), parted.name, parted.step)
    batch = next(situation.early("batch"), None)
    if batch is None:
        return
    content = situation.orders.content()
    if content is not None and content.samples:
        of = content.differing + content.equal
        samples = ", ".join(map(str, content.samples[:_SHOWN]))
        more = f" and {len(content.samples) - _SHOWN} more" if len(content.samples) > _SHOWN else ""
        evidence = (
            f"{content.differing} of {of} batches with equal sample ids differ in content",
            f"all that differ hold one of these samples, and no equal batch does: {samples}{more}",
            f"by chance {content.by_chance:.2g} samples would look like that",
        )
        # Of one pass every sample of a differing batch looks like that.
        sure = POSSIBLE if content.by_chance >= _HALF * len(content.samples) else LIKELY
        sure = CERTAIN if content.by_chance < _RARE else sure
        yield Cause("data", sure, evidence, batch.name, batch.step)
    elif content is not None and not content.equal:
        why = (
            f"all {content.differing} batches with equal sample ids differ in content: samples or what is made of them"
        )
        yield Cause("data", POSSIBLE, (why,), batch.name, batch.step)
    elif content is None and not any(situation.early("ids")) and None not in batch.digests[0]:
        yield Cause("data", POSSIBLE, (UNKNOWN_SAMPLES,), batch.name, batch.step)
