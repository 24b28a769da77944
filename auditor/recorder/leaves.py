"""Digests tensor by tensor: of a memory source, of nested values such as a batch, of gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from auditor.artifact.digest import CHUNK_BYTES, chunk_digests, digest_text, source_digest
from auditor.errors import MemauditError
from auditor.state.source import Reading, Source
from auditor.state.tensors import logical, tensor_bytes
from auditor.state.values import encode

_UNREADABLE = (MemauditError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What reading raises where there is nothing to read: odd values, tensors under a transform, what went meanwhile.

Too deep a nesting is a RuntimeError too.
"""


class Leaves(NamedTuple):
    """Tensors digested one by one."""

    digest: str | None
    """The digest of them all; None if something cannot be read, or where they have none together."""
    leaves: list[tuple[str, str | None]] | None
    """Path and digest, in the order of the object that holds them; None where they are not told."""
    chunks: dict[str, list[str]]
    """The digests of the chunks of every tensor that has several."""

    def members(self) -> dict[str, Any]:
        """Return them ready for canonical JSON."""
        leaves = None if self.leaves is None else [list(pair) for pair in self.leaves]
        return {"digest": self.digest, "leaves": leaves, "chunks": self.chunks}


UNREAD = Leaves(None, None, {})
"""What could not be read."""


def of_source(source: Source, last: str | None) -> Leaves:
    """Read a source; its tensors one by one only if its digest is not ``last``."""
    try:
        return _of_reading(source.read(), last)
    except _UNREADABLE:
        return UNREAD


def of_nested(value: Any) -> Leaves:
    """Read nested tensors and values, such as a batch: data classes and mappings count as dicts."""
    try:
        return _of_reading(_reading(value), None)
    except _UNREADABLE:
        return UNREAD


def of_gradients(parameters: Iterable[tuple[str, torch.Tensor]]) -> Leaves:
    """Read the gradients of parameters by name; they have no digest together."""
    leaves: list[tuple[str, str | None]] = []
    chunks: dict[str, list[str]] = {}
    for name, parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            leaves.append((name, None))
        elif gradient.layout is torch.sparse_coo:
            leaves.append((name, nested_digest({"indices": gradient._indices(), "values": gradient._values()})))
        else:
            read = of_nested(gradient)
            leaves.append((name, read.digest))
            if read.chunks:
                chunks[name] = read.chunks[""]
    return Leaves(None, leaves, chunks)


def nested_digest(value: Any) -> str | None:
    """Return the digest of nested tensors and values; None if something in them cannot be read."""
    try:
        return digest_text(_reading(value).digest())
    except _UNREADABLE:
        return None


def _of_reading(reading: Reading, last: str | None) -> Leaves:
    leaves = reading.leaves()
    digest = digest_text(source_digest(leaves, reading.values))
    if digest == last:
        return Leaves(digest, None, {})
    return Leaves(digest, [(path, digest_text(leaf)) for path, leaf in leaves.items()], _chunks(reading.tensors))


def _reading(value: Any) -> Reading:
    tensors: dict[str, torch.Tensor] = {}
    values = encode(_plain(value), tensors)
    if not all(map(_has_memory, tensors.values())):
        raise MemauditError("a tensor has no memory of its own")
    return Reading(tensors, values)


def _has_memory(tensor: torch.Tensor) -> bool:
    """Say whether a tensor's elements are where its address says: not so for fake, wrapped and distributed ones."""
    dispatch: Any = type(tensor).__torch_dispatch__
    return dispatch is torch.Tensor.__torch_dispatch__


def _plain(value: Any) -> Any:
    """Return nested values with data classes and mappings as dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _chunks(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Return the digests of the chunks of every tensor that has more than one."""
    found: dict[str, list[str]] = {}
    for path, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > CHUNK_BYTES:
            plain = logical(tensor)
            joined = chunk_digests(tensor_bytes(plain))
            found[path] = [digest_text(joined[start : start + 16]) for start in range(0, len(joined), 16)]
    return found
