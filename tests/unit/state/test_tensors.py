import json

import pytest
import torch

from auditor.artifact.digest import digest_text
from auditor.errors import MemauditError
from auditor.state.tensors import dtype_name, logical, tensor_bytes, torch_digest
from tests.support.digest_vectors import DTYPES, PATH, SHELLS, Vector, data_of

VECTORS: list[Vector] = json.loads(PATH.read_text("utf-8"))["vectors"]


def laid_out(vector: Vector) -> torch.Tensor:
    """Return the vector's elements, logically equal, laid out in memory as it says."""
    data, shape = data_of(vector), vector["shape"]
    dtype = getattr(torch, vector["dtype"])
    if not data:
        return torch.empty(shape, dtype=dtype)
    # A memory of eight-byte alignment, then bits as they are: NaN payloads pass no arithmetic.
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()
    plain = raw.view(dtype).reshape(shape)
    match vector["layout"]:
        case "transposed":
            return plain.transpose(0, -1).contiguous().transpose(0, -1)
        case "every second":
            wide = torch.zeros([*shape[:-1], 2 * shape[-1]], dtype=torch.uint8).to(dtype)
            wide[..., ::2] = plain
            return wide[..., ::2]
        case "offset":
            return torch.cat([torch.zeros(16, dtype=torch.uint8).view(dtype), plain.reshape(-1)])[
                -plain.numel() :
            ].view(shape)
        case "channels last":
            return plain.contiguous(memory_format=torch.channels_last)
        case "expanded":
            return plain[:1].expand(shape)
    return plain


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["title"])
@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_tensors_equal_the_golden_digest(vector: Vector) -> None:
    tensor = laid_out(vector)
    # What lies in one piece keeps its layout; the others must not, or the test would test nothing.
    assert tensor.is_contiguous() == (vector["layout"] in ("contiguous", "offset"))
    assert digest_text(torch_digest(vector["name"], tensor)) == vector["digest"]


def test_every_dtype_of_torch_is_covered_or_quantized() -> None:
    offered = {dtype_name(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
    quantized = {"qint8", "qint32", "quint8", "quint2x4", "quint4x2"}
    assert offered - quantized - DTYPES.keys() - SHELLS.keys() == set()


def test_conjugate_and_negative_views_are_resolved() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    assert tensor.conj().is_conj()
    assert torch_digest("x", tensor.conj()) == torch_digest("x", tensor.conj().resolve_conj())
    assert tensor.conj().imag.is_neg()
    assert torch_digest("x", tensor.conj().imag) == torch_digest("x", torch.tensor([-2.0, 4.0]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_has_no_plain_sequence_of_elements_is_refused_by_its_kind() -> None:
    kinds = {
        "sparse_coo": torch.eye(3).to_sparse(),
        "sparse_csr": torch.eye(3).to_sparse_csr(),
        "meta": torch.empty(3, device="meta"),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }
    for kind, tensor in kinds.items():
        with pytest.raises(MemauditError, match=kind) as caught:
            torch_digest("x", tensor)
        assert caught.value.next_step


def test_a_plain_tensor_is_read_where_it_lies() -> None:
    tensor = torch.arange(6.0)
    assert logical(tensor) is tensor
    view = tensor_bytes(tensor)
    tensor[0] = 5.0
    assert bytes(view[:4]) == torch.tensor([5.0]).numpy().tobytes()


def test_a_parameter_keeps_its_gradient_and_its_flags() -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    (parameter.T * 2).sum().backward()
    torch_digest("x", parameter.T)
    assert parameter.requires_grad
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [[2.0, 2.0]] * 3
