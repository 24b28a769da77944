"""What a step hands on was lost, put back wrongly, edited, or not brought up to date."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.beside import NUMERICS
from auditor.compare.causal_order import STATE
from auditor.compare.causes.numerics import is_kernel_choice
from auditor.compare.situation import CERTAIN, LIKELY, POSSIBLE, Cause, Situation, told_pair
from auditor.compare.walk import Parting
from auditor.findings.formats.text import count

_MEASURED = frozenset({"loss", "outcome"})
_TOLD = 8
ALIGNED = 0.3
"""Cosine from which a direction in thousands of dimensions is no accident."""


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause if the runs part right after a cut, or in their state while all given to the step agrees."""
    cut = list(cuts(situation))
    if cut:
        first = situation.partings[0]
        # What was restored stands in the anchors right after the cut; without them another setting may have done it.
        changed = any(row.since == first.step for row in situation.rows)
        shown = situation.between_steps(first) is not None or any(_returned(situation, first))
        confidence = CERTAIN if shown else POSSIBLE if changed else LIKELY
        yield Cause("state", confidence, tuple(cut), first.name, first.step)
        return
    parted = situation.computed
    if parted is None or parted.kind not in STATE or situation.given():
        return
    sure = [
        *_between(situation, parted),
        *_counters(situation, parted),
        *_returned(situation, parted),
    ]
    stuck = list(_stuck(parted))
    if sure or stuck:
        yield Cause("state", CERTAIN if sure else LIKELY, (*sure, *stuck), parted.name, parted.step)
        return
    if parted.at == "start":
        yield Cause("state", POSSIBLE, ("it differs before the first step",), parted.name, parted.step)
        return
    slots = any(kind == "optimizer" and name in situation.walk.shared for name, kind in situation.walk.a.kinds.items())
    kernels = situation.of_group(NUMERICS) or any(is_kernel_choice(row.name) for row in situation.rows)
    if parted.kind == "params" and slots:
        evidence = (
            f"the parameters part at step {parted.step} and the optimizer's state does not: something else changed them"
        )
        confidence = POSSIBLE if kernels or parted.schedule else LIKELY
        yield Cause("state", confidence, (evidence, *_where(situation, parted)), parted.name, parted.step)
    elif parted.kind in ("queue", "buffers", "other"):
        evidence = f"{parted.name} parts at step {parted.step}, and all that it is computed from agrees"
        yield Cause("state", LIKELY, (evidence, *_integers(situation, parted)), parted.name, parted.step)
    elif parted.kind == "optimizer" and parted.step > 1 and situation.is_rounding is False:
        lacking = list(_lacking(situation, parted))
        evidence = f"{parted.name} parts at step {parted.step}, after {count(situation.walk.equal, 'equal step')}"
        size = () if situation.size is None else (f"{situation.size}: more than rounding",)
        yield Cause("state", LIKELY if lacking else POSSIBLE, (evidence, *size, *lacking), parted.name, parted.step)


def _lacking(situation: Situation, parted: Parting) -> Iterator[str]:
    """Say if what one run's buffer lacks points along the buffer that both had: it was dropped, and filled anew."""
    before, after = situation.anchors.last_before(parted.step), situation.anchors.from_parting(parted)
    if before is None or after is None or before.differs(parted.name) is not False:
        return
    cosine = situation.anchors.alignment(before, after, parted.name)
    if cosine is not None and abs(cosine) >= ALIGNED:
        label = "B" if cosine > 0 else "A"
        yield (
            f"what {label} lacks of {parted.name} after step {after.step} points along what both had after step "
            f"{before.step} (cosine {abs(cosine):.2f})"
        )


def cuts(situation: Situation) -> Iterator[str]:
    """Say if a run was cut right before the step at which the first thing parted, and what did not come back."""
    first = situation.first
    for label, made in zip(("A", "B"), situation.walk.cuts, strict=True):
        for step, cut in made:
            if first is not None and step == first.step:
                how = "from the program's own checkpoint" if cut["from"] is None else f"from {cut['from']}"
                lost = [each.name for each in situation.partings if each.step == step and each.kind not in _MEASURED]
                yield f"{label} was cut and went on {how} right before step {step}"
                yield f"what did not come back, or followed from it at once: {', '.join(lost[:_TOLD])}"


def _between(situation: Situation, parted: Parting) -> Iterator[str]:
    pair = situation.between_steps(parted)
    if pair is not None:
        yield f"{parted.name} agrees when step {pair.step} closes and differs before step {parted.step} begins"


def _counters(situation: Situation, parted: Parting) -> Iterator[str]:
    for each in situation.partings:
        # Counts that differ from the first step on were never equal: another number of updates a step.
        if each.step == parted.step > 1 and each.kind == "optimizer" and each.name.endswith(".step"):
            pair = situation.anchors.from_parting(each)
            found = None if pair is None else situation.anchors.compare(pair, each.name)
            values = found.tensors[0].values if found is not None and found.tensors else None
            shown = ""
            if pair is not None and values is not None:
                a, b = told_pair(*values)
                shown = f": after step {pair.step}, {a} in A and {b} in B"
            yield f"{each.name}, the count of updates, differs{shown}"


def _returned(situation: Situation, parted: Parting) -> Iterator[str]:
    """Say if a source came back to what it was before the first step."""
    pair = situation.anchors.pairs.get(0)
    if pair is None or not parted.before:
        return
    for side, (label, anchor) in enumerate((("A", pair.a), ("B", pair.b))):
        first = anchor.event["sources"].get(parted.name)
        if first is not None and parted.digests[0][side] == first != parted.before[-1][side]:
            yield f"in {label}, {parted.name} is after step {parted.step} what it was before the first step"


def _stuck(parted: Parting) -> Iterator[str]:
    moved = parted.moved
    if moved[0] != moved[1]:
        who, other = ("A", "B") if moved[0] else ("B", "A")
        yield f"at step {parted.step}, {parted.name} changed in {who} and not in {other}"


def _integers(situation: Situation, parted: Parting) -> Iterator[str]:
    """Say which counters and pointers differ in the next anchors."""
    pair = situation.anchors.from_parting(parted)
    found = None if pair is None else situation.anchors.compare(pair, parted.name)
    for each in () if found is None else found.tensors:
        if each.is_integer and each.values is not None and pair is not None:
            a, b = told_pair(*each.values)
            yield f"{each.name}, after step {pair.step}: {a} in A, {b} in B"


def _where(situation: Situation, parted: Parting) -> Iterator[str]:
    pair = situation.anchors.pairs.get(parted.step)
    found = None if pair is None else situation.anchors.compare(pair, parted.name)
    if found is not None and found.tensors:
        differing = sum(each.differing or 0 for each in found.tensors)
        ulps = "" if found.ulps is None else f", by {found.ulps} units in the last place at most"
        of = sum(each.elements for each in found.tensors)
        yield f"in {differing} of {of} elements, first in {found.tensors[0].name}{ulps}"
