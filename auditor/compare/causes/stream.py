"""A random stream is shifted, was seeded otherwise, or is drawn from by something that did not draw before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from auditor.artifact.digest import digest_text, source_digest
from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.beside import CONTRACT, PROGRAM
from auditor.compare.causal_order import STREAM
from auditor.compare.draws import SEARCHED_DRAWS, draws_between
from auditor.compare.generator_state import GeneratorState, read_state
from auditor.compare.later_digests import draws_to_digest
from auditor.compare.situation import CERTAIN, LIKELY, POSSIBLE, Cause, Situation, pair_of
from auditor.compare.walk import Parting
from auditor.evidence.run_view import AnchorView
from auditor.findings.formats.text import count

FARTHEST = 1 << 40
"""Draws that no training makes: states of a PCG always lie on one circle, and so far apart they were seeded."""
_TOLD = 3
"""Streams that are told of: what draws differently often draws from all of them."""
_NOT_RUNNING = digest_text(source_digest({}))
"""What stands for a loader worker that has given no batch."""


def find(situation: Situation) -> Iterator[Cause]:
    """Yield the causes of the first streams that parted no later than training did; equal classes are told together."""
    found = [_cause(situation, parted) for parted, _ in zip(situation.early("stream"), range(_TOLD), strict=False)]
    found = [_weighed(situation, each) for each in found]
    while found:
        first = found[0]
        alike = [each for each in found if (each.class_, each.confidence) == (first.class_, first.confidence)]
        found = [each for each in found if each not in alike]
        evidence = dict.fromkeys(
            line if line in first.evidence or (each.source or "") in line else f"{each.source}: {line}"
            for each in alike
            for line in each.evidence
        )
        yield Cause(first.class_, first.confidence, tuple(evidence), first.source, first.step)


def _weighed(situation: Situation, cause: Cause) -> Cause:
    """A stream that nothing of the training is known to draw from may have parted beside the cause."""
    if situation.computed is None or situation.acts(situation.walk.partings[cause.source or ""]):
        return cause
    evidence = (
        *cause.evidence,
        "nothing that was consumed by then differs, and the contract names nobody who draws from it",
    )
    return replace(cause, confidence=POSSIBLE, evidence=evidence)


def _cause(situation: Situation, parted: Parting) -> Cause:
    if parted.at == "start" or not any(a is not None or b is not None for a, b in parted.before):
        return _other_seed(situation, parted)
    return _by_draws(situation, parted)


def _by_draws(situation: Situation, parted: Parting) -> Cause:
    repeats = _repeats(situation, parted)
    if repeats is not None:
        return Cause("stream-reseeded", CERTAIN, (repeats,), parted.name, parted.step)
    counts = _counts(situation, parted)
    where = f"where the pass of step {parted.step} began" if parted.at == "pass" else f"during step {parted.step}"
    if parted.moved[0] != parted.moved[1] and situation.between_steps(parted) is None:
        who, other = ("A", "B") if parted.moved[0] else ("B", "A")
        evidence = [f"{where}, {who} drew from it and {other} did not", *counts[1]]
        return Cause("stream-consumed", CERTAIN, tuple(evidence), parted.name, parted.step)
    if counts[0] is not None:
        return Cause("stream-shifted", CERTAIN, tuple(counts[1]), parted.name, parted.step)
    return _by_anchor(situation, parted)


def _other_seed(situation: Situation, parted: Parting) -> Cause:
    rows = [row for row in situation.of_group(CONTRACT) if row.name == f"{parted.name} seeded_by"]
    rows += [row for row in situation.of_group(PROGRAM) if row.name == "seed"]
    if not rows and parted.at != "start":
        return _by_draws(situation, parted)
    if rows:
        return Cause("stream-reseeded", CERTAIN, tuple(map(pair_of, rows)), parted.name, parted.step)
    found = _by_anchor(situation, parted)
    evidence = ("it differs before the first step", *found.evidence)
    return Cause(found.class_, found.confidence, evidence, parted.name, parted.step)


def _repeats(situation: Situation, parted: Parting) -> str | None:
    """Return in words that one run's stream came back to where it had been, which the other's did not."""
    for label, other, side in (("A", "B", 0), ("B", "A", 1)):
        starts = situation.walk.starts[side].get(parted.name, [])
        mine = parted.digests[0][side]
        earlier = [step for step, digest in starts if digest == mine and step < parted.step]
        if not earlier and parted.before and _first_digest(situation, parted.name, side) == mine:
            earlier = [0]
        still = parted.before and parted.before[-1][side] == mine
        if earlier and mine not in (None, _NOT_RUNNING) and not still:
            then = f"where it stood before step {earlier[0]}" if earlier[0] else "where it stood before the first step"
            return f"before step {parted.step}, in {label} it is back {then}; in {other} it went on"
    return None


def _first_digest(situation: Situation, name: str, side: int) -> str | None:
    pair = situation.anchors.pairs.get(0)
    if pair is None:
        return None
    event = (pair.a, pair.b)[side].event
    found = event["streams"].get(name.removeprefix(STREAM))
    return None if found is None else str(found)


def _counts(situation: Situation, parted: Parting) -> tuple[int | None, list[str]]:
    """Return by how many draws B is ahead of A where they parted, and in words what each drew since both agreed."""
    pair = situation.anchors.last_before(parted.step)
    if parted.at == "step" and pair is None:
        return None, []
    if pair is None or pair.differs(parted.name) is not False:
        return None, []
    content = situation.anchors.content(0, pair.a, parted.name)
    if content is None:
        return None, []
    tensors = _below(parted.name, content[0])
    drawn = [None if digest is None else draws_to_digest(tensors, content[1], digest) for digest in parted.digests[0]]
    a, b = drawn
    if a is None or b is None:
        return None, []
    since = f"since the anchor after step {pair.step}, A made {count(a, 'draw')} and B {b}"
    return b - a, [f"{since}: {_ahead(b - a)}"]


def _by_anchor(situation: Situation, parted: Parting) -> Cause:
    """Tell by the first anchors of both in which the streams differ how far apart they are."""
    pair = situation.anchors.from_parting(parted)
    if pair is None:
        evidence = ("no anchor of both holds its state, so how far apart they are cannot be told",)
        return Cause("stream-shifted", POSSIBLE, evidence, parted.name, parted.step)
    one, two = (_parts(situation, side, anchor, parted.name) for side, anchor in enumerate((pair.a, pair.b)))
    for part in [name for name in one if name in two]:
        apart = draws_between(one[part], two[part])
        of = f" in its {part} generator" if part else ""
        if apart is None or abs(apart) > FARTHEST:
            how = f"no number of draws up to {SEARCHED_DRAWS:,} leads from one state to the other{of}"
            evidence = (f"in the anchors after step {pair.step}, {how}",)
            return Cause("stream-reseeded", LIKELY, evidence, parted.name, parted.step)
        if apart or one.keys() == {part}:
            evidence = (f"in the anchors after step {pair.step}, {_ahead(apart)}{of}",)
            return Cause("stream-shifted", CERTAIN, evidence, parted.name, parted.step)
    evidence = ("its states in the anchors are of kinds whose draws cannot be counted",)
    return Cause("stream-shifted", POSSIBLE, evidence, parted.name, parted.step)


def _ahead(draws: int) -> str:
    if draws == 0:
        return "both are at the same place, but for a number drawn before and kept back"
    return f"B is {count(abs(draws), 'draw')} {'ahead' if draws > 0 else 'behind'}"


def _parts(situation: Situation, side: int, anchor: AnchorView, name: str) -> dict[str, GeneratorState]:
    """Return a stream's generators whose draws can be counted: one under the empty name, or a loader worker's three."""
    content = situation.anchors.content(side, anchor, name)
    if content is None:
        return {}
    tensors, values = _below(name, content[0]), content[1]
    alone = read_state(tensors, values)
    if alone is not None:
        return {"": alone}
    found = {}
    for part in ("torch", "numpy", "python"):
        own = {path.removeprefix(f"{part}."): each for path, each in tensors.items() if path.startswith(f"{part}.")}
        state = read_state(own, values.get(part) if isinstance(values, dict) else None) if own else None
        if state is not None:
            found[part] = state
    return found


def _below(name: str, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {full.removeprefix(f"{name}/"): tensor for full, tensor in tensors.items()}
