"""JSON as evidence needs it: one meaning for every accepted byte string, and limits on size and depth.

The standard parser takes duplicate keys, NaN, 1e999, lone surrogates and nesting without end. Each is refused here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

from auditor.artifact.canonical import canonical_bytes
from auditor.errors import MemauditError

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 20
"""Enough for 2^64 - 1, the largest number a safetensors header may hold."""

_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_MAY_HOLD_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class StrictJsonError(MemauditError):
    """Bytes that are not JSON, or JSON that readers disagree on."""


class _Refused(ValueError):  # noqa: N818 - private signal out of the parser's hooks, never shown
    """Raised inside the parser's hooks; turned into a StrictJsonError with its place."""


def parse(data: bytes, where: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of one JSON document.

    Parameters
    ----------
    data
        The bytes, UTF-8 without a byte order mark.
    where
        What to call them in an error: a file, a line.
    max_bytes, max_depth
        Limits; past either the document is refused before it is parsed.

    Raises
    ------
    StrictJsonError
        For anything but JSON with unique keys, finite numbers and valid text.
    """
    if len(data) > max_bytes:
        raise StrictJsonError(f"{len(data)} bytes of JSON, more than the limit of {max_bytes}", where=where)
    if data.startswith(b"\xef\xbb\xbf"):
        raise StrictJsonError("a byte order mark before the JSON", where=where)
    _check_depth(data, where, max_depth)
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except UnicodeDecodeError as error:
        raise StrictJsonError("not valid UTF-8", where=where, why=f"byte {error.start}") from None
    except _Refused as error:
        raise StrictJsonError(str(error), where=where) from None
    except json.JSONDecodeError as error:
        raise StrictJsonError("not valid JSON", where=where, why=f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise StrictJsonError("nested too deeply", where=where) from None
    if _MAY_HOLD_SURROGATE.search(data):
        _check_text(value, where)
    return value


def parse_canonical(data: bytes, where: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a document that must be canonical JSON and one newline (docs/run-directory.md).

    Raises
    ------
    StrictJsonError
        As :func:`parse`; also when the bytes are another way to write the same value.
    """
    if len(data) <= max_bytes and data.endswith(b"\n"):
        _check_depth(data, where, max_depth)
        # The fast parser takes a few things the strict one does not, duplicate keys for one; none of them
        # survives the comparison with the canonical bytes below.
        try:
            value = orjson.loads(data)
            if canonical_bytes(value) + b"\n" == data:
                return value
        except (ValueError, TypeError, RecursionError):
            value = None  # the strict parser below says what is wrong
    value = parse(data, where, max_bytes=max_bytes, max_depth=max_depth)
    try:
        expected = canonical_bytes(value) + b"\n"
    except ValueError as error:
        raise StrictJsonError("a value that canonical JSON cannot hold", where=where, why=str(error)) from None
    if expected != data:
        position = next(
            (i for i, (a, b) in enumerate(zip(expected, data, strict=False)) if a != b), min(len(expected), len(data))
        )
        raise StrictJsonError(
            "not canonical JSON", where=where, why=f"byte {position} differs from the one way to write this value"
        )
    return value


def _check_depth(data: bytes, where: str, max_depth: int) -> None:
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > max_depth:
                raise StrictJsonError(f"nested deeper than {max_depth} levels", where=where)
        elif first in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"duplicate key {key[:100]!r}")
            seen.add(key)
    return members


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text[:40]} is beyond a double")
    return value


def _bounded(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise _Refused(f"an integer of more than {MAX_INTEGER_DIGITS} digits")
    return int(text)


def _check_text(value: Any, where: str) -> None:
    """Refuse lone surrogates, which have no UTF-8."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise StrictJsonError("a lone surrogate in a string", where=where) from None
