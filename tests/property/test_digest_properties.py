"""The digest is a function of name, dtype, shape and elements, of nothing else, and leaves no mark on what it reads."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.digest import array_digest
from auditor.state.tensors import torch_digest

DTYPES = st.sampled_from(
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64),
    ]
)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def tensors(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = DTYPES) -> torch.Tensor:
    """Contiguous tensors of random bits."""
    shape, dtype = draw(SHAPES), draw(dtypes)
    size = int(np.prod(shape)) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        data = bytearray(byte & 1 for byte in data)
    return torch.frombuffer(data, dtype=torch.uint8).clone().view(dtype).reshape(shape)


@given(tensors(), st.data())
def test_how_a_tensor_lies_in_memory_does_not_matter(tensor: torch.Tensor, data: st.DataObject) -> None:
    expected = torch_digest("w", tensor)
    order = data.draw(st.permutations(range(tensor.dim())))
    back = [order.index(i) for i in range(tensor.dim())]
    assert torch_digest("w", tensor.permute(order).contiguous().permute(back)) == expected
    offset, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    room = torch.zeros((offset + step * tensor.numel()) * tensor.element_size(), dtype=torch.uint8).view(tensor.dtype)
    view = room[offset::step][: tensor.numel()]
    view.copy_(tensor.reshape(-1))
    strides = [stride * step for stride in tensor.stride()]
    assert torch_digest("w", room.as_strided(tensor.shape, strides, offset)) == expected
    if tensor.dim() == 4:
        assert torch_digest("w", tensor.to(memory_format=torch.channels_last)) == expected


@given(tensors(), st.integers(1, 4))
def test_an_expanded_tensor_is_what_it_looks_like(tensor: torch.Tensor, times: int) -> None:
    expanded = tensor.expand(times, *tensor.shape)
    assert torch_digest("w", expanded) == torch_digest("w", torch.stack([tensor] * times))


@given(tensors(st.just(torch.complex64)))
def test_lazy_conjugates_and_negatives_are_what_they_look_like(tensor: torch.Tensor) -> None:
    assert torch_digest("w", tensor.conj()) == torch_digest("w", tensor.conj_physical())
    assert torch_digest("w", tensor.conj().imag) == torch_digest("w", -tensor.imag)
    assert torch_digest("w", tensor.conj().conj()) == torch_digest("w", tensor)


@given(tensors(), st.data())
def test_every_bit_counts(tensor: torch.Tensor, data: st.DataObject) -> None:
    expected = torch_digest("w", tensor)
    other = tensor.clone()
    raw = other.view(-1).view(torch.uint8)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 if tensor.dtype is torch.bool else 1 << data.draw(st.integers(0, 7))
    assert torch_digest("w", other) != expected


@given(tensors(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
def test_name_shape_and_dtype_count(tensor: torch.Tensor, name: str) -> None:
    expected = torch_digest("w", tensor)
    assert (torch_digest(name, tensor) == expected) == (name == "w")
    assert torch_digest("w", tensor.unsqueeze(0)) != expected
    if tensor.dim() > 1:
        assert (torch_digest("w", tensor.flatten()) == expected) == (tensor.flatten().shape == tensor.shape)
    twin = {1: torch.int8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[tensor.element_size()]
    assert (torch_digest("w", tensor.view(twin)) == expected) == (tensor.dtype is twin)


@given(tensors(st.sampled_from([torch.float32, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64])))
def test_numpy_and_torch_agree(tensor: torch.Tensor) -> None:
    assert array_digest("w", tensor.clone().numpy()) == torch_digest("w", tensor)


@given(tensors())
def test_digesting_leaves_no_mark(tensor: torch.Tensor) -> None:
    version, strides, address = tensor._version, tensor.stride(), tensor.data_ptr()
    before = bytes(tensor.clone().view(-1).view(torch.uint8).tolist())
    for view in (tensor, tensor.transpose(0, -1)):
        torch_digest("w", view)
    assert (tensor._version, tensor.stride(), tensor.data_ptr()) == (version, strides, address)
    assert bytes(tensor.clone().view(-1).view(torch.uint8).tolist()) == before
    assert tensor.untyped_storage().resizable()
    tensor.untyped_storage().resize_(0)  # what numpy() would forbid
