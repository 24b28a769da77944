"""How two stored tensors differ: where first, in how many elements, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.artifact.digest import CHUNK_BYTES
from auditor.artifact.safetensors_file import StoredTensor

_BLOCK = CHUNK_BYTES
"""Elements looked at together: memory stays flat for tensors of any size."""
_PLAIN = frozenset({"bool", "float16", "float32", "float64", "complex64"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_PAIRS = frozenset({"dict", "ordered", "counter", "defaultdict"})
_WIDE = frozenset({"int64", "uint64"})
_SIGNED = {"float16": np.int16, "bfloat16": np.int16, "float32": np.int32, "float64": np.int64}


@dataclass(frozen=True)
class TensorDifference:
    """Two tensors of one name that are not equal."""

    name: str
    """``SOURCE/PATH``."""
    chunk: int | None
    """The first chunk (1 MiB, as the digest cuts them) that differs; None where dtype or shape differ."""
    element: tuple[int, ...] | None
    """The index of the first element that differs."""
    values: tuple[float, float] | None
    """That element in A and in B, whole numbers as such; None where NumPy has no numbers for the dtype."""
    differing: int | None
    """How many elements differ."""
    elements: int
    largest: float | None
    """The largest absolute difference; NaN where an element is no number in one of them."""
    square: float
    """The sum of squared differences."""
    squares: tuple[float, float]
    """The sums of A's and of B's squares."""
    product: float
    """The sum of A times B."""
    ulps: int | None
    """The largest distance in representable numbers of the dtype (units in the last place); floating point only, and
    None where ``largest`` is NaN."""
    shapes: tuple[str, str] | None = None
    """Dtype and shape of A's and B's where they differ."""
    is_integer: bool = False
    """Whether its elements are whole numbers: counters, pointers, indices."""


def difference(name: str, a: StoredTensor, b: StoredTensor) -> TensorDifference | None:
    """Compare two tensors element by element, as bytes first; None where they are equal."""
    elements = math.prod(a.shape)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        shapes = tuple(f"{each.dtype}{list(each.shape)}" for each in (a, b))
        return TensorDifference(
            name, None, None, None, None, elements, None, 0.0, (0.0, 0.0), 0.0, None, (shapes[0], shapes[1])
        )
    if a.data == b.data:
        return None
    size = len(a.data) // elements
    first, differing, largest, square, squares, product, ulps = None, 0, 0.0, 0.0, [0.0, 0.0], 0.0, 0
    numbers = a.dtype in _PLAIN or a.dtype == "bfloat16"
    for start, one, two in _blocks(a.data, b.data, size):
        unequal = (one != two).any(axis=1)
        count = int(unequal.sum())
        differing += count
        if count and first is None:
            first = start + int(unequal.argmax())
        if numbers:
            x, y = _numbers(one, a.dtype), _numbers(two, a.dtype)
            with np.errstate(invalid="ignore", over="ignore"):
                gap = _distances(one, two, a.dtype) if a.dtype in _WIDE else np.abs(y - x)
                largest = float(np.maximum(largest, np.maximum.reduce(gap[unequal], initial=0.0)))
                square += float(np.vdot(gap, gap).real)
                squares[0] += float(np.vdot(x, x).real)
                squares[1] += float(np.vdot(y, y).real)
                product += float(np.vdot(x, y).real)
            if a.dtype in _SIGNED:
                ulps = max(ulps, _ulps(one[unequal], two[unequal], a.dtype))
    assert first is not None  # noqa: S101 - the bytes differ, so some element does
    values = (_element(a, first, size), _element(b, first, size)) if numbers and a.dtype != "complex64" else None
    return TensorDifference(
        name,
        first * size // CHUNK_BYTES,
        tuple(int(each) for each in np.unravel_index(first, a.shape)) if a.shape else (),
        values,
        differing,
        elements,
        largest if numbers else None,
        square,
        (squares[0], squares[1]),
        product,
        ulps if a.dtype in _SIGNED and not math.isnan(largest) else None,
        is_integer="int" in a.dtype,
    )


@dataclass(frozen=True)
class SourceDifference:
    """How the tensors of one memory source differ between two anchors."""

    source: str
    step: int
    tensors: tuple[TensorDifference, ...]
    """The tensors that differ, in natural order of their paths."""
    only: tuple[tuple[str, ...], tuple[str, ...]]
    """The tensors that only A and only B has."""
    values: tuple[tuple[str, Any, Any], ...]
    """What differs in its nested value: place, A's, B's."""

    @property
    def relative(self) -> float | None:
        """The norm of the difference over that of A, over the tensors that differ; None where it is not a number."""
        return _ratio(self._sum("square"), sum(each.squares[0] for each in self.tensors))

    @property
    def largest(self) -> float | None:
        """The largest absolute difference; NaN where one of them is, None without numbers."""
        known = [each.largest for each in self.tensors if each.largest is not None]
        return next(filter(math.isnan, known), max(known, default=None))

    @property
    def ulps(self) -> int | None:
        """The largest distance in units in the last place."""
        return max((each.ulps for each in self.tensors if each.ulps is not None), default=None)

    @property
    def scale(self) -> float | None:
        """The factor by which B is A, if all that differs points the same way to within a ten-thousandth; else None."""
        if not self.tensors or any(self.only) or any(each.shapes for each in self.tensors):
            return None
        a, b = (sum(each.squares[side] for each in self.tensors) for side in (0, 1))
        product = self._sum("product")
        if not (a > 0 and b > 0 and math.isfinite(a * b) and math.isfinite(product)):
            return None
        factor = product / a
        # What is left of B once the multiple of A is taken away.
        rest = self._sum("square") - (factor - 1) ** 2 * a
        return factor if factor > 0 and rest <= 1e-8 * b else None

    def _sum(self, name: str) -> float:
        return float(sum(getattr(each, name) for each in self.tensors))


def source_difference(
    source: str,
    step: int,
    tensors: tuple[Mapping[str, StoredTensor], Mapping[str, StoredTensor]],
    values: tuple[Any, Any],
) -> SourceDifference:
    """Compare one source's tensors (by ``SOURCE/PATH``) and nested values in two anchors."""
    a, b = tensors
    shared = sorted(a.keys() & b.keys(), key=natural)
    found = [difference(name, a[name], b[name]) for name in shared]
    return SourceDifference(
        source,
        step,
        tuple(each for each in found if each is not None),
        (tuple(sorted(a.keys() - b.keys(), key=natural)), tuple(sorted(b.keys() - a.keys(), key=natural))),
        tuple(value_differences(*values)),
    )


def alignment(
    earlier: Mapping[str, StoredTensor], a: Mapping[str, StoredTensor], b: Mapping[str, StoredTensor]
) -> float | None:
    """Return the cosine between A less B and what was before, over the floating-point tensors; None if undefined."""
    product = gap = whole = 0.0
    for name in earlier.keys() & a.keys() & b.keys():
        three = [each[name] for each in (earlier, a, b)]
        if len({(each.dtype, each.shape) for each in three}) != 1 or three[0].dtype not in _SIGNED or not three[0].data:
            continue
        size = len(three[0].data) // math.prod(three[0].shape)
        step = _BLOCK * size
        for start in range(0, len(three[0].data), step):
            x, y, z = (
                _numbers(np.frombuffer(each.data[start : start + step], dtype=np.uint8).reshape(-1, size), each.dtype)
                for each in three
            )
            product += float(np.dot(y - z, x))
            gap += float(np.dot(y - z, y - z))
            whole += float(np.dot(x, x))
    cosine = product / (math.sqrt(gap) * math.sqrt(whole)) if gap > 0 and whole > 0 else math.nan
    return cosine if math.isfinite(cosine) else None


def value_differences(a: Any, b: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two nested values differ: a place such as ``[0].lr``, and what stands there."""
    a, b = _plain(a), _plain(b)
    if isinstance(a, dict) and isinstance(b, dict) and a.get("$") == b.get("$"):
        for key in sorted(a.keys() | b.keys()):
            yield from value_differences(a.get(key), b.get(key), f"{place}.{key}" if place else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for position, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from value_differences(one, two, f"{place}[{position}]")
    elif type(a) is not type(b) or a != b:
        yield place, a, b


def _plain(value: Any) -> Any:
    """Return a dict that was written as pairs (docs/run-directory.md, "Anchors") as a dict, if its keys are plain."""
    if not isinstance(value, dict) or not isinstance(value.get("items"), list):
        return value
    pairs = value["items"]
    if not isinstance(value.get("$"), str) or value["$"] not in _PAIRS:
        return value
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str | int) for pair in pairs):
        return value
    found = {str(key): held for key, held in pairs}
    return found if len(found) == len(pairs) else value


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``layer10`` after ``layer2``, and no two names alike."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for character in f"{name}\0":
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((len(digits.lstrip("0")), digits.lstrip("0")))
            digits = ""
        parts.append((-1, character))
    return [*parts, (-1, name)]  # names that differ in leading zeros alone


def _blocks(a: memoryview, b: memoryview, size: int) -> Iterator[tuple[int, Any, Any]]:
    """Yield the number of the first element and both tensors' bytes, shape ``(elements, size)``, block by block."""
    step = _BLOCK * size
    for start in range(0, len(a), step):
        one = np.frombuffer(a[start : start + step], dtype=np.uint8).reshape(-1, size)
        two = np.frombuffer(b[start : start + step], dtype=np.uint8).reshape(-1, size)
        yield start // size, one, two


def _numbers(raw: Any, dtype: str) -> Any:
    """Return the elements of bytes of shape ``(elements, size)`` as float64 (complex128 for complex64)."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype == "bfloat16":
            return (raw.reshape(-1).view("<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        found = raw.reshape(-1).view(np.dtype(dtype).newbyteorder("<"))
        return found.astype(np.complex128 if dtype == "complex64" else np.float64)


def _distances(one: Any, two: Any, dtype: str) -> Any:
    """Return the distances of 64-bit integers as float64, rounded once: as doubles neighbours would be equal."""
    a, b = (raw.reshape(-1).view(np.dtype(dtype).newbyteorder("<")) for raw in (one, two))
    return (np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)).astype(np.float64)


def _ulps(a: Any, b: Any, dtype: str) -> int:
    """Return the largest distance on the line of representable numbers, on which -0 and +0 lie together."""
    if not len(a):
        return 0
    signed = np.dtype(_SIGNED[dtype]).newbyteorder("<")
    lowest = -(1 << (8 * signed.itemsize - 1))
    lines = []
    for raw in (a, b):
        whole = np.ascontiguousarray(raw).reshape(-1).view(signed)
        # Python's integers where the distance of two doubles may pass 2^63.
        wide = whole.astype(object) if signed.itemsize == 8 else whole.astype(np.int64)
        lines.append(np.where(whole < 0, lowest - wide, wide))
    return int(np.abs(lines[0] - lines[1]).max())


def _element(tensor: StoredTensor, index: int, size: int) -> float:
    raw = np.frombuffer(tensor.data[index * size : (index + 1) * size], dtype=np.uint8).reshape(1, size)
    if "int" in tensor.dtype:
        return int(raw.reshape(-1).view(np.dtype(tensor.dtype).newbyteorder("<"))[0])
    return float(_numbers(raw, tensor.dtype)[0])


def _ratio(square: float, whole: float) -> float | None:
    if not (math.isfinite(square) and math.isfinite(whole)):
        return None
    return math.sqrt(square) / math.sqrt(whole) if whole > 0 else None
