"""Passes in progress, the loaders they walk, and what was consumed since the last step."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from auditor.artifact.digest import array_digest, digest_text
from auditor.recorder.order import Walk, forget_workers, policy_of
from auditor.recorder.workers import (
    State,
    WorkerStream,
    WorkerTable,
    decode_readings,
    encode_readings,
)
from auditor.state.source import Reading

Readings = dict[str, Reading]


@dataclass
class Pass:
    """One traversal of a loader, begun and not ended."""

    number: int
    """From 1, in the order in which passes begin."""
    epoch: int | None
    loader: int | None
    """The loader's number; None for an iterable that is no DataLoader."""
    first: int
    """The first step that closes after its begin."""
    moments: dict[str, Readings] = field(default_factory=dict)
    """The streams ``before_iter`` and ``before_draw``: what the order in progress came from."""
    position: int = 0
    """Batches consumed."""
    workers: dict[int, State] | None = None
    """Where batches have no ids: the streams of the loader's workers at the pass's begin."""
    resumed_at: int | None = None
    """The position from which a resumed recording went on in it."""
    walk: Walk | None = None
    bare: Iterator[Any] | None = None
    """The loader's own iterator, where nothing is noted of the walk."""

    def values(self) -> dict[str, Any]:
        """Return the pass as an anchor holds it."""
        return {
            "number": self.number,
            "epoch": self.epoch,
            "loader": self.loader,
            "first": self.first,
            "position": self.position,
            "moments": {moment: encode_readings(readings) for moment, readings in self.moments.items()},
            "workers": None if self.workers is None else [[worker, state] for worker, state in self.workers.items()],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Pass:
        """Undo :meth:`values`."""
        moments = {moment: decode_readings(readings) for moment, readings in values["moments"].items()}
        held = values["workers"]
        workers = None if held is None else dict(held)
        numbers = (values["number"], values["epoch"], values["loader"], values["first"])
        return cls(*numbers, moments, values["position"], workers)


@dataclass(frozen=True)
class Continued:
    """A pass that a program goes on with by itself, after a cut."""

    number: int
    position: int
    first: int
    length: int | None
    """Samples in the data set that it walked; tells its loader from another."""
    ids: list[int] | None
    """What was consumed in it before the cut, in order; None where that is not known."""


class Loaders:
    """The loaders walked so far, by number: 1, 2, … in the order of their first walk."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[DataLoader[Any]]] = {}
        self._prints: dict[int, dict[str, Any]] = {}
        self.tables: dict[int, WorkerTable] = {}
        """What is known of each loader's workers."""

    def number_of(self, loader: Any) -> int | None:
        """Return a loader's number, a new one where it has none; None if it is no DataLoader."""
        if not isinstance(loader, DataLoader):
            return None
        for number, reference in self._known.items():
            if reference() is loader:
                return number
        seen = _fingerprint(loader)
        alive = self.alive()
        alike = [n for n, values in self._prints.items() if n not in alive and values == seen]
        # The loader that an anchor knows and this process has not met yet; or one that took the place of another, as
        # in programs that build their loader anew for each pass.
        number = alike[0] if alike else max(self._prints, default=0) + 1
        if number in self._known or number not in self.tables:
            self.tables[number] = WorkerTable()
        self._known[number] = weakref.ref(loader)
        self._prints[number] = seen
        return number

    def alive(self) -> dict[int, DataLoader[Any]]:
        """Return the loaders that the program still holds, by number."""
        found = {number: reference() for number, reference in sorted(self._known.items())}
        return {number: loader for number, loader in found.items() if loader is not None}

    def worker_streams(self) -> list[WorkerStream]:
        """Return one stream a worker of every loader."""
        return [
            WorkerStream(_worker_stream(number, worker), self.tables[number], worker)
            for number, seen in sorted(self._prints.items())
            for worker in range(seen["workers"])
        ]

    def forget_workers(self, but: Any = None) -> None:
        """Have every loader but one start new workers at its next walk."""
        for number, loader in self.alive().items():
            if loader is not but:
                forget_workers(loader, self.tables[number])
        for number in self._prints.keys() - self._known.keys():
            self.tables[number] = WorkerTable()

    def values(self) -> list[dict[str, Any]]:
        """Return the loaders as an anchor holds them (their workers' streams stand among its streams)."""
        return [
            {"number": number, "fingerprint": seen, "born": None if born is None else encode_readings(born)}
            for number, seen in sorted(self._prints.items())
            for born in [self.tables[number].born if seen["persistent"] else None]
        ]

    def take(self, values: list[dict[str, Any]], streams: Mapping[str, Reading]) -> None:
        """Know what an anchor knows, before any of the loaders is met."""
        for item in values:
            number, table = item["number"], WorkerTable()
            self._prints[number] = item["fingerprint"]
            self.tables[number] = table
            table.born = None if item["born"] is None else decode_readings(item["born"])
            for worker in range(item["fingerprint"]["workers"]):
                if _worker_stream(number, worker) in streams:
                    table.take(worker, streams[_worker_stream(number, worker)])


def _worker_stream(number: int, worker: int) -> str:
    return f"loader{f'[{number}]' if number > 1 else ''}.worker{worker}"


def _fingerprint(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return what tells one loader of a program from another, in every process that builds the same."""
    return {
        **policy_of(loader),
        "dataset": type(loader.dataset).__qualname__,
        "workers": loader.num_workers,
        "persistent": loader.persistent_workers,
    }


@dataclass
class Consumed:
    """What was consumed since the last step closed."""

    ids: dict[int, list[int]] = field(default_factory=dict)
    """Sample ids by pass; 0 for batches that the program drew by hand."""
    ids_known: bool = True
    contents: list[bytes | None] = field(default_factory=list)
    """One content digest a batch, in the order consumed; None where the content has none."""
    positions: dict[int, int] = field(default_factory=dict)
    """The position reached in each pass that gave a batch."""

    def add(self, of: Pass | None, ids: list[int] | None, content: bytes | None) -> None:
        """Note one batch."""
        if ids is None:
            self.ids_known = False
        else:
            self.ids.setdefault(of.number if of is not None else 0, []).extend(ids)
        if of is not None:
            self.positions[of.number] = of.position
        self.contents.append(content)

    @property
    def samples(self) -> int | None:
        """How many samples these are, where it is known."""
        return sum(map(len, self.ids.values())) if self.ids_known else None

    def members(self, main: int | None) -> dict[str, Any]:
        """Return the step event's ``ids``, ``batch`` and, where other passes than ``main`` gave batches, ``also``.

        Ids are digested pass by pass, in the order of the passes' numbers; those drawn by hand come last.
        """
        ids = None
        if self.ids_known and self.contents:
            order = [*sorted(number for number in self.ids if number), *([0] if 0 in self.ids else [])]
            joined = np.asarray([sample for number in order for sample in self.ids[number]], dtype=np.int64)
            ids = digest_text(array_digest("ids", joined))
        members: dict[str, Any] = {"ids": ids, "batch": self._batch()}
        if ids is not None and 0 in self.ids:
            members["by_hand"] = len(self.ids[0])
        also = [[number, position] for number, position in sorted(self.positions.items()) if number != main]
        if also:
            members["also"] = also
        return members

    def _batch(self) -> str | None:
        contents = [content for content in self.contents if content is not None]
        if not contents or len(contents) != len(self.contents):
            return None
        if len(contents) == 1:
            return digest_text(contents[0])
        return digest_text(array_digest("batches", np.frombuffer(b"".join(contents), dtype=np.uint8)))

    def values(self) -> dict[str, Any]:
        """Return what an anchor holds of it."""
        return {
            "ids": [[number, torch.tensor(ids, dtype=torch.int64)] for number, ids in self.ids.items()],
            "ids_known": self.ids_known,
            "contents": list(self.contents),
            "positions": [[number, position] for number, position in self.positions.items()],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Consumed:
        """Undo :meth:`values`."""
        return cls(
            {number: ids.tolist() for number, ids in values["ids"]},
            values["ids_known"],
            list(values["contents"]),
            dict(values["positions"]),
        )
