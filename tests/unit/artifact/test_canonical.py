import enum
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.canonical import (
    canonical_bytes,
    encode_float,
    write_atomically,
    write_canonical,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        ({"\U0001f600": 1, "\uffff": 2, "é": 3, "Z": 4}, '{"Z":4,"é":3,"\uffff":2,"\U0001f600":1}'),
        ((1, (2,)), "[1,[2]]"),
        ([0.1, 1.0, -0.0, 1e22, 5e-324, 1e16], "[0.1,1.0,-0.0,1e+22,5e-324,1e+16]"),
        ([2**53 - 1, -(2**53) + 1], "[9007199254740991,-9007199254740991]"),
        ('"\\/\b\f\n\r\t\x00\x1f\x7f\u2028', '"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\u2028"'),
        (enum.IntEnum("Kind", "ONE").ONE, "1"),
        ({}, "{}"),
    ],
)
def test_there_is_one_way_to_write_a_value(value: object, expected: str) -> None:
    assert canonical_bytes(value) == expected.encode("utf-8")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, [-math.inf], 2**53, {"a": -(2**53)}, "\ud800", {"\udfff": 1}], ids=ascii
)
def test_what_readers_disagree_on_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - three kinds of it
        canonical_bytes(value)


@pytest.mark.parametrize(
    "value", [{1: 2}, {None: 1}, {True: 1}, [b"x"], {1, 2}, object()], ids=lambda v: type(v).__name__
)
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_bytes(value)


@given(st.floats())
def test_every_float_is_written_and_read_back(value: float) -> None:
    again = float(json.loads(canonical_bytes(encode_float(value))))
    assert again == value or (math.isnan(again) and math.isnan(value))
    assert math.copysign(1, again) == math.copysign(1, value) or math.isnan(value)


def test_a_file_ends_with_one_newline_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    assert write_canonical(path, {"a": 1}) == b'{"a":1}\n'
    assert path.read_bytes() == b'{"a":1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    with pytest.raises(ValueError, match="beyond"):
        write_canonical(path, {"a": 2**60})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
