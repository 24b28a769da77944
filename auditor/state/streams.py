"""Random streams: their state, their seeding and their re-keying."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch

from auditor.state.source import Reading
from auditor.state.twister import NumpyTwister, PythonTwister, twister_words
from auditor.state.values import decode, encode

TORCH_DEFAULT_SEED = 67280421310721
"""What torch's generator reports when nobody seeded it (c10 ``default_rng_seed_val``)."""

PYTHON_GLOBAL: random.Random = random._inst
"""What ``random.random()`` and its kin draw from."""

NUMPY_GLOBAL: np.random.RandomState = np.random.mtrand._rand
"""What ``np.random.rand()`` and its kin draw from."""


class Place(NamedTuple):
    """Where a generator was met."""

    name: str
    """``noise``, ``loader``, ``sampler[2]``, ``dataset.transform.rng``."""
    part: str
    """``watched``, or the part of a loader: ``loader``, ``sampler``, ``batch_sampler``, ``dataset``, ``collate_fn``."""
    loader: int | None
    """The loader's number; None for what was watched."""
    holder: int | None
    """The identity of the object that holds it: one object may be met on two ways. None for a generator that was
    watched itself or given to the loader."""


class Stream(ABC):
    """One source of randomness. ``name`` is its name in the contract: ``python``, ``torch``, ``cuda:0``, ``loader``."""

    name: str
    own = True
    """Whether the state is this process's own, and not what another one said of itself."""
    places: tuple[Place, ...] = ()
    """Where its generator was met; empty for the process-wide ones unless some object holds them."""
    fresh_from: int | None = None
    """The seed it was found to stand at the start of, where its state alone could tell."""
    _glanced: tuple[object, bytes] | None = None

    @abstractmethod
    def read(self) -> Reading:
        """Return the state as it is now, without consuming anything."""

    @abstractmethod
    def restore(self, reading: Reading) -> None:
        """Put back a state that :meth:`read` gave."""

    @abstractmethod
    def seed(self, value: int) -> None:
        """Start the stream anew from ``value`` (64 bits)."""

    def glance(self) -> object:
        """Return, cheaply, what is equal only while the state is the same; None where nothing such is known."""
        return None

    def digest(self) -> bytes:
        """Return the 16-byte digest of the state; a few microseconds while it is the same as the last time."""
        seen = self.glance()
        if seen is None:
            return self.read().digest()
        if self._glanced is None or self._glanced[0] != seen:
            self._glanced = (seen, self.read().digest())
        return self._glanced[1]

    def initial_seed(self) -> int | None:
        """Return the seed the stream started from, where it can still be asked for it (torch's generators)."""
        return None

    def rekey(self, key: str) -> int:
        """Start the stream anew from a seed derived from ``key`` and the stream's name; return the seed."""
        seed = derive_seed(key, self.name)
        self.seed(seed)
        return seed


class PythonStream(Stream):
    """A ``random.Random``; without one, Python's global ``random``."""

    def __init__(self, name: str = "python", generator: random.Random | None = None) -> None:
        self.name = name
        self.generator = PYTHON_GLOBAL if generator is None else generator
        # A class of one's own may keep its state elsewhere.
        self._memory = PythonTwister(self.generator) if type(self.generator) is random.Random else None

    def read(self) -> Reading:
        """Return the Mersenne Twister's words and the pending Gaussian."""
        version, words, gauss = self.generator.getstate()
        state = torch.from_numpy(np.array(words, dtype=np.int64))
        return Reading({"words": state}, {"version": version, "gauss": encode(gauss, {})})

    def restore(self, reading: Reading) -> None:
        """Set the words and the pending Gaussian."""
        words = tuple(int(word) for word in reading.tensors["words"].tolist())
        self.generator.setstate((reading.values["version"], words, decode(reading.values["gauss"], {})))

    def seed(self, value: int) -> None:
        """Seed as ``random.seed`` does."""
        self.generator.seed(value)

    def glance(self) -> object:
        """Return the generator's memory, or its state where its class is the program's own."""
        return self.generator.getstate() if self._memory is None else self._memory.read()


class NumpyStream(Stream):
    """A ``np.random.RandomState``; without one, NumPy's global one."""

    def __init__(self, name: str = "numpy", generator: np.random.RandomState | None = None) -> None:
        self.name = name
        self.generator = NUMPY_GLOBAL if generator is None else generator
        self._memory = NumpyTwister(self.generator)

    @property
    def _bits(self) -> Any:
        # Asked for each time: np.random.set_bit_generator() puts another one in its place.
        return self.generator._bit_generator

    def sequence(self) -> np.random.bit_generator.ISeedSequence | None:
        """Return the seed sequence the generator started from; none once it was seeded in the legacy way."""
        found: np.random.bit_generator.ISeedSequence | None = getattr(self._bits, "seed_seq", None)
        return found

    def read(self) -> Reading:
        """Return the bit generator's state and the pending Gaussian."""
        tensors: dict[str, torch.Tensor] = {}
        return Reading(tensors, encode(self.generator.get_state(legacy=False), tensors))

    def restore(self, reading: Reading) -> None:
        """Set the bit generator's state and the pending Gaussian."""
        self.generator.set_state(decode(reading.values, reading.tensors))

    def seed(self, value: int) -> None:
        """Seed with the low 32 bits, all that the legacy seeding takes; other bit generators with the whole."""
        if isinstance(self._bits, np.random.MT19937):
            self.generator.seed(value & 0xFFFFFFFF)
        else:
            self.generator.set_state({**type(self._bits)(value).state, "has_gauss": 0, "gauss": 0.0})

    def glance(self) -> object:
        """Return the generator's memory; its bit generator's state where that is no Mersenne Twister."""
        if isinstance(self._bits, np.random.MT19937):
            return self._memory.own(), self._memory.words()
        return self._memory.own(), _frozen(self._bits.state)


class GeneratorStream(Stream):
    """A ``torch.Generator`` of any device: a default one, or a loader's or sampler's own."""

    def __init__(self, name: str, generator: torch.Generator) -> None:
        self.name = name
        self.generator = generator

    def read(self) -> Reading:
        """Return the generator's state: 5,056 bytes on the CPU."""
        return Reading({"state": self.generator.get_state()})

    def restore(self, reading: Reading) -> None:
        """Set the generator's state."""
        self.generator.set_state(reading.tensors["state"])

    def seed(self, value: int) -> None:
        """Seed this generator alone; those of other devices are streams of their own."""
        self.generator.manual_seed(value)

    def glance(self) -> object:
        """Return the generator's state as bytes."""
        return self.generator.get_state().numpy().tobytes()

    def initial_seed(self) -> int | None:
        """Return the seed of the last seeding; a restored state brings its own along."""
        return self.generator.initial_seed()


class TorchStream(GeneratorStream):
    """torch's default CPU generator."""

    def __init__(self) -> None:
        super().__init__("torch", torch.default_generator)


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

    def glance(self) -> object:
        """Return the bit generator's state, or its memory where that is cheaper."""
        bits: Any = self.generator.bit_generator
        if isinstance(bits, np.random.MT19937):
            with bits.lock:
                return twister_words(bits).tobytes()
        return _frozen(bits.state)


def _frozen(state: Any) -> Any:
    """Return a bit generator's state in a form that can be compared."""
    if isinstance(state, dict):
        return {key: _frozen(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


def global_streams() -> list[Stream]:
    """Return the process-wide streams: Python, NumPy, torch's CPU, and each device that is in use."""
    streams: list[Stream] = [PythonStream(), NumpyStream(), TorchStream()]
    streams += [GeneratorStream(name, generator) for name, generator in device_generators().items()]
    return streams


def device_generators() -> dict[str, torch.Generator]:
    """Return the default generator of each device, ``cuda:0``, ``xpu:0``, ``mps``; none before it is first used.

    Metal does not say whether it is in use: its generator is there wherever it can be used.
    """
    found = {f"cuda:{index}": generator for index, generator in enumerate(torch.cuda.default_generators)}
    found.update({f"xpu:{index}": generator for index, generator in enumerate(torch.xpu.default_generators)})
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps._get_default_mps_generator()
    return found


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
