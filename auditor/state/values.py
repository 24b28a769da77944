"""Nested Python values as canonical JSON plus tensors, and back: what anchors hold instead of pickle.

The encoding is given in docs/run-directory.md ("Anchors"). What comes back has the type that went in; to put a value
back where others hold on to it (a queue that a closure uses too) see :mod:`auditor.state.putback`.
"""

from __future__ import annotations

import enum
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from torch import nn

from auditor.artifact.canonical import MAX_SAFE_INTEGER, canonical_bytes, encode_float
from auditor.errors import MemauditError
from auditor.state.known import NONE_KNOWN, Known
from auditor.state.tensors import dtype_name, why_not_readable

Tensors = dict[str, torch.Tensor]

MAX_DEPTH = 60
"""How deep values may be nested: far above any state, below Python's own limit, and the end of what holds itself."""

_NEXT_STEP = "keep it as tensors, arrays, numbers, strings, lists or dicts, or give its owner a state_dict()"
_FACTORIES: dict[str, Any] = {
    "none": None,
    **{kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple, deque, Counter)},
}


def encode(value: Any, tensors: Tensors, path: str = "", known: Known = NONE_KNOWN, depth: int = 0) -> Any:
    """Return ``value`` ready for canonical JSON; tensors met on the way are put into ``tensors`` under their path.

    A tensor of ``known`` is named, not copied: it is a memory source of its own.

    Raises
    ------
    MemauditError
        If something cannot be written without pickle; it names the path.
    """
    if value is None or isinstance(value, bool):
        return value
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if kind is int:
        return value if abs(value) <= MAX_SAFE_INTEGER else {"$": "int", "value": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$": "float", "value": encode_float(value)}
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, tensors, path, known)
    if isinstance(value, enum.Enum):
        if kind.__members__.get(value.name or "") is not value:
            raise MemauditError(
                f"a combination of members of {kind.__qualname__} has no name to be written under", where=path
            )
        return {"$": "enum", "type": kind.__qualname__, "module": kind.__module__, "name": str(value.name)}
    if isinstance(value, np.generic) and not isinstance(value, str | bytes):
        raw = _little_endian(np.asarray(value), path)
        return {"$": "scalar", "hex": raw.tobytes().hex(), "dtype": str(raw.dtype)}
    if isinstance(value, str | int | float):  # a subclass: what it adds is lost
        return encode(_base(value), tensors, path)
    if depth > MAX_DEPTH:
        raise MemauditError(
            f"a value is nested more than {MAX_DEPTH} levels deep, or holds itself",
            where=path[:200],
            next_step=_NEXT_STEP,
        )
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise MemauditError(
                "a masked array cannot be written without pickle",
                where=path or "(the object itself)",
                next_step="keep its data and its mask as two arrays",
            )
        # The bytes are little-endian whatever the array's order was, and the name says so.
        dtype = str(value.dtype.newbyteorder("<"))
        return {"$": "array", "path": _place(tensors, path, _from_array(value, path)), "dtype": dtype}
    if isinstance(value, dict):
        return _encode_dict(value, tensors, path, known, depth)
    items = _encode_items(value, tensors, path, known, depth)
    if items is None:
        items = _encode_other(value, tensors, path)
    if items is None:
        raise MemauditError(
            f"a {kind.__module__}.{kind.__qualname__} cannot be written without pickle",
            where=path or "(the object itself)",
            next_step=_NEXT_STEP,
        )
    return items


def _encode_tensor(value: torch.Tensor, tensors: Tensors, path: str, known: Known) -> Any:
    alias = known.alias(value)
    if alias is not None:
        return {"$": "alias", "of": alias[0], "detached": alias[1]}
    kind = why_not_readable(value)
    if kind is not None:
        raise MemauditError(
            f"a tensor of kind {kind} cannot be written to an anchor",
            where=path or "(the object itself)",
            why="it has no plain sequence of elements",
            next_step="keep its parts (indices and values, or int_repr()) instead",
        )
    encoded: dict[str, Any] = {"$": "tensor", "path": _place(tensors, path, value)}
    if not value.is_cpu:
        encoded["device"] = str(value.device)
    if isinstance(value, nn.Parameter):
        encoded |= {"$": "parameter", "requires_grad": value.requires_grad}
    elif value.requires_grad and value.is_leaf:
        encoded["$"] = "leaf"
    return encoded


def _encode_items(value: Any, tensors: Tensors, path: str, known: Known, depth: int) -> Any:
    """Return a sequence or set with its items, None if ``value`` is neither."""
    if not isinstance(value, list | tuple | deque | set | frozenset):
        return None
    if isinstance(value, torch.Size):
        return {"$": "size", "items": list(value)}
    if isinstance(value, set | frozenset):
        # Their order is Python's own affair (strings come in another one in each process): sorted by what is written.
        before = len(tensors)
        nested = [encode(item, tensors, _join(path, "item"), known, depth + 1) for item in value]
        if len(tensors) > before:
            raise MemauditError(
                "a set of tensors or arrays has no order that another process would see",
                where=path or "(the object itself)",
                next_step="keep them in a list or dict",
            )
        name = "frozenset" if isinstance(value, frozenset) else "set"
        return {"$": name, "items": sorted(nested, key=canonical_bytes)}
    numbers = _numbers(value)
    nested = (
        [encode(item, tensors, _join(path, index), known, depth + 1) for index, item in enumerate(value)]
        if numbers is None
        else numbers
    )
    if isinstance(value, list):
        return nested
    if isinstance(value, deque):
        return {"$": "deque", "items": nested, "maxlen": value.maxlen}
    fields = getattr(value, "_fields", None)
    if fields is not None:
        kind = type(value)
        named = {"type": kind.__qualname__, "module": kind.__module__, "fields": list(fields)}
        return {"$": "namedtuple", **named, "items": nested}
    return {"$": "tuple", "items": nested}


def _numbers(value: Any) -> list[Any] | None:
    """Return the items of a long sequence of plain numbers, which stand in JSON as they are; None for any other."""
    if len(value) < 8:
        return None
    kinds = set(map(type, value))
    if (kinds == {float} and all(map(math.isfinite, value))) or (
        kinds == {int} and min(value) >= -MAX_SAFE_INTEGER and max(value) <= MAX_SAFE_INTEGER
    ):
        return list(value)
    return None


def _encode_dict(value: dict[Any, Any], tensors: Tensors, path: str, known: Known, depth: int) -> Any:
    keys = list(value)
    plain = not isinstance(value, OrderedDict | defaultdict | Counter)
    if plain and all(isinstance(key, str) for key in keys) and "$" not in value and keys == sorted(keys):
        return {
            _text(key, path): encode(item, tensors, _join(path, key), known, depth + 1) for key, item in value.items()
        }
    # Canonical JSON sorts an object's keys; where the order says something it is written as a list.
    items = [
        [
            encode(key, tensors, _join(path, f"key{index}"), known, depth + 1),
            encode(
                item, tensors, _join(path, key if isinstance(key, str | int) else f"value{index}"), known, depth + 1
            ),
        ]
        for index, (key, item) in enumerate(value.items())
    ]
    if isinstance(value, defaultdict):
        made_by = "none" if value.default_factory is None else getattr(value.default_factory, "__name__", "")
        if made_by not in _FACTORIES or _FACTORIES[made_by] is not value.default_factory:
            raise MemauditError(
                "a defaultdict with a default of the program's own cannot be written without pickle",
                where=path or "(the object itself)",
                next_step="use a built-in type as its default (list, dict, int, …), or a plain dict",
            )
        return {"$": "defaultdict", "items": items, "default": made_by}
    if isinstance(value, Counter):
        return {"$": "counter", "items": items}
    return {"$": "ordered" if isinstance(value, OrderedDict) else "dict", "items": items}


def _encode_other(value: Any, tensors: Tensors, path: str) -> Any:
    """Return what is neither number, text, tensor, array nor container; None if it cannot be written."""
    if isinstance(value, bytes | bytearray):
        return {"$": "bytearray" if isinstance(value, bytearray) else "bytes", "hex": bytes(value).hex()}
    if isinstance(value, complex):
        return {"$": "complex", "real": encode(float(value.real), {}), "imag": encode(float(value.imag), {})}
    if isinstance(value, range):
        return {"$": "range", "items": [encode(bound, {}) for bound in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"$": "dtype", "name": dtype_name(value)}
    if isinstance(value, torch.device):
        return {"$": "device", "name": str(value)}
    if isinstance(value, torch.Generator):
        return {
            "$": "torch.Generator",
            "path": _place(tensors, path, value.get_state()),
            "device": str(value.device),
        }
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        version, words, gauss = value.getstate()
        place = _place(tensors, path, torch.tensor(words, dtype=torch.int64))
        return {"$": "random.Random", "path": place, "version": version, "gauss": encode(gauss, {})}
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return {"$": "numpy.Generator", "bits": type(bits).__name__, "state": encode(dict(bits.state), tensors, path)}
    if isinstance(value, np.random.RandomState):
        return {"$": "numpy.RandomState", "state": encode(value.get_state(legacy=False), tensors, path)}
    return None


def decode(value: Any, tensors: Tensors, known: Known = NONE_KNOWN) -> Any:
    """Undo :func:`encode`. Tensors come back as they stand in ``tensors``, arrays as copies.

    Raises
    ------
    MemauditError
        If a named tuple or enumeration is of a class that the program does not have, or names a tensor not known.
    """
    if isinstance(value, list):
        return [decode(item, tensors, known) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: decode(item, tensors, known) for key, item in value.items()}
    if "items" in value:
        return _decode_items(value, tensors, known)
    match value["$"]:
        case "int":
            return int(value["value"])
        case "float":
            return float(value["value"])
        case "complex":
            return complex(decode(value["real"], {}), decode(value["imag"], {}))
        case "bytes":
            return bytes.fromhex(value["hex"])
        case "bytearray":
            return bytearray.fromhex(value["hex"])
        case "tensor" | "leaf" | "parameter":
            return _decode_tensor(value, tensors)
        case "alias":
            return known.named(value["of"], detached=value["detached"])
        case "array":
            return _to_array(tensors[value["path"]], value["dtype"])
        case "scalar":
            return np.frombuffer(bytes.fromhex(value["hex"]), dtype=value["dtype"])[0]
        case "dtype":
            return getattr(torch, value["name"])
        case "device":
            return torch.device(value["name"])
        case "enum":
            return class_like(enum.Enum, value)[value["name"]]
        case "torch.Generator" | "random.Random" | "numpy.Generator" | "numpy.RandomState":
            return set_generator(_new_generator(value), value, tensors)
        case other:
            raise MemauditError(f"an anchor holds a value of the unknown kind {other!r}")


def _decode_items(value: dict[str, Any], tensors: Tensors, known: Known) -> Any:
    if value["$"] in ("dict", "ordered", "counter", "defaultdict"):
        pairs = [(decode(key, tensors, known), decode(item, tensors, known)) for key, item in value["items"]]
        return empty_dict(value) | dict(pairs) if value["$"] != "counter" else Counter(dict(pairs))
    items = [decode(item, tensors, known) for item in value["items"]]
    match value["$"]:
        case "tuple":
            return tuple(items)
        case "deque":
            return deque(items, maxlen=value["maxlen"])
        case "set":
            return set(items)
        case "frozenset":
            return frozenset(items)
        case "size":
            return torch.Size(items)
        case "range":
            return range(*items)
        case "namedtuple":
            return tuple.__new__(class_like(tuple, value), items)
        case other:
            raise MemauditError(f"an anchor holds a value of the unknown kind {other!r}")


def empty_dict(value: dict[str, Any]) -> dict[Any, Any]:
    """Return an empty dict of the type that an encoded one had."""
    match value.get("$"):
        case "ordered":
            return OrderedDict()
        case "counter":
            return Counter()
        case "defaultdict":
            return defaultdict(_FACTORIES[value["default"]])
    return {}


def _decode_tensor(value: dict[str, Any], tensors: Tensors) -> torch.Tensor:
    tensor = tensors[value["path"]]
    if "device" in value:
        tensor = tensor.to(value["device"])
    if value["$"] == "tensor":
        return tensor
    own = tensor.detach().clone()
    return own.requires_grad_() if value["$"] == "leaf" else nn.Parameter(own, requires_grad=value["requires_grad"])


def _new_generator(value: dict[str, Any]) -> Any:
    match value["$"]:
        case "torch.Generator":
            return torch.Generator(value["device"])
        case "random.Random":
            return random.Random()  # noqa: S311 - the program's own generator, put back
        case "numpy.RandomState":
            return np.random.RandomState()
    kind = getattr(np.random, value["bits"], None)
    if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
        raise MemauditError(f"an anchor holds a NumPy generator of the unknown kind {value['bits']!r}")
    return np.random.Generator(kind())


def set_generator(generator: Any, value: dict[str, Any], tensors: Tensors) -> Any:
    """Put an encoded state into a generator of the same kind, and return it."""
    match value["$"]:
        case "torch.Generator":
            generator.set_state(tensors[value["path"]].clone())
        case "random.Random":
            words = tuple(int(word) for word in tensors[value["path"]].tolist())
            generator.setstate((value["version"], words, decode(value["gauss"], {})))
        case "numpy.RandomState":
            generator.set_state(decode(value["state"], tensors))
        case _:
            generator.bit_generator.state = decode(value["state"], tensors)
    return generator


def class_like(base: type, value: dict[str, Any]) -> Any:
    """Return the class of the running program that an encoded value names: nothing is imported for it.

    Raises
    ------
    MemauditError
        If the program has no such subclass of ``base`` with these fields.
    """
    found: list[type] = []
    waiting: list[type] = [base]
    while waiting:
        subclasses: list[type] = waiting.pop().__subclasses__()
        waiting += subclasses
        found += [
            each
            for each in subclasses
            if each.__qualname__ == value["type"] and list(getattr(each, "_fields", ())) == value.get("fields", [])
        ]
    # A script is __main__ or has a name, by how it was started.
    exact = [each for each in found if each.__module__ == value["module"]]
    if exact or len(found) == 1:
        return (exact or found)[0]
    raise MemauditError(
        f"the anchor holds a {value['type']}, a class that the program does not have",
        where=value["module"],
        next_step="replay the program that was recorded; define the class before the objects are watched",
    )


def _base(value: str | float) -> str | int | float:
    return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))


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


def _little_endian(array: np.ndarray[Any, Any], path: str) -> np.ndarray[Any, Any]:
    """Return a copy of an array, contiguous and little-endian."""
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        raise MemauditError(
            f"an array of dtype {array.dtype} cannot be written without pickle",
            where=path or "(the object itself)",
            next_step="use a numeric dtype",
        )
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=True).reshape(array.shape)


def _from_array(array: np.ndarray[Any, Any], path: str) -> torch.Tensor:
    # As bytes: torch lacks some of NumPy's dtypes, and the dtype stands in the value.
    flat = torch.from_numpy(_little_endian(array, path).reshape(-1).view(np.uint8))
    return flat.reshape(*array.shape, array.dtype.itemsize)


def _to_array(tensor: torch.Tensor, dtype: str) -> np.ndarray[Any, Any]:
    raw = tensor.contiguous().numpy()
    return raw.reshape(-1).view(np.dtype(dtype)).reshape(raw.shape[:-1]).copy()
