"""A torch tensor's logical bytes and its digest, without copying where that can be helped."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

import torch
from torch.nn.parameter import is_lazy

from auditor.artifact.digest import digest_with_header, header
from auditor.artifact.safetensors_file import STORABLE
from auditor.errors import MemauditError

if sys.byteorder != "little":  # pragma: no cover
    raise MemauditError(
        "memaudit records on little-endian machines only",
        why="tensors are digested from memory as they stand",
        next_step="record on x86-64 or arm64; runs can be verified on any machine",
    )


def dtype_name(dtype: torch.dtype) -> str:
    """Return torch's name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def logical(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's elements on the CPU, contiguous in C order; the tensor itself where it is so already.

    Raises
    ------
    MemauditError
        For sparse, quantized, nested, meta and uninitialized tensors, which have no plain sequence of elements.
    """
    # The usual case first, with as few questions as will do: this is asked of every tensor at every step.
    plain = tensor.dtype in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_nested
    if plain and not is_lazy(tensor) and tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    kind = why_not_readable(tensor)
    if kind is not None:
        raise MemauditError(
            f"a tensor of kind {kind} cannot be digested",
            why="it has no plain sequence of elements",
            next_step="watch its parts (indices and values, or int_repr()) instead",
        )
    if tensor.is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
        return tensor
    return tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()


def why_not_readable(tensor: torch.Tensor) -> str | None:
    """Return the kind of a tensor that has no plain sequence of elements; None if it has one."""
    if is_lazy(tensor):
        return "uninitialized"
    if tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested):
        return None
    named = {"quantized": tensor.is_quantized, "meta": tensor.is_meta, "nested": tensor.is_nested}
    return next((name for name, holds in named.items() if holds), str(tensor.layout).removeprefix("torch."))


def is_storable(dtype: torch.dtype) -> bool:
    """Return whether an anchor can hold tensors of that dtype."""
    return dtype in _STORABLE


_STORABLE = frozenset(
    dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and dtype_name(dtype) in STORABLE
)

_PLAIN = frozenset(dtype for dtype in _STORABLE if not dtype.is_complex)
"""Dtypes of tensors that are neither quantized nor conjugated."""


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor that :func:`logical` returned; valid as long as that tensor lives and stays.

    The memory is read through its address: ``Tensor.numpy()`` would mark the storage as not resizable, and the
    recorder must leave no trace in what it watches.
    """
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")


@lru_cache(maxsize=65536)
def _header(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    return header(name, dtype_name(dtype), shape)


def torch_digest(name: str, tensor: torch.Tensor) -> bytes:
    """Return the 16-byte ``xxh3-128-tree-1`` digest of a torch tensor of any device, dtype and stride."""
    plain = logical(tensor)  # first: what it refuses may have no shape
    return digest_with_header(_header(name, tensor.dtype, tuple(tensor.shape)), tensor_bytes(plain))
