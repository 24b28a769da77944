"""The samples come in another order, more or less often, or in other batches."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.order_difference import OrderDifference
from auditor.compare.situation import CERTAIN, Cause, Situation, pair_of


def find(situation: Situation) -> Iterator[Cause]:
    """Yield where ids differ, unless that follows from a stream and the loaders are set up alike."""
    for sampler in situation.early("order"):
        yield Cause("order", CERTAIN, (f"the state of {sampler.name} differs",), sampler.name, sampler.step)
    parted = next(situation.early("ids"), None)
    if parted is None:
        return
    rows = situation.other_loaders()
    by_stream = any(each.step <= parted.step for each in situation.early("stream"))
    first = situation.orders.first_difference()
    if by_stream and not rows and not (first is not None and any(first.twice)):
        return
    evidence = [pair_of(row) for row in rows]
    if first is not None:
        evidence += _told(first)
    yield Cause("order", CERTAIN, tuple(evidence) or ("sample ids differ",), parted.name, parted.step)


def _told(first: OrderDifference) -> Iterator[str]:
    a, b = (f"sample {each}" if each is not None else "the end of the pass" for each in first.ids)
    yield f"pass {first.pass_}, place {first.position + 1}: {a} in A, {b} in B"
    if first.same_multiset:
        yield f"pass {first.pass_} holds the same samples in both, in another order"
    for label, more in zip(("A", "B"), first.twice, strict=True):
        if more:
            yield f"pass {first.pass_}: more often in {label}: {', '.join(map(str, more))}"
