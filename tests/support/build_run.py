"""A run directory written from docs/run-directory.md alone: NumPy, hashlib and json, nothing of the recorder.

It is what the readers are tested on, and an independent implementation of the format: digests, chain and safetensors
are computed here anew. Only the signatures come from the package.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.manifest import RUN, write_manifest
from auditor.evidence.seal import seal_fields

Event = dict[str, Any]
SAMPLES, BATCH, PASSES = 12, 4, 2
SOURCES = ("params", "optimizer.momentum_buffer")
PROGRAM = {"train.py": b"train", "parts/model.py": b"model", "parts/__init__.py": b""}
LATER = {**PROGRAM, "parts/model.py": b"another model"}
"""The program's text, before a cut and after it."""


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


def order_data(ids: np.ndarray) -> bytes:
    """An order file: NumPy 1.0, one dimension, <u4."""
    header = f"{{'descr': '<u4', 'fortran_order': False, 'shape': ({len(ids)},), }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + ids.astype("<u4").tobytes()


def windows(ids: list[int], lengths: list[int]) -> Event:
    """The multisets of a pass's windows: w batches each, w the smallest power of two >= 16 that gives 64 at most."""
    size = 16
    while -(-len(lengths) // size) > 64:
        size *= 2
    digests, at = [], 0
    for first in range(0, len(lengths), size):
        count = sum(lengths[first : first + size])
        digests.append(text(tensor("ids", np.sort(np.array(ids[at : at + count], np.int64)))))
        at += count
    return {"batches": size, "multisets": digests}


@dataclass
class OpenPass:
    """A pass in progress."""

    number: int
    loader: int
    epoch: int | None
    first: int
    ids: list[int]
    """In the order in which they come."""
    position: int = 0
    used: int = 0
    """How many ids were consumed."""
    lengths: list[int] = field(default_factory=list)
    resumed: int | None = None
    """The position from which it went on after a cut."""
    before: int = 0
    """How many ids were consumed before that."""


def shuffled(length: int) -> dict[str, Any]:
    return {
        "sampler": "RandomSampler",
        "kind": "shuffled",
        "replacement": False,
        "drop_last": False,
        "batch_size": BATCH,
        "length": length,
    }


class RunBuilder:
    """Makes one small run: two passes over twelve samples in batches of four, anchors at passes' starts and the end.

    ``edit`` is called with each event before it is written and may change it, to make a run that lies consistently.
    A subclass may train otherwise: ``train`` is made of ``begin_pass``, ``consume``, ``take_step``, ``end_pass``,
    ``anchor`` and, after a cut, ``resume``.
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
        self.begun = 0
        self.open: dict[int, OpenPass] = {}
        self.consumed: dict[int, list[int]] = {}
        self.weight = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.momentum = np.zeros((2, 3), dtype=np.float32)
        self.last: dict[str, str] = {}
        self.random = np.random.default_rng(0)
        self.positions: dict[int, int] = {}
        self.snapshots: dict[str, Any] = {}
        kind = {"kind": "params", "lifetime": "the run", "half_life": None, "visibility": "in the weights"}
        kind |= {"captured": True, "reason": None}
        self.sources: list[Event] = [{"name": "params", **kind}, {"name": SOURCES[1], **kind, "half_life": 6.5}]
        self.streams: list[Event] = [
            {"name": "torch", "seeded_by": "the test, 0", "consumers": ["loader"], "warnings": []}
        ]

    def build(self, *, finish: bool = True) -> Path:
        """Write the run and return its directory; without ``finish`` it stays unfinished after the last seal."""
        self.root.mkdir(parents=True)
        self.program = {"path": "train.py", "sha256": hashlib.sha256(b"train").hexdigest(), "argv": ["--epochs", "2"]}
        sha256 = self.write_environment("environment.json", self.environment())
        start = {"format": "trace-1", "digest": "xxh3-128-tree-1", "seed": "0", "program": self.program}
        self.append("start", {**start, "order": self.order, "environment": sha256})
        self.seal()
        self.census()
        self.train()
        self.seal()
        if finish:
            self.append("end", {"status": "completed", "steps": self.step})
            self.sign()
        return self.root

    def train(self) -> None:
        """Two passes, an anchor before each, and one at the end."""
        for number in range(1, PASSES + 1):
            self.anchor("start" if number == 1 else "pass", number)
            self.walk(number)
        self.anchor("end", PASSES)

    def environment(self, torch: str = "2.13.0", texts: dict[str, bytes] | None = None) -> Event:
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in (texts or PROGRAM).items()}
        program = {**self.program, "sha256": hashes.pop("train.py"), "modules": hashes, "kept": self.kept()}
        return {
            "format": "environment-1",
            "numerics": {"torch": torch, "threads": 1},
            "python": {"version": "3.11.9"},
            "packages": {"numpy": "2.0.0"},
            "git": {"commit": "0" * 40, "dirty": False, "diff_sha256": hashlib.sha256(b"").hexdigest()},
            "hardware": {"machine": "x86_64"},
            "program": {**program, "module": None, "cwd": "/home/author"},
            "flags": {},
        }

    def kept(self) -> list[str]:
        """The files of the program whose text lies in the run."""
        return ["parts/__init__.py", "parts/model.py", "train.py"]

    def write_environment(self, name: str, content: Event, texts: dict[str, bytes] | None = None) -> str:
        """Write an environment file and the text of the program it describes; return the file's SHA-256."""
        folder = name.replace("environment", "source").removesuffix(".json")
        for path in self.kept():
            self.write(f"{folder}/{path}", (texts or PROGRAM)[path])
        return self.write(name, canonical(content) + b"\n")

    def sign(self) -> None:
        predicate = {
            "format": "run-1",
            "status": "completed",
            "trace": {"head": self.head, "lines": len(self.lines)},
            "steps": self.step,
            "contract": {"streams": self.streams},
            "census": self.sources,
            "numerics": self.environment()["numerics"],
            "program": self.program,
            "seed": "0",
            "started": "2026-01-01T00:00:00Z",
            "finished": "2026-01-01T00:00:01Z",
            "seconds": 1.0,
        }
        write_manifest(self.root, RUN, predicate, self.key)

    # Passes and steps.

    def walk(self, number: int) -> None:
        self.begin_pass()
        for _ in range(0, SAMPLES, BATCH):
            self.consume(number)
            self.take_step(number)
        self.end_pass(number)

    def begin_pass(self, *, loader: int = 1, samples: int = SAMPLES) -> int:
        self.begun += 1
        ids = [int(sample) for sample in self.random.permutation(samples)]
        self.open[self.begun] = OpenPass(self.begun, loader, self.begun - 1, self.step + 1, ids)
        members = {
            "pass": self.begun,
            "epoch": self.begun - 1,
            "loader": loader,
            "policy": shuffled(samples),
            "base_seed": "-5",
            "workers": None,
            "streams": [self.changed("stream.torch", self.digests()["stream.torch"])],
        }
        self.append("iter", members)
        return self.begun

    def consume(self, number: int, size: int = BATCH) -> None:
        each = self.open[number]
        batch = each.ids[each.used : each.used + size]
        each.used += len(batch)
        each.position += 1
        each.lengths.append(len(batch))
        self.consumed.setdefault(number, []).extend(batch)
        self.positions[number] = each.position

    def take_step(self, main: int | None, **more: Any) -> None:
        self.step += 1
        ids = np.array([i for number in sorted(self.consumed) for i in self.consumed[number]], np.int64)
        self.momentum = self.momentum * np.float32(0.9) + np.float32(ids.sum())
        self.weight = self.weight - np.float32(0.01) * self.momentum
        digests = self.digests()
        positions = self.positions
        members = {
            "step": self.step,
            "pass": main,
            "position": positions.get(main, self.open[main].position if main in self.open else 0),
            "ids": text(tensor("ids", ids)) if self.consumed else None,
            "batch": None,
            "sources": [self.changed(name, digests[name]) for name in SOURCES],
            "streams": [self.changed("stream.torch", digests["stream.torch"])],
            "loss": 1.0 / self.step,
            **more,
        }
        also = [[number, position] for number, position in sorted(positions.items()) if number != main]
        if also:
            members["also"] = also
        self.consumed, self.positions = {}, {}
        self.append("step", members)
        if self.order == "ids":
            for each in self.open.values():
                self.write(f"order/pass-{each.number:06d}.part", np.array(each.ids[: each.used], "<u8").tobytes())

    def end_pass(self, number: int, *, complete: bool = True, policy: Event | None = None) -> None:
        each = self.open.pop(number)
        ids = np.array(each.ids[: each.used], np.int64)
        file = sha256 = None
        if self.order == "ids":
            part = self.root / f"order/pass-{number:06d}.part"
            part.unlink(missing_ok=True)
            file, again = f"order/pass-{number:06d}.npy", 1
            while (self.root / file).exists():
                again += 1
                file = f"order/pass-{number:06d}-{again}.npy"
            sha256 = self.write(file, order_data(ids))
        members = {
            "pass": number,
            "epoch": each.epoch,
            "loader": each.loader,
            "first": each.first,
            "last": self.step,
            "batches": each.position,
            "samples": len(ids),
            "complete": complete,
            "policy": {**shuffled(len(each.ids)), **(policy or {})},
            "file": file,
            "sha256": sha256,
            "multiset": text(tensor("ids", np.sort(ids))),
            "windows": windows(ids.tolist(), each.lengths),
        }
        if each.resumed is not None:
            before, after = ids[: each.before], ids[each.before :]
            length = members["policy"]["length"]
            members["resumed"] = {
                "position": each.resumed,
                "repeated": int(np.isin(after, before).sum()),
                "skipped": length - len(np.unique(ids)) if complete else None,
            }
        self.append("pass", members)

    # Anchors and cuts.

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

    def census(self) -> None:
        self.append("census", {"sources": self.sources, "streams": self.streams})

    def anchor(self, at: str, number: int, *, store: bool = True) -> str:
        path = base = f"anchors/step-{self.step:06d}"
        again = 1
        while (self.root / path).exists():
            path = f"{base}-{at}" + ("" if again == 1 else f"-{again}")
            again += 1
        position = self.open[number].position if number in self.open else 0
        place = {"step": self.step, "pass": number, "epoch": number - 1, "position": position, "at": at}
        place["enter"] = "epochs"
        digests = self.digests()
        self.last.update(digests)
        sources = {name: digests[name] for name in SOURCES}
        streams = {"torch": digests["stream.torch"]}
        self.append("anchor", {**place, "path": path, "sources": sources, "streams": streams})
        kept = ("step", "begun", "open", "weight", "momentum", "random")
        self.snapshots[path] = copy.deepcopy({name: getattr(self, name) for name in kept})
        if store:
            self.append("stored", {"path": path, "files": self.write_anchor(path, place)})
        return path

    def write_anchor(self, path: str, place: Event) -> dict[str, str]:
        """Write an anchor's files and return their SHA-256 by name."""
        state = self.state()
        tensors = {f"{name}/{leaf}": array for name, (held, _) in state.items() for leaf, array in held.items()}
        tensors["resume/passes.0.ids"] = np.arange(3, dtype=np.int64)
        values = {
            "format": "anchor-1",
            **place,
            "sources": {name: state[name][1] for name in SOURCES},
            "streams": {"torch": None},
            "modes": {"model": []},
            "resume": {"passes": [{"ids": {"$": "tensor", "path": "passes.0.ids"}}]},
        }
        return {
            "tensors.safetensors": self.write(f"{path}/tensors.safetensors", safetensors(tensors)),
            "values.json": self.write(f"{path}/values.json", canonical(values) + b"\n"),
        }

    def drop(self, path: str) -> None:
        """Remove an anchor's files, as retention does."""
        self.append("dropped", {"path": path})
        for file in (self.root / path).iterdir():
            file.unlink()
        (self.root / path).rmdir()

    def resume(self, path: str, *, abandoned: int | None = None, torch: str | None = None) -> None:
        """Go on from an anchor after a cut, in a process that knows only the anchor."""
        done = self.step
        vars(self).update(copy.deepcopy(self.snapshots[path]))
        self.last, self.consumed, self.positions = {}, {}, {}
        for part in self.root.glob("order/*.part"):
            part.unlink()
        place = next(e for e in map(json.loads, reversed(self.lines)) if e["event"] == "anchor" and e["path"] == path)
        environment = None
        if torch is not None:
            sha256 = self.write_environment("environment-2.json", self.environment(torch, LATER), LATER)
            environment = {"file": "environment-2.json", "sha256": sha256}
        members = {"step": self.step, "pass": place["pass"], "position": place["position"], "from": path}
        members["abandoned"] = done - self.step if abandoned is None else abandoned
        self.append("resume", {**members, "environment": environment})
        for each in self.open.values():
            each.resumed, each.before = each.position, each.used
        self.census()

    def seal(self) -> None:
        self.append("seal", seal_fields(self.head, len(self.lines), self.key))

    def append(self, name: str, members: dict[str, Any]) -> None:
        event = {**members, "event": name, "seq": len(self.lines), "prev": self.head}
        self.edit(event)
        line = canonical(event) + b"\n"
        self.head = hashlib.sha256(line).hexdigest()
        self.lines.append(line)
        with (self.root / "trace.jsonl").open("ab") as file:
            file.write(line)

    def write(self, path: str, data: bytes) -> str:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return hashlib.sha256(data).hexdigest()
