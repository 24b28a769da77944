"""The same samples were made into other inputs: another strength, other workers, another stage of a policy."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.situation import CERTAIN, LIKELY, POSSIBLE, UNKNOWN_SAMPLES, Cause, Situation, pair_of


def find(situation: Situation) -> Iterator[Cause]:
    """Yield other workers, a watched policy that parted, and content that differs where samples and streams agree."""
    streams = list(situation.early("stream"))
    batch = next(situation.early("batch"), None)
    workers = [row for row in situation.loader_rows() if row.name.endswith(" workers count")]
    if workers and (batch is not None or streams):
        parted = streams[0] if batch is None or (streams and streams[0].step <= batch.step) else batch
        evidence = (*map(pair_of, workers), "what a data set draws comes from the streams of its workers")
        yield Cause("augmentation", CERTAIN, evidence, parted.name, parted.step)
    for policy in situation.early("augment"):
        yield Cause("augmentation", CERTAIN, (f"{policy.name} differs",), policy.name, policy.step)
    if batch is None or None in batch.digests[0] or workers or any(each.step <= batch.step for each in streams):
        return
    content = situation.orders.content()
    if content is None and not any(situation.early("ids")):
        yield Cause("augmentation", POSSIBLE, (UNKNOWN_SAMPLES,), batch.name, batch.step)
    elif content is not None:
        of = content.differing + content.equal
        told = [
            f"{content.differing} of {of} batches with equal sample ids differ in content, from step {batch.step} on",
            "every stream agrees until then",
        ]
        # Some batches and not others, and no samples that tell them apart: drawn, not stored.
        drawn = bool(content.equal) and not content.samples
        told += ["no samples tell the batches that differ from the others"] if drawn else []
        yield Cause("augmentation", LIKELY if drawn else POSSIBLE, tuple(told), batch.name, batch.step)
