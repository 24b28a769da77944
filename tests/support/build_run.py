"""A run directory written from docs/run-directory.md alone: NumPy, hashlib and json, nothing of the recorder.

It is what the readers are tested on, and an independent implementation of the format: digests, chain and safetensors
are computed here anew. Only the signatures come from the package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.manifest import RUN, write_manifest
from auditor.evidence.seal import seal_fields

Event = dict[str, Any]
SAMPLES, BATCH, PASSES = 12, 4, 2


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def tensor(name: str, array: np.ndarray) -> bytes:
    data = array.tobytes()
    chunks = [xxhash.xxh3_128_digest(data[i : i + 2**20]) for i in range(0, len(data), 2**20)]
    head = canonical([name, str(array.dtype), list(array.shape)]) + b"\0"
    return xxhash.xxh3_128_digest(head + b"".join(chunks))


def source(tensors: dict[str, np.ndarray], values: Any) -> bytes:
    data = b"".join(tensor(path, tensors[path]) for path in sorted(tensors))
    return xxhash.xxh3_128_digest(data + (b"" if values is None else canonical(values)))


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    kinds = {"float32": "F32", "int64": "I64"}
    for name, array in sorted(tensors.items()):
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": kinds[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + body


class RunBuilder:
    """Makes one small run: two passes over twelve samples in batches of four, anchors at passes' starts and the end.

    ``edit`` is called with each event before it is written and may change it, to make a run that lies consistently.
    """

    def __init__(
        self,
        root: Path,
        *,
        key: SigningKey | None = None,
        order: str = "ids",
        edit: Callable[[Event], None] | None = None,
    ) -> None:
        self.root = root
        self.key = key or generate()
        self.order = order
        self.edit = edit or (lambda _: None)
        self.head = "0" * 64
        self.lines: list[bytes] = []
        self.step = 0
        self.weight = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.momentum = np.zeros((2, 3), dtype=np.float32)
        self.last: dict[str, str] = {}
        self.random = np.random.default_rng(0)

    def build(self, *, finish: bool = True) -> Path:
        """Write the run and return its directory; without ``finish`` it stays unfinished after the last seal."""
        self.root.mkdir(parents=True)
        program = {"path": "train.py", "sha256": hashlib.sha256(b"train").hexdigest(), "argv": ["--epochs", "2"]}
        environment = {
            "format": "environment-1",
            "numerics": {"torch": "2.13.0", "threads": 1},
            "python": {"version": "3.11.9"},
            "packages": {"numpy": "2.0.0"},
            "git": {"commit": "0" * 40, "dirty": False, "diff_sha256": hashlib.sha256(b"").hexdigest()},
            "hardware": {"machine": "x86_64"},
            "program": {**program, "module": None, "modules": {}, "cwd": "/home/author"},
            "flags": {},
        }
        sha256 = self.write("environment.json", canonical(environment) + b"\n")
        start = {"format": "trace-1", "digest": "xxh3-128-tree-1", "seed": "0", "program": program, "order": self.order}
        self.append("start", {**start, "environment": sha256})
        kind = {"kind": "params", "lifetime": "the run", "half_life": None, "visibility": "in the weights"}
        sources = [{"name": "params", **kind}, {"name": "optimizer.momentum_buffer", **kind, "half_life": 6.5}]
        streams = [{"name": "torch", "seeded_by": "the test, 0", "consumers": ["loader"], "warnings": []}]
        self.append("census", {"sources": sources, "streams": streams})
        for number in range(1, PASSES + 1):
            self.anchor("start" if number == 1 else "pass", number)
            self.walk(number)
        self.anchor("end", PASSES)
        self.seal()
        if finish:
            self.append("end", {"status": "completed", "steps": self.step})
        (self.root / "trace.jsonl").write_bytes(b"".join(self.lines))
        if finish:
            predicate = {
                "format": "run-1",
                "status": "completed",
                "trace": {"head": self.head, "lines": len(self.lines)},
                "steps": self.step,
                "contract": {"streams": streams},
                "census": sources,
                "numerics": environment["numerics"],
                "program": program,
                "seed": "0",
                "started": "2026-01-01T00:00:00Z",
                "finished": "2026-01-01T00:00:01Z",
                "seconds": 1.0,
            }
            write_manifest(self.root, RUN, predicate, self.key)
        return self.root

    def walk(self, number: int) -> None:
        first = self.step + 1
        ids = self.random.permutation(SAMPLES)
        for position, begin in enumerate(range(0, SAMPLES, BATCH), start=1):
            self.step += 1
            batch = ids[begin : begin + BATCH].astype(np.int64)
            self.momentum = self.momentum * np.float32(0.9) + np.float32(batch.sum())
            self.weight = self.weight - np.float32(0.01) * self.momentum
            digests = self.digests()
            members = {
                "step": self.step,
                "pass": number,
                "position": position,
                "ids": text(tensor("ids", batch)),
                "batch": None,
                "sources": [self.changed(name, digests[name]) for name in ("params", "optimizer.momentum_buffer")],
                "streams": [self.changed("stream.torch", digests["stream.torch"])],
                "loss": 1.0 / self.step,
            }
            self.append("step", members)
        file = sha256 = None
        if self.order == "ids":
            file = f"order/pass-{number:06d}.npy"
            header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': ({SAMPLES},), }}".encode()
            header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
            data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + ids.astype("<u4").tobytes()
            sha256 = self.write(file, data)
        policy = {
            "sampler": "RandomSampler",
            "kind": "shuffled",
            "replacement": False,
            "drop_last": False,
            "batch_size": BATCH,
            "length": SAMPLES,
        }
        members = {
            "pass": number,
            "epoch": number - 1,
            "first": first,
            "last": self.step,
            "batches": SAMPLES // BATCH,
            "samples": SAMPLES,
            "complete": True,
            "policy": policy,
            "file": file,
            "sha256": sha256,
            "multiset": text(tensor("ids", np.sort(ids).astype(np.int64))),
        }
        self.append("pass", members)

    def state(self) -> dict[str, tuple[dict[str, np.ndarray], Any]]:
        return {
            "params": ({"layer.weight": self.weight}, None),
            "optimizer.momentum_buffer": ({"layer.weight": self.momentum}, {"initialised": True}),
            "stream.torch": ({"state": np.arange(4, dtype=np.int64) + self.step}, None),
        }

    def digests(self) -> dict[str, str]:
        return {name: text(source(*content)) for name, content in self.state().items()}

    def changed(self, name: str, digest: str) -> str | None:
        before, self.last[name] = self.last.get(name), digest
        return None if before == digest else digest

    def anchor(self, at: str, number: int) -> None:
        path = f"anchors/step-{self.step:06d}"
        place = {"step": self.step, "pass": number, "epoch": number - 1, "position": 0, "at": at, "enter": "epochs"}
        state, digests = self.state(), self.digests()
        tensors = {f"{name}/{leaf}": array for name, (held, _) in state.items() for leaf, array in held.items()}
        values = {
            "format": "anchor-1",
            **place,
            "sources": {name: state[name][1] for name in ("params", "optimizer.momentum_buffer")},
            "streams": {"torch": None},
            "modes": {"model": []},
            "loader": None,
        }
        files = {
            "tensors.safetensors": self.write(f"{path}/tensors.safetensors", safetensors(tensors)),
            "values.json": self.write(f"{path}/values.json", canonical(values) + b"\n"),
        }
        sources = {name: digests[name] for name in ("params", "optimizer.momentum_buffer")}
        streams = {"torch": digests["stream.torch"]}
        self.append("anchor", {**place, "path": path, "files": files, "sources": sources, "streams": streams})

    def seal(self) -> None:
        self.append("seal", seal_fields(self.head, len(self.lines), self.key))

    def append(self, name: str, members: dict[str, Any]) -> None:
        event = {**members, "event": name, "seq": len(self.lines), "prev": self.head}
        self.edit(event)
        line = canonical(event) + b"\n"
        self.head = hashlib.sha256(line).hexdigest()
        self.lines.append(line)

    def write(self, path: str, data: bytes) -> str:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return hashlib.sha256(data).hexdigest()
