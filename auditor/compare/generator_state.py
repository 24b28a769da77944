"""The state of a random generator, read from an anchor's stream without torch.

Where the layouts come from:

- torch's CPU generator, 5,056 bytes: ``CPUGeneratorImplState`` in aten/src/ATen/CPUGeneratorImpl.cpp; what ``left`` and
  ``next`` mean: aten/src/ATen/core/MT19937RNGEngine.h.
- torch's device generators, 16 bytes, seed and Philox offset: ``CUDAGeneratorImpl::get_state`` in
  aten/src/ATen/cuda/CUDAGeneratorImpl.cpp; XPU's are the same. Metal's 44 bytes are not read.
- CPython's ``random.Random.getstate()``: Modules/_randommodule.c (words and index), Lib/random.py (``gauss_next``).
- NumPy's bit generators and ``RandomState``: numpy/random/_mt19937.pyx, _pcg64.pyx, mtrand.pyx over
  numpy/random/src/mt19937 and numpy/random/src/pcg64.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.artifact.canonical import MAX_SAFE_INTEGER
from auditor.artifact.safetensors_file import StoredTensor

WORDS = 624
"""Words in a Mersenne Twister's block."""

TORCH_WORDS = slice(24, 24 + 8 * WORDS)
"""Where torch's CPU state has the words, 64 bits each; before them seed (u64), left and seeded (i32), next (u64)."""
TORCH_NORMAL = slice(5024, 5048)
"""Where the cached normal lies: its value (f64), a number no longer used (f64), whether it is valid (i32), padding."""

PCG_VARIANTS = ("PCG64", "PCG64DXSM")

_DECIMAL = re.compile(r"[1-9][0-9]{0,38}")
_GAUSS = {"has_gauss", "gauss"}


@dataclass(frozen=True)
class MersenneTwister:
    """MT19937 of torch's CPU, CPython or NumPy."""

    words: bytes
    """The block: 624 words of 32 bits, little-endian."""
    position: int
    """How many words of the block were drawn, 0 to 624. At 624 the next draw makes a new block."""
    seed: int | None = None
    """The seed of the last seeding; only torch keeps it."""
    normals: tuple[float, ...] = ()
    """Normal numbers made already and not yet handed out."""


@dataclass(frozen=True)
class Pcg64:
    """NumPy's PCG64 or PCG64DXSM: a 128-bit linear congruential generator with an output function."""

    variant: str
    state: int
    increment: int
    """Odd."""
    half: int | None = None
    """The upper 32 bits of the last draw, where only the lower ones were handed out."""
    normals: tuple[float, ...] = ()


@dataclass(frozen=True)
class Philox:
    """Philox of a torch device generator: its numbers are a function of seed and offset."""

    seed: int
    offset: int


GeneratorState = MersenneTwister | Pcg64 | Philox


def read_state(tensors: Mapping[str, StoredTensor], values: Any) -> GeneratorState | None:
    """Return the state that an anchor holds of one stream.

    ``tensors`` are the stream's, by their path below it; ``values`` is its entry in the anchor's values.json. None for
    a generator that is not known here, and for anything that no generator would have written. Never raises for what
    the anchor holds.
    """
    if values is None and tensors.keys() == {"state"}:
        return _torch_cpu(tensors["state"]) or _torch_device(tensors["state"])
    outer = members(values)
    if outer is None:
        return None
    if tensors.keys() == {"words"}:
        return _python(tensors["words"], outer)
    inner = members(outer.get("state"))
    if inner is None:
        return None
    if outer.get("bit_generator") == "MT19937":
        return _numpy_twister(tensors, outer, inner)
    return None if tensors else _numpy_pcg(outer, inner)


def members(value: Any) -> dict[str, Any] | None:
    """Return the members of an encoded dict with text keys, whichever way it is written; None for anything else."""
    if not isinstance(value, dict):
        return None
    if "$" not in value:
        return value
    items = value.get("items")
    if value["$"] != "dict" or value.keys() != {"$", "items"} or not isinstance(items, list):
        return None
    if not all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in items):
        return None
    found: dict[str, Any] = dict(items)
    return found if len(found) == len(items) else None


def _torch_cpu(tensor: StoredTensor) -> MersenneTwister | None:
    data = _data(tensor, "uint8", (5056,), 1)
    if data is None:
        return None
    seed, left, seeded, following = struct.unpack_from("<QiiQ", data)
    # next stands still at 0 after seeding, where left says that the block is used up; from then on both move.
    if seeded != 1 or not 1 <= left <= WORDS or (following != WORDS + 1 - left and (left, following) != (1, 0)):
        return None
    words = _narrow(np.frombuffer(data[TORCH_WORDS], dtype="<u8"))
    normal, _, valid = struct.unpack_from("<ddi", data, TORCH_NORMAL.start)
    small, small_valid = struct.unpack_from("<fB", data, TORCH_NORMAL.stop)
    normals = (*((normal,) if valid else ()), *((small,) if small_valid else ()))
    return None if words is None else MersenneTwister(words, WORDS + 1 - left, seed, normals)


def _torch_device(tensor: StoredTensor) -> Philox | None:
    data = _data(tensor, "uint8", (16,), 1)
    return None if data is None else Philox(*struct.unpack("<QQ", data))


def _python(tensor: StoredTensor, outer: dict[str, Any]) -> MersenneTwister | None:
    data = _data(tensor, "int64", (WORDS + 1,), 8)
    if data is None or outer.keys() != {"version", "gauss"} or not _is_integer(outer["version"], 3, 3):
        return None
    numbers = np.frombuffer(data, dtype="<i8")
    words, position = _narrow(numbers[:WORDS]), int(numbers[WORDS])
    gauss = outer["gauss"]
    if words is None or not 0 <= position <= WORDS or not (gauss is None or _is_finite(gauss)):
        return None
    return MersenneTwister(words, position, normals=() if gauss is None else (gauss,))


def _numpy_twister(
    tensors: Mapping[str, StoredTensor], outer: dict[str, Any], inner: dict[str, Any]
) -> MersenneTwister | None:
    normals = _gauss(outer, {"bit_generator", "state"})
    # The path is where auditor/state/values.py puts the array of {"state": {"key": …}}.
    key = {"$": "array", "path": "state.key", "dtype": "uint32"}
    if normals is None or inner.keys() != {"key", "pos"} or inner["key"] != key or tensors.keys() != {"state.key"}:
        return None
    data = _data(tensors["state.key"], "uint8", (WORDS, 4), 1)
    if data is None or not _is_integer(inner["pos"], 0, WORDS):
        return None
    words = _narrow(np.frombuffer(data, dtype="<u4"))
    return None if words is None else MersenneTwister(words, inner["pos"], normals=normals)


def _numpy_pcg(outer: dict[str, Any], inner: dict[str, Any]) -> Pcg64 | None:
    normals = _gauss(outer, {"bit_generator", "state", "has_uint32", "uinteger"})
    if normals is None or outer["bit_generator"] not in PCG_VARIANTS or inner.keys() != {"state", "inc"}:
        return None
    state, increment = _wide(inner["state"]), _wide(inner["inc"])
    if state is None or increment is None or not increment & 1:
        return None
    has_half, half = outer["has_uint32"], outer["uinteger"]
    if not (_is_integer(has_half, 0, 1) and _is_integer(half, 0, 2**32 - 1)):
        return None
    return Pcg64(outer["bit_generator"], state, increment, half if has_half else None, normals)


def _gauss(outer: dict[str, Any], others: set[str]) -> tuple[float, ...] | None:
    """Return a ``RandomState``'s pending Gaussian; None if the members are not ``others``, with or without the two."""
    if outer.keys() == others:
        return ()
    if outer.keys() != others | _GAUSS or not _is_integer(outer["has_gauss"], 0, 1) or not _is_finite(outer["gauss"]):
        return None
    return (outer["gauss"],) if outer["has_gauss"] else ()


def _data(tensor: StoredTensor, dtype: str, shape: tuple[int, ...], item_bytes: int) -> memoryview | None:
    """Return a tensor's bytes; None if it is not of this dtype and shape."""
    fits = tensor.dtype == dtype and tensor.shape == shape and len(tensor.data) == math.prod(shape) * item_bytes
    return tensor.data if fits else None


def _narrow(words: np.ndarray[Any, Any]) -> bytes | None:
    """Return a block's words in 32 bits; None if one needs more, or if all are zero and so is all that would follow."""
    if words.min() < 0 or words.max() >= 2**32:
        return None
    # Of the first word only the highest bit has part in the recurrence (Matsumoto and Nishimura 1998, section 2.1).
    return words.astype("<u4").tobytes() if words[1:].any() or int(words[0]) >> 31 else None


def _wide(value: Any) -> int | None:
    """Return an integer of up to 128 bits, written as a number or as anchors write those that JSON has no form for."""
    if not isinstance(value, dict):
        return value if _is_integer(value, 0, MAX_SAFE_INTEGER) else None
    text = value.get("value")
    if value.keys() != {"$", "value"} or value["$"] != "int" or not isinstance(text, str):
        return None
    number = int(text) if _DECIMAL.fullmatch(text) else 0
    return number if MAX_SAFE_INTEGER < number < 2**128 else None


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
