import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.digest import digest_text
from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.draws import draws_between
from auditor.compare.generator_state import MersenneTwister, Pcg64, Philox, read_state
from auditor.compare.later_digests import draws_to_digest
from auditor.state.streams import NumpyStream
from tests.unit.compare.generator_support import (
    MAKERS,
    Stored,
    numpy_generator,
    numpy_stream,
    python_stream,
    state_of,
    stored,
    torch_stream,
)

NO_DIGEST = digest_text(bytes(16))
INCREMENT = {"$": "int", "value": str(2**100 + 1)}


def tensor(dtype: str, shape: tuple[int, ...], data: bytes) -> StoredTensor:
    return StoredTensor(dtype, shape, memoryview(data))


def uint8(data: bytes) -> dict[str, StoredTensor]:
    return {"state": tensor("uint8", (len(data),), data)}


def torch_bytes() -> bytearray:
    return bytearray(torch.Generator().manual_seed(3).get_state().numpy().tobytes())


def changed(start: int, form: str, value: object) -> dict[str, StoredTensor]:
    raw = torch_bytes()
    struct.pack_into(form, raw, start, value)
    return uint8(bytes(raw))


def words(numbers: list[int], position: int) -> dict[str, StoredTensor]:
    return {"words": tensor("int64", (625,), np.array([*numbers, position], dtype="<i8").tobytes())}


PYTHON = {"version": 3, "gauss": None}
ONES = [1] * 624
KEY = {"state.key": tensor("uint8", (624, 4), np.ones(624, dtype="<u4").tobytes())}


def twister(**inner: Any) -> dict[str, Any]:
    key = {"$": "array", "path": "state.key", "dtype": "uint32"}
    return {"bit_generator": "MT19937", "state": {"key": key, "pos": 5, **inner}}


def pcg(inner: dict[str, Any] | None = None, **outer: Any) -> dict[str, Any]:
    state = {"state": 5, "inc": INCREMENT, **(inner or {})}
    return {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0, **outer}


def pairs(*items: Any) -> dict[str, Any]:
    return {"$": "dict", "items": list(items)}


MALFORMED: dict[str, Stored] = {
    "nothing": ({}, None),
    "torch of another size": (uint8(bytes(5048)), None),
    "torch with values": (uint8(bytes(torch_bytes())), {}),
    "torch of another dtype": ({"state": tensor("int8", (5056,), bytes(torch_bytes()))}, None),
    "torch of another shape": ({"state": tensor("uint8", (2, 2528), bytes(torch_bytes()))}, None),
    "torch too short": ({"state": tensor("uint8", (5056,), bytes(torch_bytes()[:5055]))}, None),
    "torch and more": ({**uint8(bytes(torch_bytes())), "more": tensor("uint8", (0,), b"")}, None),
    "torch under another path": ({"other": tensor("uint8", (5056,), bytes(torch_bytes()))}, None),
    "torch never seeded": (changed(12, "<i", 0), None),
    "torch with nothing left": (changed(8, "<i", 0), None),
    "torch with less than nothing left": (changed(8, "<i", -1), None),
    "torch with more left than a block": (changed(8, "<i", 625), None),
    "torch with left and next at odds": (changed(16, "<Q", 5), None),
    "torch with a huge next": (changed(16, "<Q", 2**64 - 1), None),
    "torch with a word of 33 bits": (changed(24, "<Q", 2**32), None),
    "torch of zeros": (uint8(struct.pack("<QiiQ", 0, 1, 1, 0) + bytes(5032)), None),
    "metal": (uint8(bytes(44)), None),
    "python's words negative": (words([-1, *ONES[1:]], 624), PYTHON),
    "python's words too wide": (words([2**32, *ONES[1:]], 624), PYTHON),
    "python's words all zero": (words([0] * 624, 624), PYTHON),
    "python's words zero but for bits without part": (words([2**31 - 1, *[0] * 623], 0), PYTHON),
    "python's position too high": (words(ONES, 625), PYTHON),
    "python's position negative": (words(ONES, -1), PYTHON),
    "python without values": (words(ONES, 624), None),
    "python of another version": (words(ONES, 624), {"version": 2, "gauss": None}),
    "python of a version that is a truth value": (words(ONES, 624), {"version": True, "gauss": None}),
    "python with a text as normal": (words(ONES, 624), {"version": 3, "gauss": "0.5"}),
    "python with NaN as normal": (words(ONES, 624), {"version": 3, "gauss": float("nan")}),
    "python with more": (words(ONES, 624), {**PYTHON, "more": 1}),
    "python of another dtype": ({"words": tensor("uint64", (625,), bytes(5000))}, PYTHON),
    "numpy without its key": ({}, twister()),
    "numpy with more": ({**KEY, "more": KEY["state.key"]}, twister()),
    "numpy's key elsewhere": (
        {"<pos>": KEY["state.key"]},
        twister(key={"$": "array", "path": "<pos>", "dtype": "uint32"}),
    ),
    "numpy's key as numbers": (KEY, twister(key=[1] * 624)),
    "numpy's position too high": (KEY, twister(pos=625)),
    "numpy's position negative": (KEY, twister(pos=-1)),
    "numpy's position a fraction": (KEY, twister(pos=5.0)),
    "numpy's position a truth value": (KEY, twister(pos=True)),
    "numpy's position a list": (KEY, twister(pos=[5])),
    "numpy with more members": (KEY, twister(more=1)),
    "numpy with half a normal": (KEY, {**twister(), "has_gauss": 1}),
    "numpy with two normals": (KEY, {**twister(), "has_gauss": 2, "gauss": 0.5}),
    "numpy with a normal of text": (KEY, {**twister(), "has_gauss": 1, "gauss": "0.5"}),
    "numpy of a list": (KEY, {**twister(), "bit_generator": ["MT19937"]}),
    "numpy's state a number": (KEY, {"bit_generator": "MT19937", "state": 3}),
    "pcg with tensors": (KEY, pcg()),
    "pcg with an even increment": ({}, pcg({"inc": 4})),
    "pcg of 129 bits": ({}, pcg({"state": {"$": "int", "value": str(2**128)}})),
    "pcg of a million digits": ({}, pcg({"state": {"$": "int", "value": "9" * 10**6}})),
    "pcg of a negative state": ({}, pcg({"state": {"$": "int", "value": "-" + "9" * 20}})),
    "pcg of a state with zeros before": ({}, pcg({"state": {"$": "int", "value": "0" + "9" * 20}})),
    "pcg of a state in other digits": ({}, pcg({"state": {"$": "int", "value": "٣" * 20}})),
    "pcg of a small state as text": ({}, pcg({"state": {"$": "int", "value": "5"}})),
    "pcg of a large state as number": ({}, pcg({"state": 2**60})),
    "pcg of a large increment as number": ({}, pcg({"inc": 2**60 + 1})),
    "pcg of a state that is a number in a text": ({}, pcg({"state": "5"})),
    "pcg of a fraction": ({}, pcg({"state": 5.0})),
    "pcg of an integer with more": ({}, pcg({"state": {**INCREMENT, "more": 1}})),
    "pcg with half a word of 33 bits": ({}, pcg(uinteger=2**32)),
    "pcg with two halves": ({}, pcg(has_uint32=2)),
    "pcg without halves": ({}, {"bit_generator": "PCG64", "state": {"state": 5, "inc": INCREMENT}}),
    "pcg with more": ({}, pcg(more=1)),
    "pcg of another name": ({}, pcg(bit_generator="PCG32")),
    "pcg of a name in a list": ({}, pcg(bit_generator=["PCG64"])),
    "a dict with a member twice": ({}, pairs(*([key, value] for key, value in pcg().items()), ["uinteger", 0])),
    "a dict with a key that is no text": ({}, pairs([1, 2])),
    "a dict with a key that is a list": ({}, pairs([["bit_generator"], "PCG64"])),
    "a dict with an item of three": ({}, pairs(["bit_generator", "PCG64", 1])),
    "a dict with items that are none": ({}, {"$": "dict", "items": 3}),
    "a dict of another kind": ({}, {"$": "ordered", "items": [[key, value] for key, value in pcg().items()]}),
    "a dict whose kind is a list": ({}, {"$": ["dict"], "items": []}),
    "a list": ({}, [1, 2]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_no_generator_writes_is_not_read(name: str) -> None:
    assert read_state(*MALFORMED[name]) is None
    assert draws_to_digest(*MALFORMED[name], NO_DIGEST, limit=3) is None


def test_the_malformed_differ_in_one_thing_from_what_is_read() -> None:
    assert isinstance(read_state(uint8(bytes(torch_bytes())), None), MersenneTwister)
    assert isinstance(read_state(words(ONES, 624), PYTHON), MersenneTwister)
    assert isinstance(read_state(KEY, twister()), MersenneTwister)
    assert isinstance(read_state({}, pcg()), Pcg64)
    assert isinstance(read_state({}, pairs(*([key, value] for key, value in pcg().items()))), Pcg64)


@pytest.mark.parametrize("draws", [0, 1, 400, 623, 624, 625])
def test_torch_states_are_read(draws: int) -> None:
    stream = torch_stream(2**63 + 5)
    torch.rand(draws, generator=stream.generator)
    state = state_of(stream)
    assert isinstance(state, MersenneTwister)
    assert state.seed == 2**63 + 5
    assert state.position == (draws - 1) % 624 + 1
    assert state.normals == ()
    raw = stream.generator.get_state().numpy()[24 : 24 + 8 * 624].tobytes()
    assert list(struct.unpack("<624I", state.words)) == list(struct.unpack("<624Q", raw))


def test_a_cached_normal_of_torch_is_the_one_handed_out_next() -> None:
    stream = torch_stream(5)
    torch.randn(3, generator=stream.generator)
    state = state_of(stream)
    assert isinstance(state, MersenneTwister)
    assert state.normals == (torch.randn(1, generator=stream.generator, dtype=torch.float64).item(),)


def test_torch_also_has_a_place_for_a_normal_of_single_precision() -> None:
    raw = torch_bytes()
    struct.pack_into("<fB", raw, 5048, 0.5, 1)
    state = read_state(uint8(bytes(raw)), None)
    assert isinstance(state, MersenneTwister)
    assert state.normals == (0.5,)
    # torch agrees that this is what the bytes say.
    back = torch.Generator()
    back.set_state(torch.frombuffer(raw, dtype=torch.uint8))
    assert bytes(back.get_state().numpy()) == bytes(raw)


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 1), offset=st.integers(0, 2**64 - 1))
def test_device_states_are_seed_and_offset(seed: int, offset: int) -> None:
    assert read_state(uint8(struct.pack("<QQ", seed, offset)), None) == Philox(seed, offset)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_python_states_are_read(seed: int) -> None:
    stream = python_stream(seed)
    stream.generator.gauss(0.0, 1.0)
    stream.generator.getrandbits(32)
    _, (*numbers, position), gauss = stream.generator.getstate()
    assert state_of(stream) == MersenneTwister(struct.pack("<624I", *numbers), position, normals=(gauss,))
    stream.generator.gauss(0.0, 1.0)
    assert state_of(stream) == MersenneTwister(struct.pack("<624I", *numbers), position)


def test_numpy_states_are_read() -> None:
    for stream in (numpy_stream(5), numpy_generator(np.random.MT19937, 5)):
        stream.generator.standard_normal()
        generator: Any = stream.generator
        legacy = isinstance(stream, NumpyStream)
        raw = generator.get_state(legacy=False) if legacy else generator.bit_generator.state
        normals = (raw["gauss"],) if legacy else ()
        expected = MersenneTwister(raw["state"]["key"].tobytes(), raw["state"]["pos"], normals=normals)
        assert state_of(stream) == expected
    assert state_of(NumpyStream("other", np.random.RandomState(np.random.PCG64(1)))) == state_of(
        numpy_generator(np.random.PCG64, 1)
    )


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.PCG64DXSM])
def test_pcg_states_are_read_with_the_half_that_waits(kind: Any) -> None:
    stream = numpy_generator(kind, 5)
    generator = stream.generator
    for half in (True, False):
        generator.integers(10, dtype=np.int32)
        raw: Any = generator.bit_generator.state
        waits = raw["uinteger"] if half else None
        assert state_of(stream) == Pcg64(kind.__name__, raw["state"]["state"], raw["state"]["inc"], waits)


@pytest.mark.parametrize("kind", [np.random.Philox, np.random.SFC64])
def test_numpy_generators_that_are_not_known_are_not_read(kind: Any) -> None:
    assert read_state(*stored(numpy_generator(kind, 5))) is None


def test_a_loader_workers_streams_are_several_and_not_read_as_one() -> None:
    tensors, values = {}, {}
    for stream in (python_stream(1), numpy_stream(1), torch_stream(1)):
        own, values[stream.name] = stored(stream)
        tensors.update({f"{stream.name}.{path}": item for path, item in own.items()})
    assert read_state(tensors, values) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["int", "dict"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "items", "value", "state", "key", "pos", "inc", "gauss"]), inner)
    ),
    max_leaves=12,
)


def replaced(value: Any, choices: st.DataObject) -> Any:
    """The value with one part of it, anywhere, replaced by something else."""
    if isinstance(value, dict) and value and choices.draw(st.integers(0, 4)):
        key = choices.draw(st.sampled_from(sorted(value)))
        return {**value, key: replaced(value[key], choices)}
    if isinstance(value, list) and value and choices.draw(st.integers(0, 4)):
        place = choices.draw(st.integers(0, len(value) - 1))
        return [*value[:place], replaced(value[place], choices), *value[place + 1 :]]
    return choices.draw(JSON)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_states_raise_nothing(kind: str, data: st.DataObject) -> None:
    tensors, values = stored(MAKERS[kind](3))
    values = replaced(values, data)
    for path, item in tensors.items():
        raw = bytearray(item.data)
        # The head of torch's state and the position at the end of Python's are where something can go wrong.
        for place in data.draw(st.lists(st.integers(0, 40) | st.integers(-40, -1), max_size=3)):
            raw[place] = data.draw(st.integers(0, 255))
        shape = data.draw(st.sampled_from([item.shape, item.shape, (0,), (), (len(raw),)]))
        dtype = data.draw(st.sampled_from([item.dtype, item.dtype, "int64", "float32"]))
        tensors[path] = StoredTensor(dtype, shape, memoryview(bytes(raw)))
    for given_values in (values, stored(MAKERS[kind](3))[1]):
        state = read_state(tensors, given_values)
        if state is not None:
            assert draws_between(state, state) == 0
            assert draws_between(state, state_of(MAKERS[kind](4)), limit=1000) is None or isinstance(state, Pcg64)
        assert draws_to_digest(tensors, given_values, NO_DIGEST, limit=700) is None
