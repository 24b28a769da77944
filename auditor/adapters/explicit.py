"""The explicit loop: ``auditor.record`` and the lines a training adds to itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.outcomes.probe import Probe, UserOutcome
from auditor.recorder.cell import CellFinished
from auditor.recorder.keyed import set_pass
from auditor.recorder.recording import Recording
from auditor.recorder.session import Session
from auditor.recorder.settings import CELL, CELL_RUN, Settings, is_off
from auditor.recorder.trunk import replayed
from auditor.state.streams import seed_everything


def record(
    out: str | os.PathLike[str],
    *,
    seed: int | None = None,
    anchor_every: int | None = None,
    leaves_every: int | None = None,
    order: str = "ids",
    key: str | os.PathLike[str] | None = None,
    keep_anchors: int | None = None,
    resume: bool | str = False,
    sources: bool = True,
) -> Run:
    """Record one training into the run directory ``out``; use it as ``with auditor.record(…) as run:``.

    Parameters
    ----------
    out
        The directory to make. Under ``memaudit record --out`` the command's directory takes its place.
    seed
        Seeds Python, NumPy, torch and every device when the block is entered; the command's ``--seed`` takes
        its place.
        None leaves every stream alone.
    anchor_every
        Steps between anchors inside a pass, beside those at passes' starts.
    leaves_every
        Steps between per-tensor digests in the trace; they always stand at anchors.
    order
        ``"ids"`` keeps the sample ids of each pass, ``"hash"`` only their hashes.
    key
        A private key file to sign with; the default is a key of your own, made when first needed.
    keep_anchors
        How many anchors stay on the disk, the newest ones; all if None.
    resume
        True goes on with an unfinished run in ``out``, from its last anchor, bit for bit; where there is none, a new
        run begins. ``"program"`` leaves state to the program, which says ``run.resumed(step)``.
    sources
        False keeps the text of the program and of the modules beside it out of the run; their hashes stay.

    Raises
    ------
    MemauditError
        If the directory is not empty or an argument makes no sense.
    """
    return Run(
        Settings.resolve(
            out,
            seed=seed,
            anchor_every=anchor_every,
            leaves_every=leaves_every,
            order=order,
            key=key,
            keep_anchors=keep_anchors,
            resume=resume,
            sources=sources,
        )
    )


class Run:
    """A training under observation. With ``MEMAUDIT=off`` every call does nothing but the seeding."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._entered = False
        self._passes = 0

    def __enter__(self) -> Self:
        if self._entered:
            raise MemauditError("a run can be entered once", next_step="call auditor.record(…) again")
        self._entered = True
        if self._settings.seed is not None:
            seed_everything(self._settings.seed)
        if not is_off():
            cell = os.environ.get(CELL)
            if cell is None:
                self._session = Recording(self._settings)
            else:
                self._session = replayed(self._settings, Path(cell), Path(os.environ[CELL_RUN]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None and not isinstance(value, CellFinished):
            self._session.finish(value)

    def watch(self, **objects: Any) -> None:
        """Watch modules, optimizers, schedulers, scalers, teachers, queues, generators; the keyword names them.

        Raises
        ------
        MemauditError
            If nothing can be captured of an object, or part of its state cannot be written without pickle.
        """
        if self._session is not None:
            self._session.watch(objects)

    def probe(self, model: nn.Module, inputs: Any, *, targets: torch.Tensor | None = None, name: str = "probe") -> None:
        """Compare functions on these inputs: recorded at passes' starts, measured at every horizon of a replay.

        ``inputs`` is a tensor ``[samples, …]``, a tuple of arguments or a dict of keyword arguments; ``targets``
        are integer classes ``[samples]`` for NLL and accuracy. Choose samples that are not trained on.
        """
        if self._session is not None:
            self._session.add_probe(Probe(name, model, inputs, targets))

    def outcome(self, name: str, function: Callable[[], float]) -> None:
        """Add a scalar of your own to the outcomes; ``function`` is called without gradients, streams preserved."""
        if self._session is not None:
            self._session.add_outcome(UserOutcome(name, function))

    def epochs(self, count: int) -> Iterator[int]:
        """Yield 0 … count - 1; in a replay, from the anchor's epoch on."""
        session = self._session
        if session is None:
            yield from range(count)
            return
        try:
            for epoch in range(session.first_epoch(count), count):
                session.enter_epoch(epoch)
                yield epoch
        finally:
            session.enter_epoch(None)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the loader's batches, noting which samples were consumed.

        Passes may lie inside one another (an evaluation in the training loop) or beside one another (``zip``).
        """
        session = self._session
        self._passes += 1
        if session is None:
            set_pass(loader, self._passes)
            yield from loader
            return
        current = session.begin_pass(loader)
        complete = False
        try:
            while True:
                try:
                    batch = session.draw(current)
                except StopIteration:
                    complete = True
                    break
                yield batch
                session.boundary(current)
        finally:
            session.end_pass(current, complete=complete)

    def steps(self, count: int) -> Iterator[int]:
        """Yield 0 … count - 1 for a loop without a loader; in a replay, from the anchor's iteration on."""
        session = self._session
        if session is None:
            yield from range(count)
            return
        try:
            for index in range(session.begin_loop(count), count):
                session.clock.iteration = index
                session.boundary()
                yield index
            session.clock.iteration = count
            session.boundary()
        finally:
            session.end_loop()

    def batch(self, *, ids: Iterable[int] | None = None, content: Any = None) -> None:
        """Say what a loop without a loader consumed: sample ids, the batch itself, or both."""
        if self._session is not None:
            self._session.consume(None if ids is None else [int(sample) for sample in ids], content)

    def step(self, *, loss: Any = None) -> None:
        """Close one optimizer step; call it last in the loop's body, after averages and schedulers."""
        if self._session is not None:
            self._session.step(loss)

    def resumed(self, step: int) -> None:
        """Say, before the loop, that the program came back to its own checkpoint of ``step``.

        For recordings with ``resume="program"`` that go on after a cut. The trace then says which samples of the pass
        in progress were consumed twice, and which never.

        Raises
        ------
        MemauditError
            If there is no such recording to go on with, or that step was not recorded.
        """
        if isinstance(self._session, Recording):
            self._session.resumed(step)
