import io
from pathlib import Path

import numpy as np
import pytest

from auditor.artifact.order_file import OrderFileError, encode, read, write


@pytest.mark.parametrize("ids", [[], [0], [3, 1, 2], [2**32 - 1], [2**32], [2**64 - 1]])
def test_round_trip_and_numpy_agrees(ids: list[int]) -> None:
    array = np.array(ids, dtype=np.uint64)
    data = encode(array)
    assert read(data, "x").tolist() == ids
    assert np.load(io.BytesIO(data), allow_pickle=False).tolist() == ids


def test_small_ids_take_four_bytes() -> None:
    assert read(encode(np.array([1, 2], dtype=np.int64)), "x").dtype == np.dtype("<u4")


def test_write_gives_the_bytes_of_the_file(tmp_path: Path) -> None:
    data = write(tmp_path / "order.npy", np.arange(5))
    assert (tmp_path / "order.npy").read_bytes() == data


def test_what_is_no_vector_of_ids_is_not_written() -> None:
    for ids in (np.zeros((2, 2), np.int64), np.array([-1]), np.array([0.5])):
        with pytest.raises(OrderFileError):
            encode(ids)


def saved(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        saved(np.array([{"a": 1}], dtype=object)),
        saved(np.arange(3, dtype=np.int64)),
        saved(np.arange(3, dtype=">u4")),
        saved(np.zeros((2, 2), "<u4")),
        encode(np.arange(3)) + b"\0",
        encode(np.arange(3))[:-1],
        encode(np.arange(3)).replace(b"\x01\x00v", b"\x02\x00v"),
        encode(np.arange(3)).replace(b"(3,)", b"(03,)"),
        encode(np.arange(3)).replace(b" \n", b"\n "),
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(OrderFileError):
        read(data, "x")
