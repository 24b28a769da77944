import json

import numpy as np
import pytest

from auditor.artifact.digest import array_digest, digest_text, source_digest, tensor_digest
from tests.support.digest_vectors import PATH, Vector, data_of, document

VECTORS: list[Vector] = json.loads(PATH.read_text("utf-8"))["vectors"]
NUMPY = [vector for vector in VECTORS if vector["dtype"] in np.sctypeDict]


def title(vector: Vector) -> str:
    return vector["title"]


def test_the_golden_file_is_what_the_specification_gives() -> None:
    assert PATH.read_text("utf-8") == document()


@pytest.mark.parametrize("vector", VECTORS, ids=title)
def test_bytes_equal_the_golden_digest(vector: Vector) -> None:
    found = tensor_digest(vector["name"], vector["dtype"], vector["shape"], data_of(vector))
    assert digest_text(found) == vector["digest"]
    view = memoryview(bytearray(data_of(vector)))
    assert tensor_digest(vector["name"], vector["dtype"], vector["shape"], view) == found


@pytest.mark.parametrize("vector", NUMPY, ids=title)
def test_arrays_equal_the_golden_digest_in_any_order_of_bytes_and_elements(vector: Vector) -> None:
    little = np.dtype(vector["dtype"]).newbyteorder("<")
    array = np.frombuffer(data_of(vector), dtype=little).reshape(vector["shape"])
    big = array.byteswap().view(little.newbyteorder(">"))
    for laid_out in (array, np.array(array, order="F"), big):
        assert digest_text(array_digest(vector["name"], laid_out)) == vector["digest"]


def test_every_numpy_dtype_is_covered() -> None:
    assert {"bool", "float16", "float64", "complex128", "uint64"} <= {vector["dtype"] for vector in NUMPY}


def test_vectors_that_differ_in_anything_have_different_digests() -> None:
    contents = {(v["name"], v["dtype"], *v["shape"], data_of(v)) for v in VECTORS}
    assert len({vector["digest"] for vector in VECTORS}) == len(contents)


def test_a_source_is_its_tensors_by_path_and_then_its_values() -> None:
    one, two = tensor_digest("a", "uint8", [1], b"\1"), tensor_digest("b", "uint8", [1], b"\2")
    assert source_digest({"b": two, "a": one}) == source_digest({"a": one, "b": two})
    assert source_digest({"a": one, "b": two}) != source_digest({"a": two, "b": one})
    assert source_digest({"a": one}) != source_digest({"a": one}, {})
    assert source_digest({"a": one}, [1]) != source_digest({"a": one}, [2])
