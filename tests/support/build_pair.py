"""Two runs for `memaudit diff` that differ in what a test says and in nothing else: written event by event.

The format comes from tests.support.build_run. Here a script says what happens: sources and streams hold what it puts
into them, and each step, pass and anchor is written when it says so.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.safetensors_file import StoredTensor
from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.beside import beside
from auditor.compare.order_difference import Orders
from auditor.compare.program_text import ProgramTexts
from auditor.compare.side import Side
from auditor.compare.situation import Situation
from auditor.compare.walk import Walk, walk
from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.trace_stream import LastStep
from tests.support.build_run import PROGRAM, Event, RunBuilder, canonical, order_data, shuffled, source, tensor, text

SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
Content = tuple[dict[str, np.ndarray], Any]


@cache
def one_key() -> SigningKey:
    return generate()


def word(name: str) -> str:
    """A digest that stands for a word."""
    return text(hashlib.md5(name.encode(), usedforsecurity=False).digest())


def ids_digest(ids: Iterable[int]) -> str:
    return text(tensor("ids", np.array(list(ids), np.int64)))


def safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {}
    body = b""
    for name, array in sorted(tensors.items()):
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": SAFETENSORS[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def stored(array: np.ndarray, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> StoredTensor:
    """A tensor as an anchor's file gives it; for dtypes that NumPy lacks, its bits and the dtype's name."""
    return StoredTensor(dtype or str(array.dtype), array.shape if shape is None else shape, memoryview(array.tobytes()))


def content(value: Any) -> Content:
    """What a source holds: a number stands for one tensor, a pair for itself, anything else for a nested value."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"w": np.array([value], np.float32)}, None
    if isinstance(value, np.ndarray):
        return {"w": value}, None
    return {}, value


def python_state(generator: random.Random) -> Content:
    """The state of one of Python's generators, as an anchor holds it."""
    version, words, gauss = generator.getstate()
    return {"words": np.array(words, np.int64)}, {"version": version, "gauss": gauss}


class Script(RunBuilder):
    """A run whose events are what ``act`` writes: `put`, `go`, `begin`, `finish`, `anchor`, `outcome`, `cut`.

    ``sources`` maps names to kinds, ``streams`` are names. ``more`` goes over the start event's program (``argv``,
    ``path``), ``numerics``, ``packages`` and ``texts`` over the environment.
    """

    def __init__(
        self,
        root: Path,
        act: Callable[[Script], object],
        *,
        sources: Mapping[str, str] | None = None,
        streams: Iterable[str] = ("torch",),
        argv: Iterable[str] = (),
        numerics: Mapping[str, Any] | None = None,
        packages: Mapping[str, str] | None = None,
        texts: Mapping[str, bytes] | None = None,
        seed: str | None = "0",
        order: str = "ids",
        status: str = "completed",
    ) -> None:
        super().__init__(root, key=one_key(), order=order)
        self.act, self.argv, self.seed, self.status = act, list(argv), seed, status
        self.numerics, self.packages = dict(numerics or {}), dict(packages or {})
        self.texts = dict(texts or PROGRAM)
        self.held: dict[str, Content] = {}
        self.kinds = dict(sources or {"params": "params", "optimizer.momentum_buffer": "optimizer"})
        self.name_streams(streams)
        self.name_sources(self.kinds)
        for name in (*self.kinds, *(f"stream.{each}" for each in streams)):
            self.put(name, 0)

    # Who is in the census.

    def name_sources(self, kinds: Mapping[str, str], **half_lives: float) -> None:
        self.kinds = dict(kinds)
        self.sources = [
            {
                "name": name,
                "kind": kind,
                "lifetime": "the run",
                "half_life": half_lives.get(name),
                "visibility": None,
                "captured": True,
                "reason": None,
            }
            for name, kind in kinds.items()
        ]

    def name_streams(self, names: Iterable[str], seeded_by: str = "the test, 0") -> None:
        self.streams = [
            {"name": name, "seeded_by": seeded_by, "consumers": ["loader"], "warnings": []} for name in names
        ]

    # What happens.

    def put(self, name: str, value: Any) -> None:
        """Let a source or ``stream.NAME`` hold something from here on."""
        self.held[name] = content(value)

    def puts(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.put(name, value)

    def go(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        ids: Iterable[int] | None = None,
        batch: str | None = None,
        loss: Any = 1.0,
        number: int | None = None,
        main: int | None = None,
        position: int | None = None,
        **more: Any,
    ) -> None:
        self.puts(values or {})
        self.step = self.step + 1 if number is None else number
        digests = self.digests()
        members = {
            "step": self.step,
            "pass": main,
            "position": position,
            "ids": None if ids is None else ids_digest(ids),
            "batch": None if batch is None else word(batch),
            "sources": [self.changed(each["name"], digests[each["name"]]) for each in self.sources],
            "streams": [self.stream_now(each["name"]) for each in self.streams],
            **more,
        }
        if loss is not None:
            members["loss"] = loss
        self.append("step", members)

    def begin(
        self, number: int, *, loader: int | None = 1, length: int = 12, workers: Any = None, **policy: Any
    ) -> None:
        """Begin a pass."""
        members = {
            "pass": number,
            "epoch": number - 1,
            "loader": loader,
            "policy": None if loader is None else {**shuffled(length), **policy},
            "base_seed": None,
            "workers": workers,
            "streams": [self.stream_now(each["name"]) for each in self.streams],
        }
        self.append("iter", members)

    def finish(
        self, number: int, ids: Iterable[int] | None, *, batches: int, first: int = 1, loader: int = 1, **policy: Any
    ) -> None:
        """End a pass; its ids go to an order file, or nowhere."""
        array = np.array(list(ids or ()), np.int64)
        file = sha256 = None
        if ids is not None and self.order == "ids":
            file = f"order/pass-{number:06d}.npy"
            sha256 = self.write(file, order_data(array))
        members = {
            "pass": number,
            "epoch": number - 1,
            "loader": loader,
            "first": first,
            "last": self.step,
            "batches": batches,
            "samples": None if ids is None else len(array),
            "complete": True,
            "policy": {**shuffled(max(len(array), 1)), **policy},
            "file": file,
            "sha256": sha256,
            "multiset": None if ids is None else ids_digest(sorted(array.tolist())),
            "windows": None,
        }
        self.append("pass", members)

    def anchor_now(self, at: str = "step", *, keep: bool = True) -> str:
        """Take an anchor of what is held."""
        base = path = f"anchors/step-{self.step:06d}"
        again = 1
        while (self.root / path).exists():
            path, again = f"{base}-{at}" + ("" if again == 1 else f"-{again}"), again + 1
        place = {"step": self.step, "pass": None, "epoch": None, "position": None, "at": at, "enter": None}
        digests = self.digests()
        names = [each["name"] for each in self.sources]
        streams = [each["name"] for each in self.streams]
        self.last.update({name: digests[name] for name in (*names, *(f"stream.{each}" for each in streams))})
        members = {
            **place,
            "path": path,
            "sources": {name: digests[name] for name in names},
            "streams": {name: digests[f"stream.{name}"] for name in streams},
        }
        self.append("anchor", members)
        if keep:
            self.append("stored", {"path": path, "files": self.write_anchor(path, place)})
        return path

    def outcome(self, probe: str = "", values: Mapping[str, Any] | None = None, predictions: str = "p") -> None:
        members = {"step": self.step, "probe": probe, "values": dict(values or {}), "predictions": word(predictions)}
        self.append("outcome", members)

    def cut(
        self, step: int, *, path: str | None = None, abandoned: int = 0, numerics: Mapping[str, Any] | None = None
    ) -> None:
        """Go on after a step, from an anchor or from the program's own checkpoint; ``numerics`` is another class."""
        self.step, self.last = step, {}
        environment = None
        if numerics is not None:
            other = self.environment(texts=self.texts)
            other["numerics"] |= numerics
            sha256 = self.write_environment("environment-2.json", other, self.texts)
            environment = {"file": "environment-2.json", "sha256": sha256}
        members = {"step": step, "pass": None, "position": 0, "from": path}
        self.append("resume", {**members, "abandoned": abandoned, "environment": environment})
        self.census()

    # How it is written.

    def train(self) -> None:
        self.act(self)

    def build(self, *, finish: bool = True) -> Path:
        self.root.mkdir(parents=True)
        self.program = {
            "path": "/home/author/train.py",
            "sha256": hashlib.sha256(self.texts["train.py"]).hexdigest(),
            "argv": self.argv,
        }
        sha256 = self.write_environment("environment.json", self.environment(texts=self.texts), self.texts)
        start = {"format": "trace-1", "digest": "xxh3-128-tree-1", "seed": self.seed, "program": self.program}
        self.append("start", {**start, "order": self.order, "environment": sha256})
        self.seal()
        self.census()
        self.train()
        self.seal()
        if finish:
            end = {"status": self.status, "steps": self.step}
            self.append("end", end if self.status != "failed" else {**end, "error": "ValueError: no"})
        return self.root

    def environment(self, torch: str = "2.13.0", texts: dict[str, bytes] | None = None) -> Event:
        found = super().environment(torch, texts)
        found["numerics"] |= self.numerics
        found["packages"] |= self.packages
        return found

    def kept(self) -> list[str]:
        return sorted(self.texts)

    def digests(self) -> dict[str, str]:
        return {name: text(source(*each)) for name, each in self.held.items()}

    def stream_now(self, name: str) -> str | None:
        return self.changed(f"stream.{name}", self.digests()[f"stream.{name}"])

    def write_anchor(self, path: str, place: Event) -> dict[str, str]:
        tensors = {f"{name}/{leaf}": array for name, (held, _) in self.held.items() for leaf, array in held.items()}
        values = {
            "format": "anchor-1",
            **place,
            "sources": {each["name"]: self.held[each["name"]][1] for each in self.sources},
            "streams": {each["name"]: self.held[f"stream.{each['name']}"][1] for each in self.streams},
            "modes": {},
            "resume": {},
        }
        return {
            "tensors.safetensors": self.write(f"{path}/tensors.safetensors", safetensors(tensors)),
            "values.json": self.write(f"{path}/values.json", canonical(values) + b"\n"),
        }


Act = Callable[[Script], object]


def write_pair(
    folder: Path, a: Act, b: Act, *, both: Mapping[str, Any] | None = None, **only_b: Any
) -> tuple[Path, Path]:
    """Write two runs; ``both`` are options of both, the others of B."""
    common = dict(both or {})
    return (
        Script(folder / "a", a, **common).build(),
        Script(folder / "b", b, **{**common, **only_b}).build(),
    )


def sides(a: Path, b: Path) -> tuple[Side, Side]:
    last_step = LastStep()
    return Side(a, last_step), Side(b, last_step)


def walked(a: Path, b: Path) -> Walk:
    return walk(*sides(a, b))


def situation_of(a: Path, b: Path) -> Situation:
    """What the detectors look at, as `memaudit diff` makes it."""
    one, two = sides(a, b)
    found = walk(one, two)
    anchors = AnchorPairs(one, two)
    return Situation(found, anchors, beside(one, two, anchors), Orders(found), ProgramTexts(one, two))


def told(
    detector: Any, folder: Path, a: Act, b: Act, **options: Any
) -> list[tuple[str, str, str, str | None, int | None]]:
    """What one detector finds: class, confidence, its evidence in one text, source and step."""
    found = detector.find(situation_of(*write_pair(folder, a, b, **options)))
    return [(each.class_, each.confidence, "; ".join(each.evidence), each.source, each.step) for each in found]


def steps(
    number: int = 8,
    *,
    at: int = 0,
    anchors: Iterable[int] = (0,),
    first: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    **extra: float,
) -> Act:
    """A run in which all that is held is the step's number; from step ``at`` on, ``extra`` is added to some of it.

    Names stand with ``__`` for their dots. ``first`` is held before the first step; ``given`` goes into every step from
    ``at`` on (``ids``, ``batch``, ``loss``).
    """
    kept = set(anchors)

    def act(run: Script) -> None:
        names = [*run.kinds, *(f"stream.{each['name']}" for each in run.streams)]
        run.puts(first or {})
        if 0 in kept:
            run.anchor_now("start")
        for step in range(1, number + 1):
            late = at and step >= at
            added = {name.replace("__", "."): value for name, value in extra.items()} if late else {}
            plain = {"ids": [step], "batch": f"b{step}", "loss": 1.0 / step}
            run.go(
                {name: step + added.get(name, 0.0) for name in names}, **(plain | dict((given or {}) if late else {}))
            )
            if step in kept:
                run.anchor_now()

    return act
