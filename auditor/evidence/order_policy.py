"""Which policy the order of a loader's passes shows, told from the sample ids alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import xxhash

Ids = np.ndarray[Any, Any]

_SURE = math.log(1e6)
"""A coincidence of orders is spoken of where it would happen by chance less than once in a million."""
_WINDOW = 0.9
"""A window that moves spans at most this share of all ids."""
_FILLED = 0.5
"""… and holds at least this share of the ids it spans."""
_GROWN = 1.1
"""Passes that grow end at least this much longer than they began."""


class Policy(NamedTuple):
    """What an order shows."""

    word: str
    """``reshuffling``, ``fixed``, ``sequential``, ``with replacement``, ``curriculum``, ``subset``, ``one pass``,
    ``other``."""
    why: str
    """What was seen, as a clause."""
    notes: tuple[str, ...] = ()
    """What is odd about it: orders that come again."""


@dataclass(frozen=True)
class _Pass:
    """What is kept of a pass."""

    number: int
    complete: bool
    order: bytes
    """Digest of the ids in their order."""
    multiset: bytes
    """Digest of the ids, whatever their order."""
    samples: int
    different: int
    least: int
    """How often the rarest id of those drawn was drawn."""
    most: int
    first: int
    last: int
    """The smallest and the largest id."""
    consecutive: bool
    """Whether the ids are 0, 1, 2, … in this order."""
    continues: bool
    """Whether the order is the previous pass's, as far as the shorter of the two goes."""
    holds_previous: bool
    within_previous: bool
    """Whether the set of ids holds, or lies within, that of the previous complete pass."""


def recognise(
    passes: Iterable[Ids],
    *,
    complete: Iterable[bool] | None = None,
    length: int | None = None,
    dropped: int = 0,
    shuffled: bool = False,
) -> Policy:
    """Return the policy that the passes of one loader show.

    Of what was seen only: a policy is a description of the ids consumed, not a proof of what the sampler would do
    next. The words, tried in this order over the complete passes (over all of them where none is complete):

    - ``sequential``: the ids are 0, 1, 2, … in each pass.
    - ``fixed``: each of several passes has the same order.
    - ``reshuffling``: each of several passes holds the same ids as often as the others do, in another order.
    - ``with replacement``: in most passes some id comes at least twice more often than another of the data set: ids
      repeat while others are missing. (Of a single pass it is said only if ids are missing.)
    - ``one pass``: there is one pass, and it shows none of the above.
    - ``reshuffling`` also: each pass holds all ids but at most ``dropped``, none more than once more than another.
    - ``curriculum``: from pass to pass the set of ids grows (or shrinks, each pass's holding the other's), or its
      range moves one way, or, over three passes or more, the number of ids grows without ever shrinking.
    - ``subset``: the passes have different ids, none twice within a pass.
    - ``other``: anything else.

    Each pass is looked at once and let go; what is kept of it is some hundred bytes and, of the last pass alone, its
    ids. All the different ids ever seen are kept too, 8 bytes each.

    Parameters
    ----------
    passes
        The sample ids of each pass as consumed, shape ``(samples,)``, integers. Empty ones are passed over.
    complete
        Whether each pass reached the loader's end; all of them where left out.
    length
        The number of samples in the data set (ids from 0); without it, the ids seen in any pass stand for it.
    dropped
        How many ids a pass may lack at most: the batch size less one where the last, smaller batch is dropped.
    shuffled
        Whether the loader is said to shuffle: an order that comes again is then spoken of as a fault.
    """
    seen, known = _look(passes, complete)
    if not seen:
        return Policy("other", "no sample ids were recorded")
    whole = [each for each in seen if each.complete] or seen
    cut = "" if whole[0].complete else "; every pass was left before its end"
    found = _word(whole, max(known, length or 0), dropped)
    notes = _repeats(seen, shuffled=shuffled)
    return Policy(found.word, found.why + cut, notes)


def _look(passes: Iterable[Ids], complete: Iterable[bool] | None) -> tuple[list[_Pass], int]:
    """Return what is kept of each pass, and how many different ids there are in all of them."""
    seen: list[_Pass] = []
    everything = np.zeros(0, np.int64)
    before = np.zeros(0, np.int64)
    last_set: Ids | None = None
    flags = iter(complete) if complete is not None else None
    for number, given in enumerate(passes, start=1):
        whole = True if flags is None else next(flags)
        ids = np.ascontiguousarray(given, dtype=np.int64)
        if not ids.size:
            continue
        unique, counts, multiset = _counted(ids)
        shared = min(ids.size, before.size)
        same = last_set is not None and np.array_equal(unique, last_set)
        common = 0
        if last_set is not None and whole:
            common = unique.size if same else _common(unique, last_set)
        seen.append(
            _Pass(
                number,
                whole,
                xxhash.xxh3_128_digest(ids.data),
                multiset,
                ids.size,
                unique.size,
                int(counts.min()),
                int(counts.max()),
                int(unique[0]),
                int(unique[-1]),
                bool(ids[0] == 0 and np.all(np.diff(ids) == 1)),
                bool(shared and np.array_equal(ids[:shared], before[:shared])),
                last_set is not None and common == last_set.size,
                last_set is not None and common == unique.size,
            )
        )
        if not same:
            everything = _union(everything, unique)
        before = ids
        if whole:
            last_set = unique
    return seen, int(everything.size)


# Ids are positions in a data set, so a table with an entry for each is short, and ten times faster than sorting.


def _dense(largest: int, size: int) -> bool:
    return largest < 8 * size + 2**20


def _counted(ids: Ids) -> tuple[Ids, Ids, bytes]:
    """Return the different ids in rising order, how often each comes, and a digest of both."""
    if ids.min() >= 0 and _dense(int(ids.max()), ids.size):
        table = np.bincount(ids)
        unique = np.flatnonzero(table)
        return unique, table[unique], xxhash.xxh3_128_digest(table.data)
    unique, counts = np.unique(ids, return_counts=True)
    return unique, counts, xxhash.xxh3_128_digest(unique.tobytes() + counts.tobytes())


def _marked(*sets: Ids) -> Ids | None:
    """Return a table that says which ids are in any of the sets; None if it would be long."""
    largest = max(int(each[-1]) for each in sets)
    if min(int(each[0]) for each in sets) < 0 or not _dense(largest, sum(each.size for each in sets)):
        return None
    table = np.zeros(largest + 1, dtype=bool)
    for each in sets:
        table[each] = True
    return table


def _common(one: Ids, two: Ids) -> int:
    """Return how many ids two sets share; sets are in rising order and not empty."""
    table = _marked(one, two)
    if table is None:
        return int(np.intersect1d(one, two, assume_unique=True).size)
    return one.size + two.size - int(np.count_nonzero(table))


def _union(one: Ids, two: Ids) -> Ids:
    if not one.size:
        return two
    table = _marked(one, two)
    return np.union1d(one, two) if table is None else np.flatnonzero(table)


def _word(passes: list[_Pass], known: int, dropped: int) -> Policy:
    count = len(passes)
    each_pass = "the one pass" if count == 1 else f"each of {count} passes"
    if all(each.consecutive for each in passes):
        return Policy("sequential", f"the ids are 0, 1, 2, … in {each_pass}")
    if count > 1 and len({each.order for each in passes}) == 1:
        return Policy("fixed", f"the same order of {passes[0].samples} ids in {each_pass}")
    if count > 1 and not passes[0].complete and all(each.continues for each in passes[1:]):
        return Policy("fixed", f"the same order in {each_pass}, as far as each goes")
    if count > 1 and len({each.multiset for each in passes}) == 1:
        return Policy("reshuffling", f"the same {passes[0].samples} ids in {each_pass}, in different orders")
    uneven = [each for each in passes if each.most - (each.least if each.different == known else 0) > 1]
    if 2 * len(uneven) > count and (count > 1 or passes[0].different < known):
        return _with_replacement(uneven, known)
    if count == 1:
        return Policy("one pass", f"one pass of {passes[0].samples} ids shows no policy")
    if not uneven and all(known - each.different <= dropped for each in passes):
        lacking = max(known - each.different for each in passes)
        but = f" but for at most {lacking}" if lacking else ", some once more than others,"
        return Policy("reshuffling", f"all {known} ids{but} in {each_pass}, in different orders")
    found = _curriculum(passes)
    if found is not None:
        return found
    if all(each.most == 1 for each in passes):
        return Policy("subset", f"different ids in {each_pass}, none twice within a pass, {known} ids altogether")
    if uneven:
        odd = ", ".join(str(each.number) for each in uneven[:5])
        return Policy("other", f"ids come twice while others are missing, in pass {odd} only")
    return Policy("other", "the ids differ from pass to pass in no way that has a name here")


def _with_replacement(uneven: list[_Pass], known: int) -> Policy:
    worst = uneven[0]
    missing = f"{known - worst.different} of {known} ids are missing"
    if worst.different == known:
        missing = f"another comes {_times(worst.least)}"
    so = "" if len(uneven) == 1 else f"; so in {len(uneven)} passes"
    return Policy("with replacement", f"in pass {worst.number} one id comes {_times(worst.most)} and {missing}{so}")


def _curriculum(passes: list[_Pass]) -> Policy | None:
    later = passes[1:]
    pairs = list(pairwise(passes))
    sizes = f"from {passes[0].different} ids to {passes[-1].different}"
    if all(each.holds_previous for each in later) and passes[0].different < passes[-1].different:
        return Policy("curriculum", f"the set of ids grows, each pass's holding the one before: {sizes}")
    if all(each.within_previous for each in later) and passes[0].different > passes[-1].different:
        return Policy("curriculum", f"the set of ids shrinks, each pass's within the one before: {sizes}")
    if _moves(passes):
        return Policy(
            "curriculum",
            f"the range of ids moves one way: {passes[0].first} to {passes[0].last} in the first pass, "
            f"{passes[-1].first} to {passes[-1].last} in the last",
        )
    grows = passes[0].complete and all(one.samples <= two.samples for one, two in pairs)
    steps = sum(one.samples < two.samples for one, two in pairs)
    if grows and steps > 1 and passes[-1].samples >= _GROWN * passes[0].samples:
        return Policy(
            "curriculum", f"the passes grow and never shrink, from {passes[0].samples} ids to {passes[-1].samples}"
        )
    return None


def _moves(passes: list[_Pass]) -> bool:
    """Say whether the ids of each pass fill a window, and the window moves one way with both its ends."""
    total = max(each.last for each in passes) - min(each.first for each in passes) + 1
    for each in passes:
        span = each.last - each.first + 1
        if span > _WINDOW * total or each.different < _FILLED * span:
            return False
    return _one_way([each.first for each in passes]) * _one_way([each.last for each in passes]) == 1


def _one_way(values: Sequence[int]) -> int:
    """Return 1 if the values rise and never fall, -1 if they fall and never rise, else 0."""
    pairs = list(pairwise(values))
    rises, falls = any(one < two for one, two in pairs), any(one > two for one, two in pairs)
    return int(rises) - int(falls)


def _repeats(passes: list[_Pass], *, shuffled: bool) -> tuple[str, ...]:
    """Say which passes have an order that an earlier one had, where chance does not explain it."""
    first: dict[bytes, _Pass] = {}
    pairs: list[tuple[_Pass, _Pass]] = []
    for each in passes:
        if each.order in first:
            pairs.append((first[each.order], each))
        else:
            first[each.order] = each
    tries = 2 * math.log(len(passes)) if passes else 0.0
    sure = [(one, two) for one, two in pairs if not two.consecutive and _orders(two) - tries > _SURE]
    if not sure or (len(sure) == len(passes) - 1 and not shuffled):
        return ()
    one, two = sure[0]
    more = f", and {len(sure) - 1} more such" if len(sure) > 1 else ""
    why = ": the generator that shuffles is seeded anew" if shuffled else ""
    return (f"pass {two.number} has the very order of pass {one.number}{more}{why}",)


def _orders(each: _Pass) -> float:
    """Return the logarithm of how many orders a pass could have had, at least: of its different ids."""
    return math.lgamma(each.different + 1)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
