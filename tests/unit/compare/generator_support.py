"""Real generators, their states as an anchor holds them, and calls that draw from them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.digest import digest_text
from auditor.artifact.safetensors_file import StoredTensor
from auditor.artifact.strict_json import parse_canonical
from auditor.compare.generator_state import GeneratorState, read_state
from auditor.state.streams import GeneratorStream, NumpyGeneratorStream, NumpyStream, PythonStream, Stream
from auditor.state.tensors import dtype_name

Stored = tuple[dict[str, StoredTensor], Any]


def stored(stream: Stream) -> Stored:
    """A stream's tensors and values as they come back from an anchor's files."""
    reading = stream.read()
    tensors = {
        path: StoredTensor(dtype_name(tensor.dtype), tuple(tensor.shape), memoryview(tensor.numpy().tobytes()))
        for path, tensor in reading.tensors.items()
    }
    return tensors, parse_canonical(canonical_bytes(reading.values) + b"\n", "values")


def state_of(stream: Stream) -> GeneratorState:
    state = read_state(*stored(stream))
    assert state is not None
    return state


def text_of(stream: Stream) -> str:
    """A stream's digest as the trace has it."""
    return digest_text(stream.read().digest())


def torch_stream(seed: int) -> GeneratorStream:
    return GeneratorStream("torch", torch.Generator().manual_seed(seed))


def python_stream(seed: int) -> PythonStream:
    return PythonStream("python", random.Random(seed))


def numpy_stream(seed: int) -> NumpyStream:
    return NumpyStream("numpy", np.random.RandomState(seed))


def numpy_generator(kind: Any, seed: int) -> NumpyGeneratorStream:
    return NumpyGeneratorStream("generator", np.random.Generator(kind(seed)))


MAKERS: dict[str, Callable[[int], Any]] = {
    "torch": torch_stream,
    "python": python_stream,
    "numpy": numpy_stream,
    "MT19937": lambda seed: numpy_generator(np.random.MT19937, seed),
    "PCG64": lambda seed: numpy_generator(np.random.PCG64, seed),
    "PCG64DXSM": lambda seed: numpy_generator(np.random.PCG64DXSM, seed),
}

TWISTERS = ("torch", "python", "numpy", "MT19937")


def torch_dropout(generator: torch.Generator) -> None:
    """Dropout draws from the default generator alone: lend it this one's state."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        F.dropout(torch.ones(40), 0.3)
        generator.set_state(torch.get_rng_state())


_TORCH_CALLS = {
    "rand": lambda g: torch.rand(5, generator=g),
    "rand64": lambda g: torch.rand(2, generator=g, dtype=torch.float64),
    "randint": lambda g: torch.randint(10, (3,), generator=g),
    "long randint": lambda g: torch.randint(2**60, (3,), generator=g),
    "one randn": lambda g: torch.randn(1, generator=g),
    "three randn": lambda g: torch.randn(3, generator=g),
    "randn": lambda g: torch.randn(50, generator=g),
    "normal_": lambda g: torch.empty(7).log_normal_(generator=g),
    "dropout": torch_dropout,
    "randperm": lambda g: torch.randperm(700, generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.full((9,), 0.5), generator=g),
    "multinomial": lambda g: torch.multinomial(torch.ones(6), 4, generator=g),
    "exponential": lambda g: torch.empty(5).exponential_(generator=g),
}
_PYTHON_CALLS = {
    "random": lambda g: g.random(),
    "randrange": lambda g: g.randrange(1000),
    "gauss": lambda g: g.gauss(0.0, 1.0),
    "shuffle": lambda g: g.shuffle(list(range(400))),
    "choices": lambda g: g.choices(range(9), k=350),
    "normalvariate": lambda g: g.normalvariate(),
}
_NUMPY_CALLS = {
    "rand": lambda g: g.rand(5),
    "randn": lambda g: g.randn(),
    "three randn": lambda g: g.randn(3),
    "randint": lambda g: g.randint(10, size=3),
    "permutation": lambda g: g.permutation(700),
    "choice": lambda g: g.choice(5, size=2),
    "gamma": lambda g: g.gamma(2.0),
}
_GENERATOR_CALLS = {
    "random": lambda g: g.random(5),
    "integers": lambda g: g.integers(100, size=3),
    "one integer": lambda g: g.integers(100),
    "normal": lambda g: g.normal(size=3),
    "permutation": lambda g: g.permutation(700),
    "float32": lambda g: g.random(3, dtype=np.float32),
}
CALLS: dict[str, dict[str, Callable[[Any], object]]] = {
    "torch": _TORCH_CALLS,
    "python": _PYTHON_CALLS,
    "numpy": _NUMPY_CALLS,
    "MT19937": _GENERATOR_CALLS,
    "PCG64": _GENERATOR_CALLS,
    "PCG64DXSM": _GENERATOR_CALLS,
}


def skip(kind: str, generator: Any, draws: int) -> None:
    """Draw raw words and throw them away."""
    match kind:
        case "torch":
            torch.empty(draws, dtype=torch.int32).random_(generator=generator)
        case "python":
            for _ in range(draws):
                generator.getrandbits(32)
        case "numpy":
            generator._bit_generator.random_raw(draws)
        case _:
            generator.bit_generator.random_raw(draws)


def next_numbers(kind: str, generator: Any) -> list[int]:
    """Some raw words from here on."""
    match kind:
        case "torch":
            return torch.empty(700, dtype=torch.int32).random_(generator=generator).tolist()
        case "python":
            return [generator.getrandbits(32) for _ in range(700)]
        case "numpy":
            return generator._bit_generator.random_raw(700).tolist()
        case _:
            return generator.bit_generator.random_raw(700).tolist()
