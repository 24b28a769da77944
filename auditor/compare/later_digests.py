"""After how many draws a stream has a given digest: what the trace says of streams between two anchors.

From the whole state at an anchor each later state is made as the generator itself would store it, and digested as the
trace does (docs/run-directory.md). Layouts: see :mod:`auditor.compare.generator_state`.

Generators store more than their place: a normal number made together with the one handed out (torch's CPU generator,
``random.gauss``, NumPy's ``RandomState``), or the other half of a 64-bit word (NumPy's ``Generator``). What may be
stored beside the place is tried in turn: what the anchor had, the same once handed out, and what the very last draws
would have left.
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from auditor.artifact.canonical import MAX_SAFE_INTEGER, canonical_bytes
from auditor.artifact.digest import digest_text, digest_with_header, header, tensor_digest
from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.draws import MASK_128, MULTIPLIERS, twister
from auditor.compare.generator_state import (
    TORCH_NORMAL,
    TORCH_WORDS,
    WORDS,
    MersenneTwister,
    Pcg64,
    Philox,
    members,
    read_state,
)

TRIED_DRAWS = 100_000

_OUTPUTS = 1024

Digests = Iterator[set[bytes]]
"""The digests a stream may have after 0, 1, 2, … draws, 16 bytes each."""
Four = tuple[int, int, int, int]


def draws_to_digest(
    tensors: Mapping[str, StoredTensor], values: Any, digest: str, limit: int = TRIED_DRAWS
) -> int | None:
    """Return after how many raw draws a stream has a digest, starting from its whole state.

    ``tensors`` and ``values`` as for :func:`auditor.compare.generator_state.read_state`; ``digest`` is 22 characters as
    in the trace; draws are counted as in :func:`auditor.compare.draws.draws_between`. The first of several is
    returned, 0 where only what waits to be handed out may have changed. Forward only.

    None for a generator that is not known here, or if no state within ``limit`` draws has the digest. That does not
    say that the stream left its sequence: a normal number or half a word may have been stored some draws before, or
    the states may lie further apart.
    """
    wanted = _raw_digest(digest)
    state = read_state(tensors, values)
    if wanted is None or state is None:
        return None
    later = _later_digests(tensors, values, state)
    for draws, digests in enumerate(itertools.islice(later, max(limit + 1, 0))):
        if wanted in digests:
            return draws
    return None


def _later_digests(
    tensors: Mapping[str, StoredTensor], values: Any, state: MersenneTwister | Pcg64 | Philox
) -> Digests:
    match state:
        case Philox():
            return _torch_device(state)
        case Pcg64():
            return _numpy_pcg(values, state)
    if "state" in tensors:
        return _torch_cpu(tensors["state"], state)
    if "words" in tensors:
        return _python(tensors["words"], values, state)
    return _numpy_twister(tensors["state.key"], values, state)


def _raw_digest(text: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(text + "==")
    except ValueError:
        return None
    return raw if len(raw) == 16 and digest_text(raw) == text else None


def _source_digest(leaf: bytes, values: bytes = b"") -> bytes:
    """Return ``artifact.digest.source_digest`` of one tensor at most, its values in canonical JSON already."""
    return xxhash.xxh3_128_digest(leaf + values)


def _torch_device(state: Philox) -> Digests:
    prefix = header("state", "uint8", (16,))
    for offset in range(state.offset, 2**64):
        yield {_source_digest(digest_with_header(prefix, struct.pack("<QQ", state.seed, offset)))}


def _torch_cpu(tensor: StoredTensor, state: MersenneTwister) -> Digests:
    raw = bytearray(tensor.data)
    prefix = header("state", "uint8", tensor.shape)
    normals = {bytes(raw[TORCH_NORMAL]), bytes(24)}

    def digest(normal: bytes) -> bytes:
        raw[TORCH_NORMAL] = normal
        return _source_digest(digest_with_header(prefix, memoryview(raw)))

    yield set(map(digest, normals))
    for words, position, last in _twister_steps(state):
        if words is not None:
            raw[TORCH_WORDS] = words.astype("<u8").tobytes()
        struct.pack_into("<i", raw, 8, WORDS + 1 - position)
        struct.pack_into("<Q", raw, 16, position)
        made = normals if last is None else {*normals, struct.pack("<ddii", torch_normal(*last), 0.0, 1, 0)}
        yield set(map(digest, made))


def _python(tensor: StoredTensor, values: Any, state: MersenneTwister) -> Digests:
    raw = bytearray(tensor.data)
    prefix = header("words", "int64", tensor.shape)
    template = _template(values, {("gauss",): "<gauss>"})
    texts = {template.replace('"<gauss>"', gauss) for gauss in ("null", *map(_json, state.normals))}

    def digests(made: set[str]) -> set[bytes]:
        leaf = digest_with_header(prefix, memoryview(raw))
        return {_source_digest(leaf, text.encode()) for text in made}

    yield digests(texts)
    for words, position, last in _twister_steps(state):
        if words is not None:
            raw[: 8 * WORDS] = words.astype("<i8").tobytes()
        struct.pack_into("<q", raw, 8 * WORDS, position)
        made = texts if last is None else {*texts, template.replace('"<gauss>"', _json(python_normal(*last)))}
        yield digests(made)


def _numpy_twister(tensor: StoredTensor, values: Any, state: MersenneTwister) -> Digests:
    # A Generator over MT19937 keeps no normal number: without holes for one all pairs make the same text.
    keeps_normals = "gauss" in (members(values) or {})
    holes: dict[tuple[str, ...], str] = {("state", "pos"): "<pos>"}
    if keeps_normals:
        holes |= {("has_gauss",): "<has>", ("gauss",): "<gauss>"}
    template = _template(values, holes)
    pairs = {("0", "0.0"), *(("1", _json(normal)) for normal in state.normals)}

    def digests(leaf: bytes, position: int, made: set[tuple[str, str]]) -> set[bytes]:
        text = template.replace('"<pos>"', str(position))
        texts = {text.replace('"<has>"', has).replace('"<gauss>"', gauss) for has, gauss in made}
        return {_source_digest(leaf, each.encode()) for each in texts}

    leaf = tensor_digest("state.key", "uint8", tensor.shape, tensor.data)
    yield digests(leaf, state.position, pairs)
    for words, position, last in _twister_steps(state):
        if words is not None:
            leaf = tensor_digest("state.key", "uint8", tensor.shape, words.astype("<u4").tobytes())
        normal = numpy_normal(*last) if keeps_normals and last is not None else None
        yield digests(leaf, position, pairs if normal is None else {*pairs, ("1", _json(normal))})


def _numpy_pcg(values: Any, state: Pcg64) -> Digests:
    template = _template(values, {("state", "state"): "<state>", ("has_uint32",): "<has>", ("uinteger",): "<half>"})
    # What was the other half of a word stays where it stood when it is handed out.
    stood = (members(values) or {})["uinteger"]
    halves = {("0", stood), ("0" if state.half is None else "1", stood)}

    def digests(number: int, made: set[tuple[str, int]]) -> set[bytes]:
        wide = str(number) if number <= MAX_SAFE_INTEGER else f'{{"$":"int","value":"{number}"}}'
        text = template.replace('"<state>"', wide)
        texts = {text.replace('"<has>"', has).replace('"<half>"', str(half)) for has, half in made}
        return {_source_digest(b"", each.encode()) for each in texts}

    number, multiplier = state.state, MULTIPLIERS[state.variant]
    yield digests(number, halves)
    bits: Any = np.random.PCG64(0) if state.variant == "PCG64" else np.random.PCG64DXSM(0)
    bits.state = {**bits.state, "state": {"state": number, "inc": state.increment}}
    while True:
        for output in bits.random_raw(_OUTPUTS).tolist():
            number = (number * multiplier + state.increment) & MASK_128
            yield digests(number, {*halves, ("0", output >> 32), ("1", output >> 32)})


def _twister_steps(state: MersenneTwister) -> Iterator[tuple[np.ndarray[Any, Any] | None, int, Four | None]]:
    """Yield what each draw leaves: the block's words if it is a new one, the position, the last four draws if so many.

    Only draws after ``state`` count. A position is 1 to 624: a block that is used up stands until the next draw.
    """
    bits = twister(state)
    position = state.position
    last: tuple[int, ...] = ()
    while True:
        words = None
        if position == WORDS:
            position = 0
        outputs = bits.random_raw(WORDS - position).tolist()
        if position == 0:
            words = bits.state["state"]["key"]
        for output in outputs:
            position += 1
            last = (*last[-3:], output)
            yield words, position, (last[0], last[1], last[2], last[3]) if len(last) == 4 else None
            words = None


def torch_normal(a: int, b: int, c: int, d: int) -> float:
    """Return the normal number that torch's CPU generator keeps after four draws.

    Source: ``normal_distribution<double>`` and ``uniform_real`` in aten/src/ATen/core/DistributionsHelper.h and
    TransformationHelper.h. Whatever the dtype, fewer than 16 normals at once are drawn this way.
    """
    first = ((a << 32 | b) & (2**53 - 1)) * 2.0**-53
    second = ((c << 32 | d) & (2**53 - 1)) * 2.0**-53
    return math.sqrt(-2.0 * math.log1p(-second)) * math.sin(2.0 * math.pi * first)


def python_normal(a: int, b: int, c: int, d: int) -> float:
    """Return the normal number that ``random.gauss`` keeps after four draws (Lib/random.py)."""
    return math.sin(_double(a, b) * (2.0 * math.pi)) * math.sqrt(-2.0 * math.log(1.0 - _double(c, d)))


def numpy_normal(a: int, b: int, c: int, d: int) -> float | None:
    """Return the normal number that a ``RandomState`` keeps after four draws, None where it would draw again.

    Source: ``legacy_gauss`` in numpy/random/src/legacy/legacy-distributions.c. Where NumPy was compiled to fused
    multiply-adds (arm64), its sum of squares may be rounded otherwise and the last bits differ.
    """
    first, second = 2.0 * _double(a, b) - 1.0, 2.0 * _double(c, d) - 1.0
    square = first * first + second * second
    if square >= 1.0 or square == 0.0:
        return None
    return math.sqrt(-2.0 * math.log(square) / square) * first


def _double(a: int, b: int) -> float:
    """Return the number in [0, 1) that CPython and NumPy make of two draws (``genrand_res53``)."""
    return ((a >> 5) * 67108864.0 + (b >> 6)) / 9007199254740992.0


def _template(values: Any, holes: Mapping[tuple[str, ...], str]) -> str:
    """Return the canonical JSON of ``values`` with a mark, in its quotes, in place of each member named in ``holes``.

    ``values`` are such as :func:`read_state` takes: they hold no text of the program's own.
    """
    for path, mark in holes.items():
        values = _replaced(values, path, mark)
    return canonical_bytes(values).decode()


def _replaced(value: Any, path: tuple[str, ...], mark: str) -> Any:
    if not path:
        return mark
    if "$" not in value:
        return {**value, path[0]: _replaced(value[path[0]], path[1:], mark)}
    items = [[key, _replaced(item, path[1:], mark) if key == path[0] else item] for key, item in value["items"]]
    return {**value, "items": items}


def _json(number: float) -> str:
    return canonical_bytes(number).decode()
