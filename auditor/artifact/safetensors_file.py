"""A strict reader of safetensors headers, on bytes: nothing is copied, nothing is executed.

Source: the format section of the safetensors README (an 8-byte little-endian header length, a JSON header, the data).
Stricter than it: no gap, no overlap, no byte after the last tensor, no duplicate key, and a cap on the header.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from auditor.artifact import strict_json
from auditor.errors import MemauditError

MAX_HEADER_BYTES = 64 << 20
MAX_DIMENSIONS = 64

# safetensors' name: (torch's name without "torch.", bytes an element)
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}


STORABLE = frozenset(dtype for dtype, _ in DTYPES.values())
"""torch's names of the dtypes that an anchor can hold."""


class SafetensorsError(MemauditError):
    """Bytes that are not one well-formed safetensors file."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in the file."""

    dtype: str
    """torch's name without ``torch.``."""
    shape: tuple[int, ...]
    data: memoryview
    """The elements, little-endian, in C order; a view into the file's bytes."""


def read(data: bytes | memoryview, where: str) -> dict[str, StoredTensor]:
    """Return every tensor of a safetensors file by name, in the order of their data.

    ``data`` is the whole file: bytes, or a memoryview of a memory map. ``where`` names it in errors.

    Raises
    ------
    SafetensorsError
        If anything about the file is not exactly as the format says.
    """
    view = memoryview(data).cast("B") if isinstance(data, memoryview) else memoryview(data)
    header, body = _split(view, where)
    entries: list[tuple[int, int, str, str, tuple[int, ...]]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            _check_metadata(entry, where)
            continue
        entries.append(_entry(name, entry, where))
    # Empty tensors share their offset with a neighbour: sorting by (start, end) puts them before it.
    entries.sort(key=lambda item: (item[0], item[1]))
    position = 0
    tensors: dict[str, StoredTensor] = {}
    for start, end, name, dtype, shape in entries:
        if start != position:
            what = "overlaps the tensor before it" if start < position else "leaves a gap before it"
            raise SafetensorsError(f"tensor {name!r} {what}", where=where, why=f"offset {start}, not {position}")
        if end > len(body):
            raise SafetensorsError(f"tensor {name!r} reaches past the end of the file", where=where)
        tensors[name] = StoredTensor(dtype, shape, body[start:end])
        position = end
    if position != len(body):
        raise SafetensorsError(f"{len(body) - position} bytes after the last tensor", where=where)
    return tensors


def _split(view: memoryview, where: str) -> tuple[dict[str, Any], memoryview]:
    if len(view) < 8:
        raise SafetensorsError("too short for a safetensors file", where=where, why=f"{len(view)} bytes")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"a header of {length} bytes, more than {MAX_HEADER_BYTES}", where=where)
    if length > len(view) - 8:
        raise SafetensorsError("the header reaches past the end of the file", where=where)
    raw = bytes(view[8 : 8 + length])
    if not raw.startswith(b"{"):
        raise SafetensorsError("the header does not begin with an object", where=where)
    try:
        header = strict_json.parse(raw, where, max_bytes=MAX_HEADER_BYTES, max_depth=4)
    except strict_json.StrictJsonError as error:
        raise SafetensorsError(f"the header: {error.what}", where=where, why=error.why) from None
    return header, view[8 + length :]


def _check_metadata(entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise SafetensorsError("__metadata__ is not a map of strings", where=where)


def _entry(name: str, entry: Any, where: str) -> tuple[int, int, str, str, tuple[int, ...]]:
    """Return (start, end, name, torch dtype, shape) of one header entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"tensor {name!r} is not described by dtype, shape and data_offsets", where=where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SafetensorsError(f"tensor {name!r} has an unknown dtype", where=where, why=f"{dtype!r}"[:100])
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(size) for size in shape):
        raise SafetensorsError(f"tensor {name!r} has a malformed shape", where=where)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        raise SafetensorsError(f"tensor {name!r} has malformed offsets", where=where)
    start, end = offsets
    torch_name, item_bytes = DTYPES[dtype]
    # Python's integers do not overflow, so a product past 2^64 is simply unequal here.
    if end - start != math.prod(shape) * item_bytes:
        raise SafetensorsError(f"tensor {name!r} does not fill its shape", where=where, why=f"{end - start} bytes")
    return start, end, name, torch_name, tuple(shape)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
