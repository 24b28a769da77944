"""Order files: the sample ids of one pass, as a strict subset of NumPy's .npy format 1.0 (docs/run-directory.md).

Source of the layout: the ``numpy.lib.format`` documentation. Only what this module would write is read back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.canonical import write_atomically
from auditor.errors import MemauditError

Ids = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

_MAGIC = b"\x93NUMPY\x01\x00"
_ALIGNMENT = 64
_HEADER = re.compile(rb"\{'descr': '<u([48])', 'fortran_order': False, 'shape': \((0|[1-9][0-9]{0,18}),\), \} *\n")


class OrderFileError(MemauditError):
    """Bytes that are not an order file."""


def encode(ids: Ids) -> bytes:
    """Return the order file of ``ids``, a vector of non-negative integers of shape ``(samples,)``.

    Ids are stored as ``<u4``, or as ``<u8`` if one of them needs it.

    Raises
    ------
    OrderFileError
        If ``ids`` is not a vector of non-negative integers.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise OrderFileError(f"sample ids must be a vector of integers, not {array.dtype} of shape {array.shape}")
    if array.size and int(array.min()) < 0:
        raise OrderFileError(f"sample ids must not be negative, and {int(array.min())} is")
    wide = bool(array.size) and int(array.max()) > 0xFFFFFFFF
    stored = np.ascontiguousarray(array, dtype="<u8" if wide else "<u4")
    return _header(8 if wide else 4, stored.size) + stored.tobytes()


def write(path: Path, ids: Ids) -> bytes:
    """Write an order file atomically and durably; return its bytes, to be hashed."""
    data = encode(ids)
    write_atomically(path, data)
    return data


def read(data: bytes | memoryview, where: str) -> Ids:
    """Return the ids of an order file, a read-only vector of dtype ``<u4`` or ``<u8``.

    Raises
    ------
    OrderFileError
        If a byte of it is other than :func:`encode` writes it.
    """
    head = bytes(data[:256])
    if not head.startswith(_MAGIC):
        raise OrderFileError("not a NumPy 1.0 file", where=where)
    length = int.from_bytes(head[8:10], "little")
    match = _HEADER.fullmatch(head[10 : 10 + length])
    if match is None:
        raise OrderFileError("not a vector of <u4 or <u8 in NumPy's format 1.0", where=where)
    width, count = int(match[1]), int(match[2])
    if head[: 10 + length] != _header(width, count):
        raise OrderFileError("the header is padded in an unknown way", where=where)
    if len(data) != 10 + length + width * count:
        why = f"{len(data)} bytes, not {10 + length + width * count}"
        raise OrderFileError("the file's size does not fit its shape", where=where, why=why)
    return np.frombuffer(data, dtype=f"<u{width}", offset=10 + length, count=count)


def _header(width: int, count: int) -> bytes:
    text = f"{{'descr': '<u{width}', 'fortran_order': False, 'shape': ({count},), }}".encode("ascii")
    padding = -(len(_MAGIC) + 2 + len(text) + 1) % _ALIGNMENT
    text += b" " * padding + b"\n"
    return _MAGIC + len(text).to_bytes(2, "little") + text
