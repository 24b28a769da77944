"""The memory of Python's and NumPy's Mersenne Twisters: exact, and some fifty times cheaper than ``getstate()``.

Both keep all their state in memory whose place is known: ``random.Random`` in its own object (and the attribute
``gauss_next``), ``np.random.RandomState`` in its own object (the pending Gaussian) and where its bit generator's
``ctypes.state_address`` points. Equal bytes mean equal states.
"""

from __future__ import annotations

import _random
import ctypes
import random
from typing import Any

import numpy as np

_HEADER = object.__basicsize__
_TWISTER_BYTES = 4 * 624 + 4
"""NumPy's ``mt19937_state``: 624 words and a position."""


def _view(address: int, size: int) -> memoryview:
    """Return writable memory; whoever asks keeps its owner alive."""
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


class PythonTwister:
    """A ``random.Random``'s state as it lies in memory."""

    def __init__(self, generator: random.Random) -> None:
        self._generator: Any = generator
        self._state = _view(id(generator) + _HEADER, _random.Random.__basicsize__ - _HEADER)

    def read(self) -> tuple[bytes, float | None]:
        """Return the words with their position, and the pending Gaussian."""
        gauss: float | None = self._generator.gauss_next
        return self._state.tobytes(), gauss

    def write(self, state: tuple[bytes, float | None]) -> None:
        """Put back what :meth:`read` gave, in this process or the one it was forked from."""
        self._state[:], self._generator.gauss_next = state


class NumpyTwister:
    """A ``RandomState``'s state as it lies in memory; its bit generator is an ``MT19937``."""

    def __init__(self, generator: np.random.RandomState) -> None:
        self.generator = generator
        self._own = _view(id(generator) + _HEADER, np.random.RandomState.__basicsize__ - _HEADER)

    def own(self) -> bytes:
        """Return the object's own memory: it holds the pending Gaussian, and what changes with no draw as well."""
        return self._own.tobytes()

    def words(self) -> bytes:
        """Return the words and their position."""
        with self._bits.lock:
            return self._words().tobytes()

    def set_words(self, words: bytes) -> None:
        """Put back what :meth:`words` gave; the pending Gaussian stays as it is."""
        with self._bits.lock:
            self._words()[:] = words

    @property
    def _bits(self) -> Any:
        # Asked for each time: np.random.set_bit_generator() puts another one in its place.
        return self.generator._bit_generator

    def _words(self) -> memoryview:
        return twister_words(self._bits)


def twister_words(bits: Any) -> memoryview:
    """Return the memory of an ``MT19937``: words and position."""
    return _view(bits.ctypes.state_address, _TWISTER_BYTES)
