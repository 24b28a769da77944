"""The walk through a data loader: which sample ids were consumed, what a batch held, and drawing the rest anew."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from auditor.recorder.workers import Begin, Carry, CarryingIterator, WorkerTable

if TYPE_CHECKING:
    from auditor.recorder.passes import Continued

_DRAWN_AT_ONCE = 32
"""How many ids torch's RandomSampler draws at once with replacement."""

Batch = Any
Ids = list[int] | None
Arrange = Callable[["Walk", Iterator[Any]], Iterator[Any]]
"""Gives the index lists that a loader is handed in place of those of its (batch) sampler."""


def policy_of(loader: Any) -> dict[str, Any]:
    """Return the order contract of a loader or iterable, as it stands in ``pass`` events (docs/run-directory.md)."""
    if not isinstance(loader, DataLoader):
        return {
            "sampler": type(loader).__qualname__,
            "kind": "other",
            "replacement": False,
            "drop_last": False,
            "batch_size": None,
            "length": None,
        }
    if isinstance(loader.dataset, IterableDataset):
        return _policy("IterableDataset", "other", False, loader, None)
    batch_sampler = loader.batch_sampler
    if batch_sampler is not None and type(batch_sampler) is not BatchSampler:
        return _policy(type(batch_sampler).__qualname__, "batches", False, loader, None)
    sampler: Any = loader.sampler if batch_sampler is None else batch_sampler.sampler
    length = _length(loader.dataset)
    name = type(sampler).__qualname__
    if type(sampler) is RandomSampler:
        length = len(sampler.data_source)
        exact = sampler.replacement or sampler.num_samples == length
        kind = "replacement" if sampler.replacement else "shuffled" if exact else "other"
        return _policy(name, kind, sampler.replacement, loader, length)
    if type(sampler) is SequentialSampler:
        return _policy(name, "sequential", False, loader, length)
    if type(sampler) is WeightedRandomSampler:
        return _policy(name, "replacement" if sampler.replacement else "other", sampler.replacement, loader, length)
    return _policy(name, "other", False, loader, length)


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # a program's own __len__ may raise anything, and the program need not ask for it
        return None


def _policy(sampler: str, kind: str, replacement: bool, loader: DataLoader[Any], length: int | None) -> dict[str, Any]:
    inner = loader.batch_sampler
    return {
        "sampler": sampler,
        "kind": kind,
        "replacement": replacement,
        "drop_last": bool(getattr(inner, "drop_last", loader.drop_last)),
        "batch_size": getattr(inner, "batch_size", loader.batch_size),
        "length": length,
    }


class ProgramError(Exception):
    """An exception of the program's own, on its way to the program."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Tap:
    """Stands in for a loader's (batch) sampler during one walk and notes each index list as it is drawn."""

    def __init__(self, inner: Any, walk: Walk) -> None:
        self._inner = inner
        self._walk = walk

    def __iter__(self) -> _TapIterator:
        self._walk.drawing = _TapIterator(self._inner, self._walk)
        return self._walk.drawing

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _TapIterator:
    """Draws from the sampler exactly when the loader asks, not a list earlier."""

    def __init__(self, inner: Any, walk: Walk) -> None:
        self._walk = walk
        self._started = walk.redrawn is not None
        drawn: Iterator[Any] = iter(inner if walk.redrawn is None else walk.redrawn)
        self.is_arranged = walk.arrange is not None
        self.source = drawn if walk.arrange is None or walk.keeps_arrangement else walk.arrange(walk, drawn)

    def start(self) -> None:
        """Draw and drop what is to be skipped; the loader's first draw does it too."""
        if self._started:
            return
        self._started = True
        self._walk.before_first_draw()
        for _ in range(self._walk.skip):
            self._walk.deliver(_as_list(next(self.source)))

    def __iter__(self) -> _TapIterator:
        return self

    def __next__(self) -> Any:
        self.start()
        indices = next(self.source)
        if isinstance(indices, Iterator):
            indices = list(indices)  # noting its ids would leave nothing to fetch
        self._walk.drawn.append(indices)
        return indices


class Walk:
    """One pass through a loader.

    Parameters
    ----------
    loader
        The user's loader. During the walk its (batch) sampler is replaced by one that notes what is drawn; it draws
        the same, at the same moments.
    table
        Where the streams of the loader's workers are noted, and from which workers that are started now begin.
    skip
        How many batches to take as consumed: the position of an anchor in the middle of a pass. Their index lists are
        drawn and dropped; where there are none (iterable data sets) the batches themselves are.
    before_first_draw
        Called when the first index list is about to be drawn; streams are read or set there (a shuffled order is
        drawn at that moment, not when the walk begins).
    arrange
        Has the loader handed other index lists, or the same in another order; from the next :meth:`redraw` on, if set
        later. It is asked for an iterator before the first list is drawn.
    """

    def __init__(
        self,
        loader: Any,
        table: WorkerTable | None = None,
        *,
        skip: int = 0,
        before_first_draw: Callable[[], None] = lambda: None,
        arrange: Arrange | None = None,
    ) -> None:
        self.loader = loader
        self.arrange = arrange
        self.keeps_arrangement = False
        """Whether the lists to be drawn again are arranged already."""
        self.table = table if table is not None else WorkerTable()
        self.policy = policy_of(loader)
        self.has_ids = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        self.skip = skip
        self.before_first_draw = before_first_draw
        self.drawing: _TapIterator | None = None
        self.drawn: deque[Any] = deque()
        self.delivered: array[int] = array("q")
        """The ids consumed, in order; 8 bytes each, for passes that never end."""
        self.lengths: array[int] = array("q")
        """How many ids each consumed batch had."""
        self.redrawn: Iterable[Any] | None = None
        if self.has_ids and loader.num_workers and not getattr(loader, "in_order", True):
            self.has_ids = False  # batches come as they are ready, not as they were drawn
        self.noting = True
        """False once nobody asks any more: ids are kept no longer."""
        self._workers_from = 0
        """The batch that the first worker fetched first, of those that run now."""
        self._slot = "sampler" if getattr(loader, "batch_sampler", None) is None else "batch_sampler"
        if self.has_ids and self._slot not in loader.__dict__:
            self.has_ids = False  # a loader that answers for its sampler by a property
        self._iterator = self._start(skip)
        if not self.has_ids:
            before_first_draw()
            for _ in range(skip):
                next(self._iterator)

    @property
    def is_exhausted(self) -> bool:
        """Whether the loader's length is known, and as many batches were consumed."""
        try:
            return len(self.lengths) >= len(self.loader)
        except Exception:  # no length, or a program's own that cannot be asked
            return False

    @property
    def known_sampler(self) -> Any:
        """The loader's sampler if it is one of torch's, batched by torch's own BatchSampler; else None."""
        return _stock_sampler(self.loader, self._original) if self.has_ids else None

    @property
    def order_generator(self) -> torch.Generator | None:
        """The generator that the order of this pass comes from; None where it is fixed, or the sampler is not known."""
        sampler = self.known_sampler
        if sampler is None or type(sampler) is SequentialSampler:
            return None
        own: torch.Generator | None = sampler.generator
        return torch.default_generator if own is None else own

    @property
    def base_seed(self) -> int | None:
        """The seed from which workers' seeds follow (worker ``k`` has this plus ``k``); None without a DataLoader."""
        return getattr(self._iterator, "_base_seed", None)

    def _start(self, skip: int = 0) -> Iterator[Batch]:
        """Return the loader's iterator, built while its parts are the ones that take notes.

        Only while it is built: the program may walk the same loader by hand in between.
        """
        stand_ins: dict[str, Any] = {}
        if self.has_ids:
            self._original = self.loader.__dict__[self._slot]
            stand_ins[self._slot] = tap = _Tap(self._original, self)
            persistent = getattr(self.loader, "_iterator", None)
            if persistent is not None:
                # Persistent workers keep their iterator, and it the sampler it was built with.
                persistent._index_sampler = tap
        if _carries(self.loader):
            stand_ins["collate_fn"] = Carry(self.loader.collate_fn)
            stand_ins["worker_init_fn"] = Begin(self.loader.worker_init_fn, self.table.states)
            stand_ins["_get_iterator"] = partial(_carrying, self.loader, self.table, skip if self.has_ids else 0)
        held = {name: self.loader.__dict__[name] for name in stand_ins if name in self.loader.__dict__}
        try:
            # Through __dict__: the loader refuses assignments to some of these names after it is built.
            if stand_ins:
                self.loader.__dict__.update(stand_ins)
            iterator: Iterator[Batch] = iter(self.loader)
        except Exception as error:
            raise ProgramError(error) from None
        finally:
            for name in stand_ins:
                if name in held:
                    self.loader.__dict__[name] = held[name]
                else:
                    del self.loader.__dict__[name]
        if self.has_ids and self.drawing is None:
            self.has_ids = False  # a loader with an __iter__ of its own, which draws elsewhere
        return iterator

    def draw(self) -> tuple[Batch, Ids]:
        """Return the next batch and its sample ids (None where there are none).

        Raises
        ------
        StopIteration
            When the pass is over.
        """
        batch = next(self._iterator)
        if not self.has_ids:
            return batch, None
        if not self.drawn:
            self.has_ids = False  # a loader that gives more batches than it draws
            return batch, None
        indices = self.drawn.popleft()
        ids = None if self._slot == "sampler" and isinstance(indices, tuple) else _as_list(indices)
        if self.noting:
            self.deliver(ids)
        return batch, ids

    def deliver(self, ids: Ids) -> None:
        """Count a batch's ids as consumed."""
        self.delivered.extend(ids or ())
        self.lengths.append(len(ids or []))

    def take_over(self, before: Continued) -> None:
        """Count what was consumed in this pass before a cut; the program itself skips it, or does not."""
        size = self.policy["batch_size"]
        if before.ids is None or size is None or len(before.ids) < size * before.position:
            self.has_ids = False
            return
        self.delivered = array("q", before.ids[: size * before.position]) + self.delivered
        self.lengths = array("q", [size] * before.position) + self.lengths

    def fast_forward(self) -> None:
        """Draw the index lists to skip now, not at the next batch (with workers it has happened already)."""
        if self.drawing is not None:
            self.drawing.start()

    def redraw(self, before_draw: Callable[[], None] | None = None) -> str | None:
        """Discard what was drawn but not delivered, and draw the rest of the pass anew from the streams as they are.

        Without replacement the rest comes from the ids that remain in the pass, with replacement from all. A fixed
        order stays. Returns why the order was kept, or None if it was drawn anew or has nothing random in it.

        New workers begin anew; or, with ``before_draw``, where those before them were after their last consumed batch.
        It is called when the first id is about to be drawn, after the loader has drawn its base seed.
        """
        reason: str | None = None
        if not self.has_ids:
            return f"{self.policy['sampler']} gives no sample ids; its order was kept"
        sampler = _stock_sampler(self.loader, self._original)
        if sampler is None:
            # Lazily: a sampler may never end.
            self.redrawn = itertools.chain(list(self.drawn), self.drawing.source if self.drawing else ())
            self.keeps_arrangement = self.drawing is not None and self.drawing.is_arranged
            reason = f"{self.policy['sampler']} is not a sampler whose draws memaudit knows; its order was kept"
        else:
            ids = _redrawn(sampler, Counter(self.delivered), len(self.delivered), before_draw)
            self.redrawn = ids if self._slot == "sampler" else _batched(ids, self.policy)
        self.drawn.clear()
        del self._iterator
        if before_draw is not None:
            if getattr(self.loader, "_iterator", None) is not None:
                self.loader._iterator = None
        else:
            forget_workers(self.loader, self.table)
            self._workers_from = len(self.lengths)
        # The turn of the worker whose batch comes next.
        self._iterator = self._start(len(self.lengths) - self._workers_from)
        return reason

    def close(self) -> None:
        """Give persistent workers the loader's own sampler back, and let go of the loader."""
        persistent: Any = getattr(self.loader, "_iterator", None)
        if isinstance(getattr(persistent, "_index_sampler", None), _Tap):
            persistent._index_sampler = self._original
        # At once, not when the cycle through the tap is collected: a loader lives as long as the program holds it.
        self.loader = self.drawing = None
        self._iterator = iter(())


def _carries(loader: Any) -> bool:
    """Say whether a loader's workers can be made to say how their streams stand."""
    return (
        isinstance(loader, DataLoader)
        and loader.num_workers > 0
        and type(loader)._get_iterator is DataLoader._get_iterator
    )


def _carrying(loader: DataLoader[Any], table: WorkerTable, skip: int) -> CarryingIterator:
    """Return what ``DataLoader._get_iterator`` returns with workers, in the form that takes notes."""
    loader.check_worker_number_rationality()
    return CarryingIterator(loader, table, skip)


def forget_workers(loader: Any, table: WorkerTable) -> None:
    """Let go of a loader's persistent workers: the next walk starts new ones, from the streams as they are then."""
    table.states.clear()
    table.born = None
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def _as_list(indices: Any) -> list[int] | None:
    """Return the sample ids of one draw, or None where a sampler gives keys that are not integers."""
    if isinstance(indices, str | bytes):
        return None
    if isinstance(indices, torch.Tensor):
        indices = indices.reshape(-1)  # a scalar tensor has __iter__ and cannot be iterated
    try:
        return [int(index) for index in indices] if hasattr(indices, "__iter__") else [int(indices)]
    except (TypeError, ValueError):
        return None


def _stock_sampler(loader: DataLoader[Any], original: Any) -> Any:
    """Return the loader's sampler if its draws are known and batched by the stock BatchSampler, else None."""
    if loader.batch_sampler is None:
        sampler = original
    elif type(original) is BatchSampler:
        sampler = original.sampler
    else:
        return None
    known = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)
    return sampler if type(sampler) in known else None


def _redrawn(
    sampler: Any, delivered: Counter[int], count: int, before_draw: Callable[[], None] | None = None
) -> Iterator[int]:
    """Yield the ids of the rest of the pass, drawn anew as the sampler itself would draw them: no more than needed.

    ``delivered`` counts the ids that were consumed in this pass, ``count`` is their number.
    """
    if before_draw is not None:
        before_draw()
    if type(sampler) is SequentialSampler:
        yield from range(count, len(sampler.data_source))
        return
    generator = _drawing_generator(sampler)
    if type(sampler) is SubsetRandomSampler:
        remaining = _without(sampler.indices, delivered)
        yield from (remaining[position] for position in torch.randperm(len(remaining), generator=generator).tolist())
        return
    wanted = sampler.num_samples - count
    if type(sampler) is WeightedRandomSampler:
        weights = sampler.weights.clone()
        if not sampler.replacement:
            weights[list(delivered)] = 0.0
        if wanted:
            yield from torch.multinomial(weights, wanted, sampler.replacement, generator=generator).tolist()
        return
    length = len(sampler.data_source)
    if sampler.replacement:
        for begin in range(0, wanted, _DRAWN_AT_ONCE):
            size = (min(_DRAWN_AT_ONCE, wanted - begin),)
            yield from torch.randint(high=length, size=size, dtype=torch.int64, generator=generator).tolist()
        return
    yield from itertools.islice(_shuffled_rest(length, delivered, count, generator), wanted)


def _without(indices: Iterable[Any], delivered: Counter[int]) -> list[int]:
    """Return the ids in ``indices`` less those delivered, each as often as it was delivered."""
    gone = Counter(delivered)
    remaining = []
    for index in map(int, indices):
        if gone[index]:
            gone[index] -= 1
        else:
            remaining.append(index)
    return remaining


def _shuffled_rest(length: int, delivered: Counter[int], count: int, generator: torch.Generator) -> Iterator[int]:
    """Yield first the ids missing from the permutation in progress, then whole new permutations."""
    rounds = count // length
    remaining = [index for index in range(length) if delivered[index] <= rounds]
    yield from (remaining[position] for position in torch.randperm(len(remaining), generator=generator).tolist())
    while True:
        yield from torch.randperm(length, generator=generator).tolist()


def _drawing_generator(sampler: Any) -> torch.Generator:
    """Return the sampler's own generator, or a new one seeded from torch's stream, as RandomSampler does."""
    if sampler.generator is not None:
        own: torch.Generator = sampler.generator
        return own
    generator = torch.Generator()
    generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    return generator


def _batched(ids: Iterator[int], policy: dict[str, Any]) -> Iterator[list[int]]:
    size = policy["batch_size"]
    while batch := list(itertools.islice(ids, size)):
        if len(batch) == size or not policy["drop_last"]:
            yield batch
