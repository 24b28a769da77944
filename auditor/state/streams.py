"""Random streams: their state, their seeding and their re-keying."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from auditor.state.source import Reading
from auditor.state.values import decode, encode

TORCH_DEFAULT_SEED = 67280421310721
"""What torch's generator reports when nobody seeded it (c10 ``default_rng_seed_val``)."""


class Stream(ABC):
    """One source of randomness. ``name`` is its name in the contract: ``python``, ``torch``, ``cuda:0``, ``loader``."""

    name: str

    @abstractmethod
    def read(self) -> Reading:
        """Return the state as it is now, without consuming anything."""

    @abstractmethod
    def restore(self, reading: Reading) -> None:
        """Put back a state that :meth:`read` gave."""

    @abstractmethod
    def seed(self, value: int) -> None:
        """Start the stream anew from ``value`` (64 bits)."""

    def digest(self) -> bytes:
        """Return the 16-byte digest of the state."""
        return self.read().digest()

    def rekey(self, key: str) -> int:
        """Start the stream anew from a seed derived from ``key`` and the stream's name; return the seed."""
        seed = derive_seed(key, self.name)
        self.seed(seed)
        return seed


class PythonStream(Stream):
    """Python's global ``random``."""

    name = "python"

    def __init__(self) -> None:
        self._last: tuple[Any, bytes] | None = None

    def read(self) -> Reading:
        """Return the Mersenne Twister's words and the pending Gaussian."""
        version, words, gauss = random.getstate()
        state = torch.tensor(words, dtype=torch.int64)
        return Reading({"words": state}, {"version": version, "gauss": encode(gauss, {})})

    def restore(self, reading: Reading) -> None:
        """Set the words and the pending Gaussian."""
        words = tuple(int(word) for word in reading.tensors["words"].tolist())
        random.setstate((reading.values["version"], words, decode(reading.values["gauss"], {})))

    def seed(self, value: int) -> None:
        """Seed as ``random.seed`` does."""
        random.seed(value)

    def digest(self) -> bytes:
        """Return the digest; the common case, an untouched stream, is told by comparing tuples (4 times cheaper)."""
        state = random.getstate()
        if self._last is None or self._last[0] != state:
            self._last = (state, super().digest())
        return self._last[1]


class NumpyStream(Stream):
    """NumPy's global ``RandomState``."""

    name = "numpy"

    def __init__(self) -> None:
        self._last: tuple[bytes, bytes] | None = None

    def read(self) -> Reading:
        """Return the bit generator's state and the pending Gaussian."""
        tensors: dict[str, torch.Tensor] = {}
        return Reading(tensors, encode(np.random.get_state(legacy=False), tensors))

    def restore(self, reading: Reading) -> None:
        """Set the bit generator's state and the pending Gaussian."""
        np.random.set_state(decode(reading.values, reading.tensors))

    def seed(self, value: int) -> None:
        """Seed with the low 32 bits, all that the legacy seeding takes."""
        np.random.seed(value & 0xFFFFFFFF)

    def digest(self) -> bytes:
        """Return the digest; an untouched stream is told by comparing its bytes."""
        kind, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
        state = np.asarray(key).tobytes() + f"{kind} {position} {has_gauss} {gauss!r}".encode()
        if self._last is None or self._last[0] != state:
            self._last = (state, super().digest())
        return self._last[1]


class TorchStream(Stream):
    """torch's default CPU generator."""

    name = "torch"

    def read(self) -> Reading:
        """Return the generator's state, 5,056 bytes."""
        return Reading({"state": torch.get_rng_state()})

    def restore(self, reading: Reading) -> None:
        """Set the generator's state."""
        torch.set_rng_state(reading.tensors["state"])

    def seed(self, value: int) -> None:
        """Seed the CPU generator alone; devices are streams of their own."""
        torch.default_generator.manual_seed(value)


class GeneratorStream(Stream):
    """A ``torch.Generator`` of any device: a device's default one, or a loader's or sampler's own."""

    def __init__(self, name: str, generator: torch.Generator) -> None:
        self.name = name
        self.generator = generator

    def read(self) -> Reading:
        """Return the generator's state."""
        return Reading({"state": self.generator.get_state()})

    def restore(self, reading: Reading) -> None:
        """Set the generator's state."""
        self.generator.set_state(reading.tensors["state"])

    def seed(self, value: int) -> None:
        """Seed the generator."""
        self.generator.manual_seed(value)


class NumpyGeneratorStream(Stream):
    """A ``numpy.random.Generator``."""

    def __init__(self, name: str, generator: np.random.Generator) -> None:
        self.name = name
        self.generator = generator

    def read(self) -> Reading:
        """Return the bit generator's state."""
        tensors: dict[str, torch.Tensor] = {}
        return Reading(tensors, encode(dict(self.generator.bit_generator.state), tensors))

    def restore(self, reading: Reading) -> None:
        """Set the bit generator's state."""
        self.generator.bit_generator.state = decode(reading.values, reading.tensors)

    def seed(self, value: int) -> None:
        """Take over the state of a new bit generator of the same kind with this seed."""
        self.generator.bit_generator.state = type(self.generator.bit_generator)(value).state


def global_streams() -> list[Stream]:
    """Return the process-wide streams: Python, NumPy, torch's CPU, and each device that is in use."""
    streams: list[Stream] = [PythonStream(), NumpyStream(), TorchStream()]
    streams += [GeneratorStream(f"cuda:{index}", generator) for index, generator in enumerate(device_generators())]
    return streams


def device_generators() -> list[torch.Generator]:
    """Return the default generator of each CUDA device; none before the program first uses one."""
    return list(torch.cuda.default_generators)


def seed_everything(value: int) -> None:
    """Seed Python, NumPy, torch's CPU and every device from one number.

    torch takes 64 bits, NumPy's legacy seeding the low 32.
    """
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.manual_seed(value)


def derive_seed(key: str, name: str) -> int:
    """Return 63 bits of SHA-256 over ``key`` and a stream's name: the seed of that stream under that key."""
    raw = hashlib.sha256(f"{key}\n{name}".encode()).digest()
    return int.from_bytes(raw[:8], "big") >> 1


class Preserved:
    """A block after which every given stream is as it was before: probing consumes nothing."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        self._before: list[tuple[Stream, Reading]] = []

    def __enter__(self) -> None:
        self._before = [(stream, stream.read()) for stream in self._streams]

    def __exit__(self, *_: object) -> None:
        for stream, reading in self._before:
            stream.restore(reading)
