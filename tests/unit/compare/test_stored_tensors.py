"""How two stored tensors and two nested values differ, held against NumPy and torch."""

import math
import os
import struct
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from auditor.artifact.digest import CHUNK_BYTES
from auditor.artifact.safetensors_file import STORABLE, StoredTensor
from auditor.compare.tensors import alignment, difference, natural, source_difference, value_differences
from tests.support.build_pair import stored

FLOATS = {"float16": ("<h", np.float16), "float32": ("<i", np.float32), "float64": ("<q", np.float64)}
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)


def pairs(dtype: Any, elements: Any = None) -> Any:
    return SHAPES.flatmap(
        lambda shape: st.tuples(
            npst.arrays(dtype, shape, elements=elements, fill=st.nothing()),
            npst.arrays(dtype, shape, elements=elements, fill=st.nothing()),
        )
    )


def place(value: float, code: str) -> int:
    """Where a number lies on the line of representable ones, with -0 and +0 at 0."""
    (bits,) = struct.unpack(code, struct.pack({"<h": "<e", "<i": "<f", "<q": "<d"}[code], value))
    return bits if bits >= 0 else -(bits & (2 ** (8 * struct.calcsize(code) - 1) - 1))


def first_unequal(a: np.ndarray, b: np.ndarray) -> list[int]:
    """The positions of the elements whose bytes differ."""
    size = a.dtype.itemsize
    one, two = a.tobytes(), b.tobytes()
    return [k for k in range(a.size) if one[k * size : (k + 1) * size] != two[k * size : (k + 1) * size]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*FLOATS, *INTEGERS, "bool"]).flatmap(pairs))
def test_the_difference_is_what_exact_arithmetic_says(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = difference("s/w", stored(a), stored(b))
    unequal = first_unequal(a, b)
    if not unequal:
        assert found is None
        return
    assert found is not None
    assert (found.name, found.chunk, found.differing, found.elements, found.shapes) == (
        "s/w",
        0,
        len(unequal),
        a.size,
        None,
    )
    assert found.element == tuple(int(each) for each in np.unravel_index(unequal[0], a.shape))
    x, y = a.reshape(-1).tolist(), b.reshape(-1).tolist()
    values = [float(each[unequal[0]]) if a.dtype == bool else each[unequal[0]] for each in (x, y)]
    assert repr(found.values) == repr(tuple(values))
    assert found.is_integer == (a.dtype.kind in "iu")
    kind = str(a.dtype)
    numbers = [(x[k], y[k]) for k in unequal]
    if not all(math.isfinite(each) for pair in numbers for each in pair):
        return
    gaps = [abs(Fraction(two) - Fraction(one)) for one, two in numbers]
    if max(gaps) < Fraction(10) ** 308:
        assert found.largest == pytest.approx(float(max(gaps)), rel=1e-15)
    if kind in FLOATS:
        assert found.ulps == max(abs(place(one, FLOATS[kind][0]) - place(two, FLOATS[kind][0])) for one, two in numbers)
    else:
        assert found.ulps is None


@settings(max_examples=60, deadline=None)
@given(pairs(np.float64, st.floats(-1e100, 1e100)))
def test_the_relative_difference_is_that_of_the_norms(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assume(first_unequal(a, b))
    found = source_difference("s", 3, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    norm = float(np.linalg.norm(a.reshape(-1)))
    assume(norm == 0 or norm > 1e-100)
    if norm == 0:
        assert found.relative is None
    else:
        assert found.relative == pytest.approx(float(np.linalg.norm((b - a).reshape(-1))) / norm, rel=1e-9)


@pytest.mark.parametrize("dtype", list(FLOATS))
@pytest.mark.parametrize("start", [1.0, 0.0, -0.0, 6e-8, -1.5, 5e-324, 60000.0])
@pytest.mark.parametrize("steps", [1, 3, 200])
def test_so_many_steps_to_the_next_number_are_so_many_ulps(dtype: str, start: float, steps: int) -> None:
    number = FLOATS[dtype][1]
    for towards in (-np.inf, np.inf):
        b = a = np.array(start, number)
        with np.errstate(over="ignore"):
            for _ in range(steps):
                b = np.nextafter(b, number(towards))
        if not np.isfinite(b):
            continue
        found = difference("w", stored(a), stored(b))
        assert found is not None
        assert found.ulps == steps


def test_float64_ulps_may_pass_two_to_the_63() -> None:
    a, b = np.array([-1.7976931348623157e308]), np.array([1.7976931348623157e308])
    found = difference("w", stored(a), stored(b))
    assert found is not None
    assert found.ulps == 2 * place(1.7976931348623157e308, "<q")
    assert found.ulps > 2**63


def test_minus_zero_and_plus_zero_differ_by_no_ulp() -> None:
    for number in (np.float16, np.float32, np.float64):
        found = difference("w", stored(np.array([0.0], number)), stored(np.array([-0.0], number)))
        assert found is not None
        assert (found.ulps, found.largest, found.differing) == (0, 0.0, 1)
        assert str(found.values) == "(0.0, -0.0)"


@settings(max_examples=60, deadline=None)
@example([(0, 32641)])  # a signalling NaN made NumPy warn
@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), min_size=1, max_size=8))
def test_bfloat16_is_what_torch_says(bits: list[tuple[int, int]]) -> None:
    a, b = (np.array([pair[side] for pair in bits], np.uint16) for side in (0, 1))
    one, two = (torch.from_numpy(each.view(np.int16)).view(torch.bfloat16).double() for each in (a, b))
    found = difference("w", stored(a, "bfloat16"), stored(b, "bfloat16"))
    unequal = first_unequal(a, b)
    if not unequal:
        assert found is None
        return
    assert found is not None
    assert repr(found.values) == repr((one[unequal[0]].item(), two[unequal[0]].item()))
    gaps = (two - one).abs()[unequal]
    assert repr(found.largest) == repr(gaps.max().item())
    if gaps.isfinite().all():
        lines = [np.where(each < 2**15, each.astype(int), 2**15 - each.astype(int)) for each in (a, b)]
        assert found.ulps == np.abs(lines[0] - lines[1])[unequal].max()


def test_complex_numbers_are_measured_by_their_size() -> None:
    a, b = np.array([1 + 1j, 2], np.complex64), np.array([4 + 5j, 2], np.complex64)
    found = source_difference("s", 0, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    assert (found.largest, found.ulps, found.tensors[0].values) == (5.0, None, None)
    assert found.relative == pytest.approx(5 / np.linalg.norm(a))
    assert found.tensors[0].element == (0,)


@pytest.mark.parametrize("dtype", sorted(each for each in STORABLE if each.startswith("float8")))
def test_float8_is_compared_as_bytes(dtype: str) -> None:
    a, b = np.array([1, 2, 3], np.uint8), np.array([1, 9, 8], np.uint8)
    found = source_difference("s", 0, ({"s/w": stored(a, dtype)}, {"s/w": stored(b, dtype)}), (None, None))
    only = found.tensors[0]
    assert (only.element, only.differing, only.elements, only.values, only.chunk) == ((1,), 2, 3, None, 0)
    assert (found.largest, found.relative, found.ulps, found.scale) == (None, None, None, None)


@pytest.mark.parametrize("dtype", sorted(STORABLE))
def test_every_dtype_that_an_anchor_holds_is_compared(dtype: str) -> None:
    size = torch.empty(0, dtype=getattr(torch, dtype, torch.uint8)).element_size()
    a, b = bytes(4 * size), bytes(2 * size) + b"\1" + bytes(2 * size - 1)
    one, two = (StoredTensor(dtype, (2, 2), memoryview(each)) for each in (a, b))
    found = difference("w", one, two)
    assert found is not None
    assert (found.element, found.differing, found.elements) == ((1, 0), 1, 4)
    assert difference("w", one, one) is None


def test_empty_tensors_are_equal_and_scalars_have_an_element() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert difference("w", stored(empty), stored(empty.copy())) is None
    found = difference("w", stored(np.array(1.0)), stored(np.array(2.0)))
    assert found is not None
    assert (found.element, found.values, found.elements) == ((), (1.0, 2.0), 1)


@pytest.mark.parametrize(
    ("a", "b", "shapes"),
    [
        (np.zeros(2), np.zeros(3), ("float64[2]", "float64[3]")),
        (np.zeros(2), np.zeros((2, 1)), ("float64[2]", "float64[2, 1]")),
        (np.zeros(2, np.float32), np.zeros(2, np.int32), ("float32[2]", "int32[2]")),
        (np.zeros(()), np.zeros(0), ("float64[]", "float64[0]")),
    ],
)
def test_other_shapes_and_dtypes_are_told_and_not_measured(a: Any, b: Any, shapes: tuple[str, str]) -> None:
    found = source_difference("s", 0, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    assert found.tensors[0].shapes == shapes
    assert (found.tensors[0].chunk, found.tensors[0].element, found.tensors[0].differing) == (None, None, None)
    assert (found.largest, found.relative, found.ulps, found.scale) == (None, None, None, None)


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_what_is_no_number_is_not_measured(number: Any) -> None:
    """Bits of NaN are no distance; a huge count of ulps was told, and, by their order, a largest difference or none."""
    a, b = np.array([1.0, 2.0, np.inf], number), np.array([np.nan, 2.5, np.inf], number)
    found = source_difference("s", 0, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    assert found.relative is None
    assert math.isnan(found.largest or 0.0)
    assert found.ulps is None
    assert found.scale is None
    other = stored(np.array([1.0], number)), stored(np.array([2.0], number))
    for names in ("s/a", "s/z"):
        tensors = tuple({"s/w": stored(each), names: held} for each, held in zip((a, b), other, strict=True))
        assert math.isnan(source_difference("s", 0, tensors, (None, None)).largest or 0.0)  # type: ignore[arg-type]


def test_an_infinite_difference_is_infinite() -> None:
    a, b = np.array([1.0, 5.0]), np.array([np.inf, 6.0])
    found = source_difference("s", 0, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    assert (found.largest, found.relative, found.scale) == (math.inf, None, None)
    turned = difference("w", stored(np.array([np.inf])), stored(np.array([-np.inf])))
    assert turned is not None
    assert turned.largest == math.inf


def test_squares_that_overflow_leave_no_relative_difference() -> None:
    a, b = np.array([1e200, 1.0]), np.array([2e200, 1.0])
    found = source_difference("s", 0, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None))
    assert (found.relative, found.scale, found.largest) == (None, None, 1e200)


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [
        ("int64", 2**53, 2**53 + 1),
        ("int64", -(2**63), 2**63 - 1),
        ("uint64", 0, 2**64 - 1),
        ("uint64", 2**63, 2**63 - 1),
        ("int64", 2**62 + 1, 2**62),
    ],
)
def test_integers_of_64_bits_are_told_apart(dtype: str, a: int, b: int) -> None:
    """As doubles both were one number: equal values, and no difference."""
    found = difference("w", stored(np.array([a], dtype)), stored(np.array([b], dtype)))
    assert found is not None
    assert found.values == (a, b)
    assert found.values[0] != found.values[1]
    assert found.largest == float(abs(a - b))


@pytest.mark.parametrize("at", [0, CHUNK_BYTES // 4 - 1, CHUNK_BYTES // 4, 3 * CHUNK_BYTES // 4 + 5, CHUNK_BYTES + 7])
def test_the_chunk_and_element_of_a_large_tensor_are_named(at: int) -> None:
    """More elements than are looked at together, and chunks as the digest cuts them."""
    a = np.arange(CHUNK_BYTES + 8, dtype=np.float32).reshape(2, -1)
    b = a.copy()
    b.reshape(-1)[at] += 1
    b.reshape(-1)[-1] += 2
    found = difference("w", stored(a), stored(b))
    assert found is not None
    assert found.chunk == at * 4 // CHUNK_BYTES
    assert found.element == tuple(int(each) for each in np.unravel_index(at, a.shape))
    assert (found.differing, found.largest) == (1 if at == CHUNK_BYTES + 7 else 2, float(np.abs(b - a).max()))
    assert found.squares[0] == pytest.approx(float((a.astype(np.float64) ** 2).sum()))
    assert found.square == pytest.approx(float(((b - a).astype(np.float64) ** 2).sum()))


# Sources.


def scaled(factor: float, noise: float = 0.0) -> Any:
    a = np.linspace(-1, 2, 50, dtype=np.float64)
    b = a * factor + noise * np.cos(np.arange(50))
    return source_difference("s", 1, ({"s/w": stored(a)}, {"s/w": stored(b)}), (None, None)).scale


def test_the_scale_is_a_common_factor() -> None:
    assert scaled(0.25) == pytest.approx(0.25)
    assert scaled(3.0, 1e-6) == pytest.approx(3.0, rel=1e-5)
    assert scaled(3.0, 1e-2) is None
    assert scaled(-1.0) is None
    assert scaled(0.0) is None


def test_tensors_are_told_in_natural_order_and_those_of_one_side_apart() -> None:
    a = {f"s/layer{k}.w": stored(np.array([float(k)])) for k in (1, 2, 10, 3)}
    b = {f"s/layer{k}.w": stored(np.array([float(k) + (k != 3)])) for k in (10, 3, 2, 11, 20)}
    found = source_difference("s", 4, (a, b), ({"n": 1}, {"n": 2}))
    assert [each.name for each in found.tensors] == ["s/layer2.w", "s/layer10.w"]
    assert found.only == (("s/layer1.w",), ("s/layer11.w", "s/layer20.w"))
    assert found.values == (("n", 1, 2),)
    assert (found.source, found.step, found.scale) == ("s", 4, None)


def test_a_source_that_does_not_differ_says_so() -> None:
    same = {"s/w": stored(np.ones(3))}
    found = source_difference("s", 0, (same, dict(same)), ([1], [1]))
    assert (found.tensors, found.only, found.values) == ((), ((), ()), ())
    assert (found.relative, found.largest, found.ulps, found.scale) == (None, None, None, None)


# Nested values.


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (None, None, []),
        (1, 1.0, [("", 1, 1.0)]),
        (True, 1, [("", True, 1)]),
        ({"lr": 0.1}, {"lr": 0.2}, [("lr", 0.1, 0.2)]),
        ([{"lr": 0.1}, {"lr": 1}], [{"lr": 0.1}, {"lr": 2}], [("[1].lr", 1, 2)]),
        ({"a": {"b": [0, 1]}}, {"a": {"b": [0, 2]}}, [("a.b[1]", 1, 2)]),
        ([1], [1, 2], [("", [1], [1, 2])]),
        ({"a": 1}, {"b": 1}, [("a", 1, None), ("b", None, 1)]),
        ({"a": 1}, [1], [("", {"a": 1}, [1])]),
        ({"$": "tuple", "items": [1]}, {"$": "tuple", "items": [2]}, [("items[0]", 1, 2)]),
        ({"$": "tuple", "items": [1]}, {"$": "set", "items": [1]}, [("", ..., ...)]),
        ({"$": "dict", "items": [[3, "x"]]}, {"$": "dict", "items": [[3, "y"]]}, [("3", "x", "y")]),
        ({"$": "ordered", "items": [["k", 1]]}, {"k": 2}, [("k", 1, 2)]),
        ({"$": "counter", "items": [["k", [1]]]}, {"$": "counter", "items": [["k", [2]]]}, [("k[0]", 1, 2)]),
        (
            {"$": "defaultdict", "items": [], "default": None},
            {"$": "defaultdict", "items": [["k", 1]]},
            [("k", None, 1)],
        ),
        ({"$": "int", "value": "1"}, {"$": "int", "value": "2"}, [("value", "1", "2")]),
    ],
)
def test_where_nested_values_differ(a: Any, b: Any, found: list[Any]) -> None:
    expected = [(at, a if one is ... else one, b if two is ... else two) for at, one, two in found]
    assert list(value_differences(a, b)) == expected


def test_keys_that_are_a_number_and_its_text_are_two_keys() -> None:
    """As texts both were one key, and a difference under the first was lost."""
    a = {"$": "dict", "items": [[1, "x"], ["1", "z"]]}
    b = {"$": "dict", "items": [[1, "y"], ["1", "z"]]}
    assert list(value_differences(a, b))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("$ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$", "items", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(JSON, JSON)
def test_any_two_values_are_compared(a: Any, b: Any) -> None:
    """An object's ``$`` that was no text made a traceback: what it says is a stranger's."""
    assert list(value_differences(a, a)) == []
    turned = [(at, two, one) for at, one, two in value_differences(b, a)]
    assert list(value_differences(a, b)) == turned


# Natural order.


@given(st.lists(st.text("a0129.", max_size=6)))
def test_natural_order_is_total(names: list[str]) -> None:
    """Names that differ in leading zeros had one key, so that their order was that of a set."""
    assert len({tuple(natural(name)) for name in names}) == len(set(names))
    backwards = names[::-1]
    assert sorted(names, key=natural) == sorted(backwards, key=natural)


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.text("ab.", max_size=3), st.text("ab.", max_size=3))
def test_numbers_in_names_are_ordered_as_numbers(one: int, two: int, head: str, tail: str) -> None:
    names = sorted([f"{head}{one}{tail}", f"{head}{two}{tail}"], key=natural)
    assert names == [f"{head}{each}{tail}" for each in sorted([one, two])]


def test_names_in_natural_order() -> None:
    names = ["layer", "layer.w", "layer²", "layer2", "layer10", "layer10.b", "layer10.w", "w"]
    backwards = names[::-1]
    assert sorted(backwards, key=natural) == names


def test_what_differs_is_told_in_one_order_whatever_the_hash_seed_is() -> None:
    """Sets of names have an order of their own in every process."""
    code = (
        "import numpy as np\n"
        "from tests.support.build_pair import stored\n"
        "from auditor.compare.tensors import source_difference\n"
        "names = ['s/w' + '0' * k + '1' for k in range(9)]\n"
        "a, b = ({n: stored(np.array([x])) for n in names} for x in (1.0, 2.0))\n"
        "print([each.name for each in source_difference('s', 0, (a, b), (None, None)).tensors])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1


# How what one lacks lies to what was before.


def lacking(earlier: Any, a: Any, b: Any) -> float | None:
    return alignment(*({"x": stored(np.array(each, np.float32))} for each in (earlier, a, b)))


def test_what_one_lacks_points_along_what_was_before() -> None:
    assert lacking([1, 2], [3, 5], [2, 3]) == pytest.approx(1.0), "B lacks all of it"
    assert lacking([1, 2], [2, 3], [3, 5]) == pytest.approx(-1.0), "A does"
    assert lacking([1, 2], [5, 5], [3, 6]) == pytest.approx(0.0)
    assert lacking([3, 4], [1, 0], [0, 0]) == pytest.approx(0.6)


def test_a_direction_that_is_not_defined_is_none() -> None:
    assert lacking([1, 2], [3, 5], [3, 5]) is None
    assert lacking([0, 0], [3, 5], [2, 5]) is None
    assert lacking([1, 2], [np.nan, 5], [2, 5]) is None
    assert lacking([], [], []) is None
    assert alignment({}, {}, {}) is None


def test_the_direction_is_that_of_the_floating_point_tensors_that_all_three_hold_alike() -> None:
    def tensors(value: float, count: int, more: int) -> dict[str, StoredTensor]:
        return {
            "x": stored(np.array([value], np.float64)),
            "step": stored(np.array([count], np.int64)),
            "other": stored(np.zeros(more, np.float32) + value),
        }

    assert alignment(tensors(1, 5, 1), tensors(3, 9, 2), tensors(2, -90, 3)) == pytest.approx(1.0)


def test_the_direction_of_a_large_tensor_is_summed_block_by_block() -> None:
    random = np.random.default_rng(0)
    earlier, a, b = (random.normal(size=CHUNK_BYTES + 3).astype(np.float32) for _ in range(3))
    wide = [each.astype(np.float64) for each in (earlier, a, b)]
    gap = wide[1] - wide[2]
    expected = gap @ wide[0] / np.sqrt((gap @ gap) * (wide[0] @ wide[0]))
    assert alignment(*({"x": stored(each)} for each in (earlier, a, b))) == pytest.approx(expected, abs=1e-9)
