import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.strict_json import parse_canonical
from auditor.state.anchor import copied
from auditor.state.source import Reading
from auditor.state.streams import (
    GeneratorStream,
    NumpyGeneratorStream,
    NumpyStream,
    Preserved,
    PythonStream,
    Stream,
    TorchStream,
    derive_seed,
    global_streams,
    seed_everything,
)

Draw = Callable[[], object]
KINDS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


def every_stream() -> list[tuple[Stream, Draw]]:
    own = torch.Generator().manual_seed(3)
    found: list[tuple[Stream, Draw]] = [
        (PythonStream(), lambda: (random.random(), random.gauss(0, 1))),
        (NumpyStream(), lambda: (np.random.random(), np.random.standard_normal())),
        (TorchStream(), lambda: (torch.rand(1).item(), torch.randn(3).tolist())),
        (GeneratorStream("loader", own), lambda: torch.randn(3, generator=own).tolist()),
    ]
    state, twister = np.random.RandomState(5), random.Random(5)
    found += [
        (NumpyStream("state", state), lambda: (state.random_sample(), state.standard_normal())),
        (PythonStream("random", twister), lambda: (twister.random(), twister.gauss(0, 1))),
    ]
    for kind in KINDS:
        generator = np.random.Generator(kind(5))
        found.append(
            (
                NumpyGeneratorStream(kind.__name__, generator),
                lambda generator=generator: (generator.random(), int(generator.integers(100, dtype=np.int32))),
            )
        )
    return found


NAMES = [stream.name for stream, _ in every_stream()]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_a_restored_stream_draws_the_same_again(index: int) -> None:
    stream, draw = every_stream()[index]
    draw()  # an odd number of Gaussians: one is pending
    read = stream.read()
    held = Reading(copied(read).tensors, parse_canonical(canonical_bytes(read.values) + b"\n", "x"))
    assert held.digest() == stream.digest() == stream.digest()
    first = [draw() for _ in range(5)]
    assert stream.digest() != held.digest()
    stream.restore(held)
    assert stream.digest() == held.digest()
    assert [draw() for _ in range(5)] == first


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_rekeying_changes_that_stream_only(index: int) -> None:
    streams = every_stream()
    before = [stream.digest() for stream, _ in streams]
    stream, draw = streams[index]
    seed = stream.rekey("0/1")
    after = [stream.digest() for stream, _ in streams]
    assert [i for i, (one, two) in enumerate(zip(before, after, strict=True)) if one != two] == [index]
    drawn = [draw() for _ in range(3)]
    draw()
    assert stream.rekey("0/1") == seed
    assert [draw() for _ in range(3)] == drawn
    assert stream.rekey("0/2") != seed
    assert [draw() for _ in range(3)] != drawn


@given(st.text(), st.text())
def test_seeds_are_63_bits_and_each_stream_has_its_own(key: str, name: str) -> None:
    seed = derive_seed(key.replace("\ud800", ""), name)
    assert 0 <= seed < 2**63
    assert seed != derive_seed(key, name + "x")


def test_a_seed_is_what_the_specification_says() -> None:
    # printf '0/1\ntorch' | sha256sum: the first 8 bytes, less the last bit.
    assert derive_seed("0/1", "torch") == 1428189805938339450


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_reading_and_digesting_consume_nothing(index: int) -> None:
    stream, draw = every_stream()[index]
    draw()
    held = copied(stream.read())
    drawn = [draw() for _ in range(3)]
    stream.restore(held)
    for _ in range(3):
        stream.digest()
        stream.read()
    assert [draw() for _ in range(3)] == drawn


def test_what_a_reading_holds_does_not_follow_the_stream() -> None:
    for stream, draw in every_stream():
        held = stream.read()
        digest = held.digest()
        draw()
        assert held.digest() == digest, stream.name


def test_a_preserved_block_consumes_nothing_even_if_it_fails() -> None:
    streams = [stream for stream, _ in every_stream()[:4]]
    before = [stream.digest() for stream in streams]

    def fail() -> None:
        with Preserved(streams):
            random.random()
            np.random.random()
            torch.rand(5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [stream.digest() for stream in streams] == before


def test_seeding_everything_is_what_the_libraries_do() -> None:
    seed_everything(2**40 + 7)
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(2**40 + 7)
    np.random.seed(7)
    torch.manual_seed(2**40 + 7)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn


def test_torchs_generators_tell_their_seed_even_after_a_restore() -> None:
    own = torch.Generator().manual_seed(3)
    stream = GeneratorStream("own", own)
    held = copied(stream.read())
    own.manual_seed(4)
    assert stream.initial_seed() == 4
    stream.restore(held)
    assert stream.initial_seed() == 3
    assert PythonStream().initial_seed() is None


def test_a_generators_digest_follows_every_change() -> None:
    for stream, draw in every_stream():
        for _ in range(3):
            before = stream.digest()
            assert stream.digest() == before == stream.read().digest()
            draw()
            assert stream.digest() == stream.read().digest() != before
