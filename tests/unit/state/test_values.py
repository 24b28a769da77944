import enum
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jsonschema import Draft202012Validator

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import schema
from auditor.artifact.strict_json import parse_canonical
from auditor.errors import MemauditError
from auditor.state.known import Known
from auditor.state.values import decode, encode

SCHEMA = Draft202012Validator({"$ref": "#/$defs/value", "$defs": schema("anchor-values")["$defs"]})
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
Point = namedtuple("Point", ["x", "y"])


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=6))
TYPED = st.one_of(
    st.complex_numbers(),
    st.binary(max_size=6).map(bytearray),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    hnp.from_dtype(np.dtype("float32")),
    hnp.from_dtype(np.dtype("int64")),
    hnp.from_dtype(np.dtype("bool")),
    st.sampled_from([torch.float32, torch.bfloat16, torch.device("cpu"), torch.Size([2, 3]), Colour.RED, Colour.BLUE]),
    st.frozensets(st.integers() | TEXT, max_size=3),
)
LEAVES = st.one_of(PLAIN, TYPED, ARRAYS, TENSORS)
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
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda found: defaultdict(list, found)),
        st.lists(KEYS, max_size=3).map(Counter),
        st.sets(KEYS, max_size=3),
        st.builds(Point, inner, inner),
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
    if isinstance(one, np.generic):
        return one.dtype == two.dtype and one.tobytes() == two.tobytes()
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, dict):  # in the same order
        factories = [getattr(each, "default_factory", None) for each in (one, two)]
        pairs = zip(one.items(), two.items(), strict=True)
        return len(one) == len(two) and factories[0] is factories[1] and all(same(a, b) for a, b in pairs)
    if isinstance(one, set | frozenset):
        return one == two
    if isinstance(one, list | tuple | deque):
        return (
            len(one) == len(two) and all(map(same, one, two)) and getattr(one, "maxlen", 0) == getattr(two, "maxlen", 0)
        )
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(two)) or (one == two and math.copysign(1, one) == math.copysign(1, two))
    return bool(one == two)


@given(VALUES)
@settings(deadline=None)
def test_values_go_through_a_file_and_come_back(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    encoded = encode(value, tensors)
    text = canonical_bytes({"value": encoded}) + b"\n"
    assert same(value, decode(parse_canonical(text, "x")["value"], tensors))


@given(VALUES)
@settings(deadline=None)
def test_what_is_written_follows_the_schema(value: Any) -> None:
    SCHEMA.validate(encode(value, {}))


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


def test_a_numpy_scalar_comes_back_as_one() -> None:
    again = decode(encode(np.float32(0.1), {}), {})
    assert type(again) is np.float32
    assert again == np.float32(0.1)


def test_what_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(MemauditError, match="holds itself"):
        encode(value, {})


def test_a_sets_order_is_not_in_what_is_written() -> None:
    assert encode({"b", "a", "c"}, {}) == {"$": "set", "items": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "make", [random.Random, np.random.default_rng, np.random.RandomState, torch.Generator().manual_seed],
    ids=["random.Random", "default_rng", "RandomState", "torch.Generator"],
)  # fmt: skip
def test_a_generator_comes_back_where_it_was(make: Any) -> None:
    def draws(generator: Any) -> list[float]:
        if isinstance(generator, torch.Generator):
            return torch.rand(3, generator=generator).tolist()
        return [float(generator.random()) for _ in range(3)]

    generator = make(5)
    draws(generator)
    if isinstance(generator, random.Random):
        generator.gauss(0.0, 1.0)  # leaves a second one pending
    tensors: dict[str, torch.Tensor] = {}
    encoded = parse_canonical(canonical_bytes(encode({"rng": generator}, tensors)) + b"\n", "x")
    held = {path: tensor.clone() for path, tensor in tensors.items()}
    expected = draws(generator)
    assert draws(decode(encoded, held)["rng"]) == expected


def test_a_trained_tensor_comes_back_as_one() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = [torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2)), torch.ones(2)]
    leaf, parameter, plain = decode(encode(value, tensors), tensors)
    assert (leaf.requires_grad, type(leaf), leaf is value[0]) == (True, torch.Tensor, False)
    assert isinstance(parameter, torch.nn.Parameter)
    assert plain is value[2]


def test_a_registered_tensor_is_named_not_copied() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    known, tensors = Known({"model/weight": weight}), {}
    encoded = encode([weight, weight.data, weight + 0], tensors, known=known)
    assert list(tensors) == ["2"]
    again = decode(encoded, tensors, known)
    assert again[0] is weight
    assert again[1].data_ptr() == weight.data_ptr()
    assert not again[1].requires_grad
    with pytest.raises(MemauditError, match="does not have") as caught:
        decode(encoded, tensors)
    assert caught.value.where == "model/weight"


def test_a_class_that_the_program_lacks_is_refused() -> None:
    value = {"$": "namedtuple", "type": "Gone", "module": "x", "fields": ["a"], "items": [1]}
    with pytest.raises(MemauditError, match="a Gone, a class that the program does not have"):
        decode(value, {})
    assert decode({**value, "type": "Point", "module": "__main__", "fields": ["x", "y"], "items": [1, 2]}, {}).y == 2


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [object()]}, "a.0"),
        ({"f": print}, "f"),
        ({"s": {object}}, "s.item"),
        ({"d": defaultdict(lambda: 0)}, "d"),
        ({"t": torch.eye(2).to_sparse()}, "t"),
        ({"x": np.array(["s"])}, "x"),
        ({"x": np.array([object()])}, "x"),
        ({"x": np.datetime64("2020-01-01")}, "x"),
        ({"x": "\ud800"}, "x"),
        ({"x": {"\ud800": 1}}, "x"),
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


def test_a_combination_of_flags_without_a_name_is_refused() -> None:
    class Stage(enum.Flag):
        WARM = enum.auto()
        HOT = enum.auto()

    with pytest.raises(MemauditError, match="a combination of members"):
        encode(Stage.WARM | Stage.HOT, {}, "stage")


@pytest.mark.parametrize(
    "value",
    [[0.5] * 9, [*[0.5] * 8, float("nan")], list(range(9)), [*range(8), 2**60], [*range(8), True], [*range(8), 0.5]],
    ids=["floats", "nan", "ints", "large", "bool", "mixed"],
)
def test_long_lists_of_numbers_come_back_with_their_types(value: list[Any]) -> None:
    again = decode(parse_canonical(canonical_bytes(encode(value, {})) + b"\n", "x"), {})
    assert list(map(repr, again)) == list(map(repr, value))
