"""Canonical JSON: one way to write a value, so that equal values are equal bytes (docs/run-directory.md)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

MAX_SAFE_INTEGER = 2**53 - 1


def canonical_bytes(value: Any) -> bytes:
    """Return the canonical JSON of ``value`` in UTF-8, without a final newline.

    Raises
    ------
    ValueError
        For NaN or an infinity, an integer beyond ±(2^53 - 1), or a lone surrogate: JSON readers disagree on them.
        Use :func:`encode_float` and decimal strings.
    TypeError
        For anything JSON has no form for, keys that are not strings included.
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def encode_float(value: float) -> float | str:
    """Return ``value``, or its name as a string where JSON has no number for it; ``float()`` reads both back."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def write_canonical(path: Path, value: Any) -> bytes:
    """Write ``value`` as canonical JSON and a newline, atomically and durably; return the bytes written."""
    data = canonical_bytes(value) + b"\n"
    write_atomically(path, data)
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary name in the same directory, flush it to the disk, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON key must be a string, not {type(key).__name__}")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_SAFE_INTEGER:
        raise ValueError(f"integer {value} is beyond 2^53 - 1; write it as a decimal string")
