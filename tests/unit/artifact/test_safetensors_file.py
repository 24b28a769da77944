import json
import struct
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from auditor.artifact.safetensors_file import SafetensorsError, read


def file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_reads_what_the_library_writes() -> None:
    arrays = {"a/w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4)), "c": np.array(True)}
    tensors = read(save(arrays), "x")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        "a/w": ("float32", (2, 3)),
        "b": ("float64", (0, 4)),
        "c": ("bool", ()),
    }
    assert bytes(tensors["a/w"].data) == arrays["a/w"].tobytes()


REFUSED = {
    "too_short": b"\0\0\0",
    "header_past_the_end": file({}, length=10_000),
    "header_of_exabytes": file({}, length=2**63),
    "not_an_object": file(b"[]"),
    "space_before_the_object": file(b" {}"),
    "duplicate_key": file(
        b'{"a":' + json.dumps(entry(0, 1)).encode() + b',"a":' + json.dumps(entry(0, 1)).encode() + b"}", b"x"
    ),
    "overlap": file({"a": entry(0, 2), "b": entry(1, 3)}, b"xyz"),
    "same_bytes_twice": file({"a": entry(0, 2), "b": entry(0, 2)}, b"xy"),
    "gap": file({"a": entry(0, 1), "b": entry(2, 3)}, b"xyz"),
    "gap_at_the_start": file({"a": entry(1, 2)}, b"xy"),
    "bytes_after_the_last": file({"a": entry(0, 1)}, b"xy"),
    "data_cut": file({"a": entry(0, 3)}, b"xy"),
    "size_against_shape": file({"a": entry(0, 2, [3])}, b"xy"),
    "size_overflow": file({"a": entry(0, 0, [2**32, 2**32], "F32")}),
    "negative_offset": file({"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}}),
    "boolean_size": file({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"x"),
    "float_size": file({"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, b"x"),
    "unknown_dtype": file({"a": entry(0, 1, dtype="U9")}, b"x"),
    "list_as_dtype": file({"a": {"dtype": ["U8"], "shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "extra_member": file({"a": {**entry(0, 1), "z": 1}}, b"x"),
    "metadata_not_strings": file({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_files_are_refused(name: str) -> None:
    with pytest.raises(SafetensorsError):
        read(REFUSED[name], "x")
