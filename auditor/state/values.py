"""Nested Python values as canonical JSON plus tensors, and back: what anchors hold instead of pickle.

The encoding is given in docs/run-directory.md ("Anchors").
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import torch

from auditor.artifact.canonical import MAX_SAFE_INTEGER, encode_float
from auditor.errors import MemauditError

Tensors = dict[str, torch.Tensor]


def encode(value: Any, tensors: Tensors, path: str = "") -> Any:
    """Return ``value`` ready for canonical JSON; tensors met on the way are put into ``tensors`` under their path.

    Raises
    ------
    MemauditError
        If something cannot be written without pickle; it names the path.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        return value if abs(value) <= MAX_SAFE_INTEGER else {"$": "int", "value": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$": "float", "value": encode_float(value)}
    if isinstance(value, torch.Tensor):
        return {"$": "tensor", "path": _place(tensors, path, value)}
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        # The bytes are little-endian whatever the array's order was, and the name says so.
        dtype = str(value.dtype.newbyteorder("<"))
        return {"$": "array", "path": _place(tensors, path, _from_array(value, path)), "dtype": dtype}
    if isinstance(value, bytes):
        return {"$": "bytes", "hex": value.hex()}
    if isinstance(value, list):
        return [encode(item, tensors, _join(path, index)) for index, item in enumerate(value)]
    if isinstance(value, tuple | deque):
        kind = "deque" if isinstance(value, deque) else "tuple"
        encoded: dict[str, Any] = {
            "$": kind,
            "items": [encode(item, tensors, _join(path, index)) for index, item in enumerate(value)],
        }
        if isinstance(value, deque):
            encoded["maxlen"] = value.maxlen
        return encoded
    if isinstance(value, dict):
        return _encode_dict(value, tensors, path)
    raise MemauditError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be written without pickle",
        where=path or "(the object itself)",
        next_step="keep it as tensors, arrays, numbers, strings, lists or dicts, or give its owner a state_dict()",
    )


def _encode_dict(value: dict[Any, Any], tensors: Tensors, path: str) -> Any:
    if type(value) not in (dict, OrderedDict) and not hasattr(value, "items"):
        raise MemauditError(f"a {type(value).__qualname__} is not a plain dict", where=path)
    if all(isinstance(key, str) for key in value) and "$" not in value:
        return {_text(key, path): encode(item, tensors, _join(path, key)) for key, item in value.items()}
    items = [
        [encode(key, tensors, _join(path, f"key{index}")), encode(item, tensors, _join(path, key))]
        for index, (key, item) in enumerate(value.items())
    ]
    return {"$": "dict", "items": items}


def decode(value: Any, tensors: Tensors) -> Any:
    """Undo :func:`encode`. Tensors come back as they stand in ``tensors``, arrays as copies."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get("$"):
        case None:
            return {key: decode(item, tensors) for key, item in value.items()}
        case "int":
            return int(value["value"])
        case "float":
            return float(value["value"])
        case "bytes":
            return bytes.fromhex(value["hex"])
        case "tensor":
            return tensors[value["path"]]
        case "array":
            return _to_array(tensors[value["path"]], value["dtype"])
        case "tuple":
            return tuple(decode(item, tensors) for item in value["items"])
        case "deque":
            return deque((decode(item, tensors) for item in value["items"]), maxlen=value["maxlen"])
        case "dict":
            return {decode(key, tensors): decode(item, tensors) for key, item in value["items"]}
        case other:
            raise MemauditError(f"an anchor holds a value of the unknown kind {other!r}")


def _text(value: str, path: str) -> str:
    """Return ``value`` if it has a UTF-8 form; a lone surrogate has none."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MemauditError("a string with a lone surrogate cannot be written", where=path) from error
    return value


def _place(tensors: Tensors, path: str, tensor: torch.Tensor) -> str:
    """Put a tensor under ``path``, primed where two keys make the same one (``{"a.b": …, "a": {"b": …}}``)."""
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def _join(path: str, part: object) -> str:
    return f"{path}.{part}" if path else str(part)


def _from_array(array: np.ndarray[Any, Any], path: str) -> torch.Tensor:
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        raise MemauditError(
            f"an array of dtype {array.dtype} cannot be written without pickle",
            where=path,
            next_step="use a numeric dtype",
        )
    # As bytes: torch lacks some of NumPy's dtypes, and the dtype stands in the value.
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=True)
    flat = torch.from_numpy(little.reshape(-1).view(np.uint8).copy())
    return flat.reshape(*array.shape, array.dtype.itemsize)


def _to_array(tensor: torch.Tensor, dtype: str) -> np.ndarray[Any, Any]:
    raw = tensor.contiguous().numpy()
    return raw.reshape(-1).view(np.dtype(dtype)).reshape(raw.shape[:-1]).copy()
