"""Golden vectors of the tensor digest, computed from docs/run-directory.md alone: xxhash and json, nothing of memaudit.

``python -m tests.support.digest_vectors`` writes ``fixtures/digests/vectors.json`` anew; a test holds the file to it.
Each vector gives the elements in logical (C) order, little-endian, either as ``hex`` or as ``counter: n``, which
stands for n bytes of which byte i is (7 i + 13 ⌊i / 2^8⌋ + 29 ⌊i / 2^16⌋) mod 256. ``layout`` says how the tests lay
the same elements out in memory; the digest does not depend on it.
"""

from __future__ import annotations

import base64
import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import xxhash

PATH = Path(__file__).resolve().parents[2] / "fixtures" / "digests" / "vectors.json"
MIB = 1_048_576
Vector = dict[str, Any]

# Every dtype in which torch 2.13 makes a CPU tensor with a plain sequence of elements: name, bytes an element.
DTYPES = {
    **dict.fromkeys(["bool", "uint8", "int8"], 1),
    **dict.fromkeys(["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"], 1),
    **dict.fromkeys(["float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2"], 1),
    **dict.fromkeys(["uint16", "int16", "float16", "bfloat16", "bits16"], 2),
    **dict.fromkeys(["uint32", "int32", "float32", "complex32"], 4),
    **dict.fromkeys(["uint64", "int64", "float64", "complex64"], 8),
    "complex128": 16,
}
# Below a byte: torch has these as shells that can be looked at and not computed with.
SHELLS = {f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)}


def counter(count: int) -> bytes:
    return bytes((7 * i + 13 * (i >> 8) + 29 * (i >> 16)) & 0xFF for i in range(count))


def data_of(vector: Vector) -> bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else counter(vector["counter"])


def xxh3(data: bytes) -> bytes:
    # As a number, written out big-endian here: how the library orders its bytes is not relied on.
    return xxhash.xxh3_128_intdigest(data, seed=0).to_bytes(16, "big")


def digest(name: str, dtype: str, shape: list[int], data: bytes) -> str:
    chunks = b""
    while data:
        chunk, data = data[:MIB], data[MIB:]
        chunks += xxh3(chunk)
    head = json.dumps([name, dtype, shape], separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return base64.urlsafe_b64encode(xxh3(head + b"\x00" + chunks)).decode("ascii")[:22]


def vectors() -> list[Vector]:
    found: list[Vector] = []

    def add(title: str, name: str, dtype: str, shape: list[int], data: bytes | int, layout: str = "contiguous") -> None:
        vector: Vector = {"title": title, "name": name, "dtype": dtype, "shape": shape, "layout": layout}
        vector |= {"counter": data} if isinstance(data, int) else {"hex": data.hex()}
        content = data_of(vector)
        if dtype in DTYPES:
            assert len(content) == prod(shape) * DTYPES[dtype], title
        found.append({**vector, "digest": digest(name, dtype, shape, content)})

    for dtype, size in DTYPES.items():
        data = bytes(i % 3 % 2 for i in range(24)) if dtype == "bool" else counter(24 * size)
        add(f"{dtype}", "layer2.weight", dtype, [2, 3, 4], data)
    for dtype in SHELLS:
        add(f"{dtype}", "layer2.weight", dtype, [6], bytes(6))
    for dtype, size in DTYPES.items():
        add(f"{dtype}, a scalar", "step", dtype, [], b"\x01" + bytes(size - 1))
    for shape in ([0], [0, 3], [3, 0], [2, 0, 5]):
        for dtype in ("float32", "bfloat16", "int64"):
            add(f"{dtype}, empty {shape}", "queue", dtype, shape, b"")

    add("zero", "x", "float32", [1], struct.pack("<f", 0.0))
    add("negative zero", "x", "float32", [1], struct.pack("<f", -0.0))
    add("negative zero, bfloat16", "x", "bfloat16", [1], bytes.fromhex("0080"))
    add("infinities and the smallest subnormal", "x", "float64", [3], struct.pack("<ddd", 1e999, -1e999, 5e-324))
    for payload in ("0000c07f", "0100c07f", "0000c0ff", "0100807f", "ffffff7f"):
        add(f"NaN {payload}", "x", "float32", [1], bytes.fromhex(payload))
    add("NaN with a payload, float64", "x", "float64", [1], bytes.fromhex("efbeadde0000f87f"))
    add("NaN with a payload, float16", "x", "float16", [1], bytes.fromhex("017e"))

    for name in ("", "größe.重み", 'a"b\\c/d', "tab\tnewline\n", "\u007f\u2028", "😀"):
        add(f"the name {name!r}", name, "int32", [2], counter(8))

    for layout in ("transposed", "every second", "offset", "channels last"):
        add(f"{layout}, float32", "w", "float32", [2, 3, 4, 5], counter(480), layout)
        add(f"{layout}, float8_e5m2", "w", "float8_e5m2", [2, 3, 4, 5], counter(120), layout)
    add("expanded", "w", "int16", [3, 2], counter(4) * 3, "expanded")

    add("exactly one chunk", "big", "uint8", [MIB], MIB)
    add("one byte more", "big", "uint8", [MIB + 1], MIB + 1)
    add("one byte less", "big", "uint8", [MIB - 1], MIB - 1)
    add("one chunk of float32", "big", "float32", [512, 512], MIB)
    add("several chunks", "big", "float32", [3, 500, 512], 3_072_000)
    add("two whole chunks", "big", "bfloat16", [2, 524_288], 2 * MIB)
    add("several chunks, transposed", "big", "int16", [1024, 1030], 2_109_440, "transposed")
    return found


def document() -> str:
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors())
    return f'{{"format": "digest-vectors-1", "algorithm": "xxh3-128-tree-1", "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(document(), encoding="utf-8")
