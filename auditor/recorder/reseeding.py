"""Streams that were seeded again while training ran, told from what stands in the trace anyway."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_KEPT_STARTS = 256
"""How many starts of passes are kept a stream; with more, the oldest but the very first goes."""

_ORDER_STREAMS = ("loader", "sampler", "batch_sampler")


@dataclass(slots=True)
class _Seen:
    """What is known of one stream."""

    first: int | None
    """The seed it reported when it was first seen."""
    seed: int | None
    digest: bytes
    changes: int = 0
    """How often another digest was seen than the time before."""
    at_start: bool = False
    """Whether the last sight was at a pass's start: a sampler seeds before its first draw, which comes after."""
    seedings: list[tuple[str, int, int, bool]] = field(default_factory=list)
    """The first seeding seen and, once there is one, the first that no pass's start explains: moment, seed before,
    seed after, at a pass's start."""
    seeded: int = 0
    starts: OrderedDict[bytes, tuple[str, int]] = field(default_factory=OrderedDict)
    """The digests at passes' starts, with moment and ``changes``."""
    repeat: tuple[str, str] | None = None
    """The first start of a pass that stood where an earlier one had: that moment and the earlier one's."""
    repeats: int = 0


class Reseeding:
    """Watches streams for a second seeding.

    Two things are certain and looked for: a torch generator that reports another initial seed than before, and a
    stream that stands at a pass's start exactly where it stood at an earlier one although it had moved on in between.
    Between two sights a stream may be seeded and nothing of it show; that is not guessed at.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def see(self, name: str, digest: bytes, initial_seed: int | None, moment: str, *, starts_pass: bool) -> bool:
        """Take note of a stream as it is now; return whether :meth:`warnings` changed by it.

        Only for streams of this process: what is known of a worker's is nothing again at each start.

        Parameters
        ----------
        name
            The stream's name in the contract.
        digest
            Its state's 16 bytes.
        initial_seed
            The seed it reports to have started from; None where it reports none.
        moment
            When this is, in words: ``step 12``, ``the start of pass 3``.
        starts_pass
            Whether a pass starts here.
        """
        seen = self._seen.get(name)
        if seen is None:
            self._seen[name] = seen = _Seen(initial_seed, initial_seed, digest)
        news = False
        if digest != seen.digest:
            seen.digest = digest
            seen.changes += 1
        if initial_seed != seen.seed:
            news = self._note_seeding(seen, initial_seed, moment, at_start=starts_pass or seen.at_start)
        if starts_pass:
            news = self._note_start(seen, moment) or news
        seen.at_start = starts_pass
        return news

    def first_seed(self, name: str) -> int | None:
        """Return the seed a stream reported when it was first seen; None for one that reports none."""
        seen = self._seen.get(name)
        return None if seen is None else seen.first

    def warnings(self, name: str) -> list[str]:
        """Return what the contract should say of a stream; empty for one that was never seen."""
        seen = self._seen.get(name)
        found: list[str] = []
        if seen is None:
            return found
        telling = [each for each in seen.seedings if not (each[3] and name.startswith(_ORDER_STREAMS))]
        if telling:
            moment, before, after, _ = telling[0]
            times = f", the first of {seen.seeded} times" if seen.seeded > 1 else ""
            found.append(f"seeded again in the middle: with {after} where {before} was, seen at {moment}{times}")
        if seen.repeat is not None:
            now, then = seen.repeat
            times = f", the first of {seen.repeats} times" if seen.repeats > 1 else ""
            found.append(f"at {now} it stood again where it stood at {then}{times}: the same numbers are drawn again")
        return found

    @staticmethod
    def _note_seeding(seen: _Seen, seed: int | None, moment: str, *, at_start: bool) -> bool:
        before, seen.seed = seen.seed, seed
        if before is None or seed is None:
            return False
        seen.seeded += 1
        if not seen.seedings or (seen.seedings[-1][3] and not at_start):
            seen.seedings.append((moment, before, seed, at_start))
            return True
        return False

    @staticmethod
    def _note_start(seen: _Seen, moment: str) -> bool:
        earlier = seen.starts.get(seen.digest)
        if earlier is None:
            seen.starts[seen.digest] = (moment, seen.changes)
            if len(seen.starts) > _KEPT_STARTS:
                oldest = iter(seen.starts)
                next(oldest)
                del seen.starts[next(oldest)]
            return False
        if earlier[1] == seen.changes:
            return False
        seen.starts[seen.digest] = (earlier[0], seen.changes)
        seen.repeats += 1
        if seen.repeat is None:
            seen.repeat = (moment, earlier[0])
            return True
        return False
