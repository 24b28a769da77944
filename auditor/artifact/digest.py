"""The tensor digest ``xxh3-128-tree-1`` (docs/run-directory.md), in NumPy.

XXH3-128 is fast and not collision-resistant: digests locate and compare. Evidence stands on SHA-256.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import xxhash

from auditor.artifact.canonical import canonical_bytes

ALGORITHM = "xxh3-128-tree-1"
CHUNK_BYTES = 1 << 20
SHARED_BYTES = 32 << 20
"""From this size on threads share a tensor's chunks; below, handing out costs more than it saves."""
_MOST_THREADS = 8

_BIG_ENDIAN = sys.byteorder == "big"


def header(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """Return what binds a tensor's name, dtype and shape into its digest: canonical JSON and a zero byte."""
    return canonical_bytes([name, dtype, [int(size) for size in shape]]) + b"\0"


def digest_with_header(prefix: bytes, data: memoryview | bytes) -> bytes:
    """Return the tensor digest of ``data`` (logical order, little-endian, contiguous) under a ready header."""
    hasher = xxhash.xxh3_128(prefix)
    size = len(data)
    if 0 < size <= CHUNK_BYTES:
        hasher.update(xxhash.xxh3_128_digest(data))
    elif size >= SHARED_BYTES:
        for part in _pool().map(chunk_digests, _shares(memoryview(data))):
            hasher.update(part)
    else:
        hasher.update(chunk_digests(memoryview(data)))
    return hasher.digest()


def chunk_digests(data: memoryview) -> bytes:
    """Return the digests of consecutive chunks, joined; ``data`` begins at a chunk."""
    starts = range(0, len(data), CHUNK_BYTES)
    return b"".join([xxhash.xxh3_128_digest(data[start : start + CHUNK_BYTES]) for start in starts])


def _shares(data: memoryview) -> list[memoryview]:
    """Cut ``data`` at chunks into one share a thread."""
    chunks = -(-len(data) // CHUNK_BYTES)
    share = -(-chunks // _threads()) * CHUNK_BYTES
    return [data[start : start + share] for start in range(0, len(data), share)]


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that share large tensors: XXH3 lets go of the interpreter's lock while it reads a chunk."""
    return ThreadPoolExecutor(_threads(), thread_name_prefix="memaudit-digest")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool and not its threads: it makes a new one if it needs one.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def tensor_digest(name: str, dtype: str, shape: Sequence[int], data: memoryview | bytes) -> bytes:
    """Return the 16-byte digest of one tensor.

    Parameters
    ----------
    name
        The tensor's path below its source.
    dtype
        torch's name without ``torch.``: ``float32``, ``bfloat16``, ``bool``, …
    shape
        The sizes; ``()`` for a scalar.
    data
        The elements in logical (C) order, little-endian, as bytes: a ``memoryview`` of format ``B`` or ``bytes``.
    """
    return digest_with_header(header(name, dtype, shape), data)


def array_digest(name: str, array: np.ndarray[Any, Any]) -> bytes:
    """Return the digest of a NumPy array, whatever its strides and byte order, under its dtype's torch name."""
    return tensor_digest(name, str(array.dtype.newbyteorder("=")), array.shape, array_bytes(array))


def array_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """Return an array's elements as contiguous little-endian bytes in C order; copies only where it must."""
    contiguous = np.ascontiguousarray(array)
    if contiguous.dtype.byteorder == ">" or (contiguous.dtype.byteorder == "=" and _BIG_ENDIAN):
        contiguous = contiguous.astype(contiguous.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def source_digest(leaves: Mapping[str, bytes], values: Any = None) -> bytes:
    """Return the digest of a memory source: its tensors' digests in the order of their paths, then its values.

    ``values`` is canonical-JSON-ready; None stands for a source that has none.
    """
    hasher = xxhash.xxh3_128()
    for path in sorted(leaves):
        hasher.update(leaves[path])
    if values is not None:
        hasher.update(canonical_bytes(values))
    return hasher.digest()


def digest_text(digest: bytes) -> str:
    """Return a 16-byte digest as 22 characters of unpadded base64url."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
