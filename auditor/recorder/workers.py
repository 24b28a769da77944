"""Loader workers: their streams travel with each batch, and a restored loader's workers begin with them.

A worker draws ahead of what training consumes, so its streams can only be known batch by batch: what counts is their
state after the last *consumed* batch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from auditor.state.source import Reading
from auditor.state.streams import NumpyStream, PythonStream, Stream, TorchStream

State = dict[str, Any]
"""One worker's streams, ready for a :class:`Reading`: arrays by ``STREAM.PATH``, the rest under ``values``."""

_ALWAYS_COMPARED = 16
"""A data set's attributes are compared after each of the first batches, then after every 2nd, 4th, 8th, …"""


class Carried:
    """A batch with what its worker says of itself; unwrapped before the program sees it."""

    __slots__ = ("batch", "changed", "state", "worker")

    def __init__(self, batch: Any, worker: int, state: State | None, changed: tuple[str, ...]) -> None:
        self.batch = batch
        self.worker = worker
        self.state = state
        """None: as after the worker's batch before this one."""
        self.changed = changed
        """Attributes of the data set that changed inside the worker."""

    def pin_memory(self, device: str | None = None) -> Carried:
        """Pin the batch: the loader's pinning thread asks objects it does not know."""
        self.batch = pin_memory(self.batch, device)  # type: ignore[no-untyped-call]
        return self


class Carry:
    """Stands in for a loader's ``collate_fn`` inside its workers: collates, then reads the worker's streams."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate
        self._last: tuple[Any, ...] | None = None
        self._before: dict[str, object] | None = None
        self._batches = 0

    def __call__(self, samples: Any) -> Any:
        """Return the collated batch, wrapped; outside a worker, as the program's own function returns it."""
        batch = self.collate(samples)
        info = get_worker_info()
        if info is None:
            return batch
        raw = (random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state())
        same = self._last is not None and _equal(raw, self._last)
        self._last = raw
        self._batches += 1
        return Carried(batch, info.id, None if same else _read(), self._changed(info.dataset))

    def _changed(self, dataset: Any) -> tuple[str, ...]:
        number = self._batches
        if number > _ALWAYS_COMPARED and number & (number - 1):
            return ()
        now = _marks(dataset)
        before, self._before = self._before, now
        if before is None:
            return ()
        return tuple(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))


class Begin:
    """Stands in for a loader's ``worker_init_fn``: runs it, then puts the worker's streams where they were."""

    def __init__(self, own: Callable[[int], None] | None, states: Mapping[int, State]) -> None:
        self.own = own
        self.states = dict(states)

    def __call__(self, worker: int) -> None:
        """Begin worker number ``worker``."""
        if self.own is not None:
            self.own(worker)
        if worker in self.states:
            for stream, reading in _split(self.states[worker]):
                stream.restore(reading)


class WorkerTable:
    """What is known of one loader's workers in the main process."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}
        """Each worker's streams after its last consumed batch; a worker that gave none is missing."""
        self.changed: set[str] = set()
        """Attributes of the data set that changed inside workers: state that no anchor holds."""
        self.born: dict[str, Reading] | None = None
        """The main process's streams before the workers were started."""

    def take(self, worker: int, reading: Reading) -> None:
        """Know a worker's streams from what :class:`WorkerStream` read."""
        if reading.tensors:
            arrays = {name: tensor.numpy() for name, tensor in reading.tensors.items()}
            self.states[worker] = {"arrays": arrays, "values": reading.values}
        else:
            self.states.pop(worker, None)

    def note(self, carried: Carried) -> Any:
        """Take what a batch carried; return the batch itself."""
        if carried.state is not None:
            self.states[carried.worker] = carried.state
        self.changed.update(carried.changed)
        return carried.batch


class CarryingIterator(_MultiProcessingDataLoaderIter):
    """torch's iterator over workers, which notes what batches carry when they are consumed.

    ``skip`` batches are taken as consumed already: the next one comes from the worker whose turn it is then.
    """

    def __init__(self, loader: DataLoader[Any], table: WorkerTable, skip: int = 0) -> None:
        self.table = table
        self._skip = skip
        super().__init__(loader)

    def _try_put_index(self) -> None:
        if self._skip:
            turns, self._skip = self._skip % self._num_workers, 0
            for _ in itertools.repeat(None, turns):
                next(self._worker_queue_idx_cycle)
        super()._try_put_index()

    def _get_data(self) -> Any:
        index, data = super()._get_data()  # type: ignore[no-untyped-call]
        if isinstance(data, Carried) and index not in self._task_info:
            # Left over from a pass that was not walked to its end: never consumed, and yet the worker has drawn for it.
            self.table.note(data)
        return index, data

    def _process_data(self, data: Any, worker: int) -> Any:
        data = super()._process_data(data, worker)  # type: ignore[no-untyped-call]
        return self.table.note(data) if isinstance(data, Carried) else data


class WorkerStream(Stream):
    """One worker's Python, NumPy and torch streams, as they were after the last batch of its that was consumed."""

    own = False

    def __init__(self, name: str, table: WorkerTable, worker: int) -> None:
        self.name = name
        self.table = table
        self.worker = worker
        self._digest: tuple[State, bytes] | None = None

    def read(self) -> Reading:
        """Return the last known state; empty while the worker has given no batch."""
        state = self.table.states.get(self.worker)
        if state is None:
            return Reading({})
        return Reading({name: torch.from_numpy(array) for name, array in state["arrays"].items()}, state["values"])

    def restore(self, reading: Reading) -> None:
        """Take a state as known; workers that are started afterwards begin with it."""
        self.table.take(self.worker, reading)

    def seed(self, value: int) -> None:
        """Do nothing: workers are seeded from the loader's base seed, which is drawn anew when they start."""

    def digest(self) -> bytes:
        """Return the digest; recomputed where the worker reported another state."""
        state = self.table.states.get(self.worker)
        if state is None:
            return super().digest()
        if self._digest is None or self._digest[0] is not state:
            self._digest = (state, super().digest())
        return self._digest[1]


def _streams() -> tuple[Stream, ...]:
    return (PythonStream(), NumpyStream(), TorchStream())


def _read() -> State:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values: dict[str, Any] = {}
    for stream in _streams():
        reading = stream.read()
        values[stream.name] = reading.values
        arrays.update({f"{stream.name}.{path}": tensor.numpy() for path, tensor in reading.tensors.items()})
    return {"arrays": arrays, "values": values}


def _split(state: State) -> list[tuple[Stream, Reading]]:
    found = []
    for stream in _streams():
        prefix = f"{stream.name}."
        tensors = {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in state["arrays"].items()
            if name.startswith(prefix)
        }
        found.append((stream, Reading(tensors, state["values"][stream.name])))
    return found


def _equal(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    (python, numpy, torch_), (other_python, other_numpy, other_torch) = one, two
    keys = numpy["state"], other_numpy["state"]
    return (
        python == other_python
        and keys[0]["pos"] == keys[1]["pos"]
        and bool(np.array_equal(keys[0]["key"], keys[1]["key"]))
        and numpy["gauss"] == other_numpy["gauss"]
        and bool(torch.equal(torch_, other_torch))
    )


def _marks(dataset: Any) -> dict[str, object]:
    """Return something cheap for each attribute of a data set that changes when the attribute does, if it is simple."""
    marks: dict[str, object] = {}
    for name, value in getattr(dataset, "__dict__", {}).items():
        if value is None or isinstance(value, bool | int | float | str):
            marks[name] = value
        elif isinstance(value, torch.Tensor):
            marks[name] = (id(value), value._version)
        elif isinstance(value, torch.Generator):
            marks[name] = value.get_state().numpy().tobytes()
        elif isinstance(value, np.random.Generator):
            marks[name] = repr(value.bit_generator.state)
        elif isinstance(value, np.random.RandomState):
            marks[name] = repr(value.get_state())
        elif isinstance(value, random.Random):
            marks[name] = value.getstate()
        elif isinstance(value, list | dict | set) or type(value).__name__ == "deque":
            marks[name] = len(value)
    return marks


def encode_readings(readings: Mapping[str, Reading]) -> dict[str, Any]:
    """Return readings as plain nested values with tensors in them."""
    return {name: {"tensors": dict(reading.tensors), "values": reading.values} for name, reading in readings.items()}


def decode_readings(value: Mapping[str, Any]) -> dict[str, Reading]:
    """Undo :func:`encode_readings`."""
    return {name: Reading(item["tensors"], item["values"]) for name, item in value.items()}
