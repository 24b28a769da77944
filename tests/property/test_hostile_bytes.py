"""Whatever bytes come: a finding that names the file, or a plain error; never a traceback, never a pass."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.artifact import order_file
from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.safetensors_file import SafetensorsError, read
from auditor.artifact.strict_json import StrictJsonError, parse, parse_canonical
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import verify
from tests.support.build_run import RunBuilder

SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | SAFE | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@given(VALUES)
def test_canonical_bytes_are_read_back(value: object) -> None:
    again = parse_canonical(canonical_bytes(value) + b"\n", "x")
    assert canonical_bytes(again) == canonical_bytes(value)


@given(st.binary(max_size=200))
def test_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = parse(data, "x")
    except StrictJsonError:
        return
    assert json.loads(data) == value


@given(VALUES, st.data())
def test_a_flipped_bit_of_canonical_json_is_refused_or_another_value(value: object, data: st.DataObject) -> None:
    text = bytearray(canonical_bytes(value) + b"\n")
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        again = parse_canonical(bytes(text), "x")
    except StrictJsonError:
        return
    assert canonical_bytes(again) == bytes(text)[:-1]
    assert canonical_bytes(again) != canonical_bytes(value)


HEADER = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["U8", "F32", "X"]),
            "shape": st.lists(st.integers(-1, 4), max_size=2),
            "data_offsets": st.lists(st.integers(-1, 20), min_size=2, max_size=2),
        }
    )
    | VALUES,
    max_size=4,
)


@given(HEADER, st.binary(max_size=40))
def test_a_safetensors_file_is_tiled_by_its_tensors_or_refused(header: dict[str, object], body: bytes) -> None:
    raw = json.dumps(header).encode()
    try:
        tensors = read(len(raw).to_bytes(8, "little") + raw + body, "x")
    except SafetensorsError:
        return
    assert b"".join(bytes(tensor.data) for tensor in tensors.values()) == body


@given(st.binary(max_size=300))
def test_bytes_are_an_order_file_or_refused(data: bytes) -> None:
    for attempt in (data, b"\x93NUMPY\x01\x00" + data):
        try:
            ids = order_file.read(attempt, "x")
        except order_file.OrderFileError:
            continue
        assert order_file.read(order_file.encode(ids), "x").tolist() == ids.tolist()


@pytest.fixture(scope="module")
def signed() -> tuple[Path, TrustStore]:
    directory = Path(tempfile.mkdtemp())
    builder = RunBuilder(directory / "run")
    return builder.build(), TrustStore().add(builder.key.public_der, "the author")


FILES = (
    "manifest.json",
    "trace.jsonl",
    "environment.json",
    "order/pass-000001.npy",
    "anchors/step-000003/tensors.safetensors",
    "anchors/step-000003/values.json",
)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_is_free(signed: tuple[Path, TrustStore], name: str, place: float, bit: int) -> None:
    run, trusted = signed
    path = run / name
    before = path.read_bytes()
    changed = bytearray(before)
    changed[int(place * len(changed))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        verification = verify(run, trusted=trusted)
    finally:
        path.write_bytes(before)
    assert verification.exit_status == 1
    assert name in {finding.where.partition("#")[0] for finding in verification.findings if finding.level == "error"}


@SLOW
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), signed_too=st.booleans())
def test_a_file_cut_anywhere_never_passes(
    signed: tuple[Path, TrustStore], name: str, place: float, signed_too: bool
) -> None:
    run, trusted = signed
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(run, copy)
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[: int(place * len(data))])
        if not signed_too and name != "manifest.json":
            (copy / "manifest.json").unlink()
        assert verify(copy, trusted=trusted).exit_status in (1, 4)
