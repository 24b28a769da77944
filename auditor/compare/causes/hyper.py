"""A hyper-parameter or its schedule differs: recorded ones, those that an average keeps to itself, and arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.compare.beside import CENSUS, PROGRAM
from auditor.compare.causes.numerics import is_kernel_choice
from auditor.compare.side import Side
from auditor.compare.situation import CERTAIN, LIKELY, POSSIBLE, Cause, Situation, pair_of, told_pair
from auditor.compare.walk import Parting
from auditor.findings.formats.text import count

_FOLLOWERS = frozenset({"ema", "swa", "teacher", "bn"})
_TOLD = 6


def find(situation: Situation) -> Iterator[Cause]:
    """Yield what steers the update and parted no later than training did."""
    set_ = [each for each in situation.early("scheduler", "hyper", "scaler") if not is_kernel_choice(each.name)]
    if set_:
        evidence = [line for each in set_[:_TOLD] for line in _told(situation, each)]
        yield Cause("hyper", CERTAIN, tuple(evidence), set_[0].name, set_[0].step)
        return
    parted = situation.computed
    if parted is None or situation.given() or parted.at == "start":
        return
    follower = next((each for each in situation.partings if each.kind in _FOLLOWERS), None)
    rows = [row for row in situation.of_group(CENSUS) if row.name.endswith(" half-life")]
    # An optimizer that only one run watched brings its hyper-parameters along; each of torch's has a rate.
    if all(any(name.startswith("hyper") and name.endswith(".lr") for name in side.kinds) for side in _sides(situation)):
        only = [row for row in situation.of_group(CENSUS) if row.name.startswith("hyper")]
        rows += [row for row in only if not is_kernel_choice(row.name)]
    if rows:
        yield Cause("hyper", CERTAIN, tuple(map(pair_of, rows[:_TOLD])), parted.name, parted.step)
        return
    numbers = [row for row in situation.of_group(PROGRAM) if _is_numeric_argument(row.name, row.a, row.b)]
    if numbers:
        evidence = [
            *map(pair_of, numbers),
            f"{parted.name} parts at step {parted.step}; all that it follows from agrees",
        ]
        evidence += _scale(situation, parted)
        confidence = POSSIBLE if situation.is_rounding else LIKELY
        yield Cause("hyper", confidence, tuple(evidence), parted.name, parted.step)
    elif parted.schedule and not situation.is_rounding:
        names = ", ".join(parted.schedule)
        evidence = [
            f"{names} changed in step {parted.step}, in both alike and not shortly before; {parted.name} differs",
            "one may have updated before that, the other after",
        ]
        yield Cause("hyper", LIKELY, tuple(evidence), parted.name, parted.step)
    elif follower is parted and all(parted.moved):
        what = f"{parted.name} differs after step {parted.step}, and all that it is computed from agrees"
        yield Cause(
            "hyper", LIKELY, (what, "so its decay or momentum does, or when it is updated"), parted.name, parted.step
        )
    else:
        scale = _scale(situation, parted)
        if scale:
            yield Cause("hyper", LIKELY, tuple(scale), parted.name, parted.step)


def _sides(situation: Situation) -> tuple[Side, Side]:
    return situation.walk.a, situation.walk.b


def _told(situation: Situation, parted: Parting) -> Iterator[str]:
    if parted.at == "start":
        yield f"{parted.name} differs before the first step" + _values(situation, parted)
        return
    moved = parted.moved
    if moved[0] != moved[1]:
        who, other = ("A", "B") if moved[0] else ("B", "A")
        yield f"at step {parted.step}, {parted.name} changed in {who} and not in {other}" + _values(situation, parted)
    else:
        yield f"{parted.name} differs from step {parted.step} on" + _values(situation, parted)
    if parted.kind == "scaler":
        yield from _skipped(situation, parted)
        return
    behind = lag([*parted.before, *parted.digests], len(parted.before))
    if behind:
        late, other = ("B", "A") if behind > 0 else ("A", "B")
        yield f"{parted.name}: {late} is where {other} was {count(abs(behind), 'step')} before, step after step"


def _skipped(situation: Situation, parted: Parting) -> Iterator[str]:
    """Say if the optimizer stood still in one run where the loss scale parted."""
    for each in situation.partings:
        if each.kind == "optimizer" and each.step == parted.step and each.moved[0] != each.moved[1]:
            yield f"{'A' if each.moved[1] else 'B'} skipped the update: its gradients were not finite"
            return


def _values(situation: Situation, parted: Parting) -> str:
    pair = situation.anchors.from_parting(parted)
    found = None if pair is None else situation.anchors.compare(pair, parted.name)
    if pair is None or found is None or not found.values:
        return ""
    shown = "; ".join(
        f"{place + ': ' if place else ''}{' and '.join(told_pair(a, b))}" for place, a, b in found.values[:2]
    )
    return f" (in the anchors after step {pair.step}: {shown})" if pair.step else f" ({shown})"


def lag(digests: Sequence[tuple[str | None, str | None]], first: int) -> int:
    """Return by how many steps B trails A from position ``first`` on (negative: A trails B); 0 where neither does.

    Held against three steps at least, two of them different: a constant trails itself by any number.
    """
    a, b = ([pair[side] for pair in digests] for side in (0, 1))
    for steps in range(1, len(digests)):
        for sign, ahead, behind in ((1, a, b), (-1, b, a)):
            held = [(behind[at], ahead[at - steps]) for at in range(max(first, steps), len(digests))]
            if len(held) >= 3 and len({each[0] for each in held}) > 1 and all(one == two for one, two in held):
                return sign * steps
    return 0


def _scale(situation: Situation, parted: Parting) -> list[str]:
    """Say if an update points the same way in both and is only longer in one, which needs anchors right there."""
    pair = situation.anchors.pairs.get(parted.step)
    found = situation.anchors.compare(pair, parted.name) if pair is not None and parted.kind == "optimizer" else None
    if found is None or found.scale is None:
        return []
    return [
        f"after step {parted.step}, {parted.name} points the same way in both, {found.scale:.4g} times as long in B: "
        "clipping, loss scale or a decay would do that"
    ]


def _is_numeric_argument(name: str, a: object, b: object) -> bool:
    return name.startswith("argument -") and all(each is None or _is_number(each) for each in (a, b))


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
