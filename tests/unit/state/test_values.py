import math
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import schema
from auditor.artifact.strict_json import parse_canonical
from auditor.errors import MemauditError
from auditor.state.values import decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
DTYPES = [
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
]
ARRAYS = hnp.arrays(
    st.one_of(*DTYPES, hnp.complex_number_dtypes(sizes=(64, 128))),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3),
)
TENSORS = st.lists(st.floats(width=32), max_size=4).map(torch.tensor)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=6), ARRAYS, TENSORS)
KEYS = st.one_of(
    TEXT, st.just("$"), st.integers(), st.booleans(), st.none(), st.tuples(st.integers(), TEXT), st.binary(max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5)),
        st.dictionaries(TEXT, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
    max_leaves=12,
)


def same(one: Any, two: Any) -> bool:
    """Return whether two values are equal in type and content, NaN equal to NaN."""
    if isinstance(one, torch.Tensor):
        return two is one
    if isinstance(one, np.ndarray):
        return (one.dtype.newbyteorder("="), one.shape) == (two.dtype, two.shape) and one.astype(
            one.dtype.newbyteorder("=")
        ).tobytes() == two.tobytes()
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), two.items(), strict=True)
        return len(one) == len(two) and all(a == b and same(x, y) for (a, x), (b, y) in pairs)
    if isinstance(one, list | tuple | deque):
        return (
            len(one) == len(two) and all(map(same, one, two)) and getattr(one, "maxlen", 0) == getattr(two, "maxlen", 0)
        )
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(two)) or (one == two and math.copysign(1, one) == math.copysign(1, two))
    return bool(one == two)


def sorted_dicts(value: Any) -> Any:
    """Return the value with plain dicts in the order of their keys: canonical JSON keeps no other."""
    if isinstance(value, dict):
        items = [(key, sorted_dicts(item)) for key, item in value.items()]
        plain = all(isinstance(key, str) for key in value) and "$" not in value
        return dict(sorted(items) if plain and len({k for k, _ in items}) == len(items) else items)
    if isinstance(value, deque):
        return deque(map(sorted_dicts, value), value.maxlen)
    if isinstance(value, list | tuple):
        return type(value)(map(sorted_dicts, value))
    return value


@given(VALUES)
def test_values_go_through_a_file_and_come_back(value: Any) -> None:
    value = sorted_dicts(value)
    tensors: dict[str, torch.Tensor] = {}
    encoded = encode(value, tensors)
    text = canonical_bytes({"value": encoded}) + b"\n"
    assert same(value, decode(parse_canonical(text, "x")["value"], tensors))


@given(VALUES)
def test_what_is_written_follows_the_schema(value: Any) -> None:
    from jsonschema import Draft202012Validator

    whole = schema("anchor-values")
    encoded = encode(value, {})
    Draft202012Validator({"$ref": "#/$defs/value", "$defs": whole["$defs"]}).validate(encoded)


def test_paths_are_dotted() -> None:
    tensors: dict[str, torch.Tensor] = {}
    encode({"a": [torch.zeros(1), {"b": torch.ones(1)}], "c": (torch.ones(2),), 3: torch.ones(3)}, tensors)
    assert list(tensors) == ["a.0", "a.1.b", "c.0", "3"]


def test_two_keys_that_make_one_path_keep_their_tensors_apart() -> None:
    value = {
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "n": {1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)},
    }
    tensors: dict[str, torch.Tensor] = {}
    again = decode(encode(value, tensors), tensors)
    assert len(tensors) == 4
    assert (again["a.b"].item(), again["a"]["b"].item(), again["n"][1].item(), again["n"]["1"].item()) == (0, 1, 2, 3)


def test_an_array_of_either_byte_order_is_the_same_bytes() -> None:
    little, big = {}, {}
    array = np.array([1.5, -2.0])
    assert encode(array.astype("<f8"), little) == encode(array.astype(">f8"), big)
    assert torch.equal(little[""], big[""])


def test_a_numpy_scalar_comes_back_as_an_array_without_dimensions() -> None:
    tensors: dict[str, torch.Tensor] = {}
    again = decode(encode(np.float32(0.1), tensors), tensors)
    assert (again.dtype, again.shape, float(again)) == (np.float32, (), float(np.float32(0.1)))


def test_an_ordered_dict_is_a_dict() -> None:
    assert encode(OrderedDict(a=1), {}) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [object()]}, "a.0"),
        ({"f": print}, "f"),
        ({1, 2}, "(the object itself)"),
        ({"x": np.array(["s"])}, "x"),
        ({"x": np.array([object()])}, "x"),
        ({"x": np.datetime64("2020-01-01")}, "x"),
        ({"x": "\ud800"}, "x"),
        ({"x": {"\ud800": 1}}, "x"),
        ({"z": 1j}, "z"),
    ],
    ids=lambda value: None if "0x" in repr(value) else ascii(value),
)
def test_what_needs_pickle_is_refused_by_its_path(value: Any, where: str) -> None:
    with pytest.raises(MemauditError) as caught:
        encode(value, {})
    assert caught.value.where == where


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(MemauditError, match="unknown kind 'pickle'"):
        decode({"$": "pickle", "data": ""}, {})
