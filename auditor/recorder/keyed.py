"""Keyed augmentation: what a data set draws for a sample follows from (seed, pass, sample), not from the order."""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from auditor.errors import MemauditError
from auditor.state.streams import NUMPY_GLOBAL, PYTHON_GLOBAL
from auditor.state.twister import NumpyTwister, PythonTwister

_T = TypeVar("_T")


class KeyedDataset(Dataset[_T], Generic[_T]):
    """A map-style data set whose draws are keyed by (seed, pass, sample).

    Around each ``dataset[i]``, Python's ``random``, ``np.random`` and torch's CPU generator are seeded by a key and
    put back afterwards. So an order can be changed and each sample's draws kept; the draws depend neither on the
    workers nor on what else the program draws, and nothing else depends on them.

    The key is the SHA-256 of the ASCII text ``memaudit keyed draws 1``, the seed, the pass and the sample's index in
    decimal, joined by newlines. Its bytes, big-endian: 0-7 seed ``random``, 8-11 ``np.random``, 12-19 torch (which
    uses the low 32 of those 64 bits on the CPU).

    Not keyed: generators of the data set's own (a ``torch.Generator`` or ``np.random.Generator`` in an attribute) and
    devices. Use the global functions inside a keyed data set. Two loaders over one keyed data set share
    its pass: give each a wrapper of its own, or a pass inside another one changes the keys of what the outer one's
    workers draw ahead.

    Parameters
    ----------
    dataset
        Has ``dataset[i]`` for whole numbers ``i``. Its other attributes can be reached through this one.
    seed
        Any whole number.

    Raises
    ------
    MemauditError
        For an iterable data set: it has no samples to key by.
    """

    def __init__(self, dataset: Dataset[_T] | Sequence[_T], seed: int) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise MemauditError(
                f"the draws of a {type(dataset).__qualname__} cannot be keyed",
                where="KeyedDataset(…)",
                why="it gives samples in an order of its own and has no dataset[i]",
                next_step="key the draws inside it, or use a map-style data set",
            )
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise MemauditError(f"seed={seed!r} is no whole number", where="KeyedDataset(…)")
        self.dataset = dataset
        self.seed = seed
        # Shared: persistent workers have their own copy of the data set and yet see each new pass.
        self._pass = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_pass(self, number: int) -> None:
        """Say that pass ``number`` begins; workers that are running see it too. Before the first call it is 0."""
        self._pass[0] = number

    @property
    def current_pass(self) -> int:
        """The pass whose keys are used now."""
        return int(self._pass.item())

    def __len__(self) -> int:
        return len(cast("Sequence[_T]", self.dataset))

    def __getitem__(self, index: int) -> _T:
        sample = self._sample(index)
        key = hashlib.sha256(f"memaudit keyed draws 1\n{self.seed}\n{self._pass.item()}\n{sample}".encode()).digest()
        with _Keyed(key):
            return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[_T]:
        """Return several samples, each with its own key; a ``__getitems__`` of the inner data set is not used."""
        return [self[index] for index in indices]

    def _sample(self, index: object) -> int:
        try:
            sample = operator.index(cast("int", index))
        except (TypeError, ValueError) as error:
            raise MemauditError(
                f"a sample of a KeyedDataset is asked for by a {type(index).__qualname__}",
                why="each sample's draws are keyed by its index, one whole number",
                next_step="have the sampler give one index a sample: DataLoader(batch_sampler=…) rather than sampler=…",
            ) from error
        return sample + len(self) if sample < 0 else sample

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found here; while a copy is being unpickled nothing is, and nothing must be looked up.
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pass.share_memory_()  # a pickle by value left the shared memory


def set_pass(loader: object, number: int) -> None:
    """Tell every :class:`KeyedDataset` that a loader reads from, also below subsets and concatenations, its pass."""
    waiting: list[Any] = [getattr(loader, "dataset", None)]
    seen: set[int] = set()
    while waiting:
        dataset = waiting.pop()
        if dataset is None or id(dataset) in seen:
            continue
        seen.add(id(dataset))
        if isinstance(dataset, KeyedDataset):
            dataset.set_pass(number)
        waiting.append(getattr(dataset, "dataset", None))
        several = getattr(dataset, "datasets", None)
        if isinstance(several, list | tuple):
            waiting.extend(several)


def draws_are_keyed(dataset: object) -> bool:
    """Say whether all that a data set draws is keyed: it is a KeyedDataset, or torch's subset or joining of such."""
    if type(dataset) is ConcatDataset:
        return all(draws_are_keyed(each) for each in dataset.datasets)
    if type(dataset) is Subset:  # a class derived from it may draw on top
        return draws_are_keyed(dataset.dataset)
    return isinstance(dataset, KeyedDataset)


class _Keyed:
    """A block in which the three global streams of the CPU begin at a key; afterwards they are as before.

    NumPy's pending Gaussian has no cheap way in or out. That there is none shows in the generator's own memory, which
    then is as it was the last time there was none; where it differs, the state goes through ``get_state``.
    """

    _python = PythonTwister(PYTHON_GLOBAL)
    _numpy = NumpyTwister(NUMPY_GLOBAL)
    _torch = torch.default_generator
    _nothing_pending: bytes | None = None
    """NumPy's own memory when no Gaussian was pending."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._whole: Any = None

    def __enter__(self) -> None:
        key = self._key
        self._python_before = self._python.read()
        self._torch_before = self._torch.get_state()
        if self._numpy.own() == _Keyed._nothing_pending:
            self._words = self._numpy.words()
        else:
            self._whole = _numpy_state()
        random.seed(int.from_bytes(key[:8], "big"))
        NUMPY_GLOBAL.seed(int.from_bytes(key[8:12], "big"))
        self._torch.manual_seed(int.from_bytes(key[12:20], "big"))
        if self._whole is not None:
            _Keyed._nothing_pending = self._numpy.own()

    def __exit__(self, *_: object) -> None:
        self._python.write(self._python_before)
        self._torch.set_state(self._torch_before)
        if self._whole is not None:
            NUMPY_GLOBAL.set_state(self._whole)
            return
        if self._numpy.own() != _Keyed._nothing_pending:
            NUMPY_GLOBAL.seed(0)  # drops the pending Gaussian
        self._numpy.set_words(self._words)


def _numpy_state() -> Any:
    state = NUMPY_GLOBAL.get_state(legacy=False)
    if isinstance(NUMPY_GLOBAL._bit_generator, np.random.MT19937):
        return state
    raise MemauditError(
        f"np.random draws from a {type(NUMPY_GLOBAL._bit_generator).__qualname__}, which cannot be seeded in place",
        where="KeyedDataset",
        next_step="leave np.random its own bit generator: drop np.random.set_bit_generator(…)",
    )
