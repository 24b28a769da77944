"""Coming back to an anchor in a freshly built program: the one way in for replay and for resumed recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from auditor.errors import MemauditError
from auditor.recorder.keyed import set_pass
from auditor.recorder.order import Arrange, Walk
from auditor.recorder.passes import Consumed, Pass
from auditor.state.anchor import Anchor
from auditor.state.restore import restore_sources, restore_streams
from auditor.state.source import Reading
from auditor.state.streams import Stream

if TYPE_CHECKING:
    from auditor.recorder.session import Session


class WaitingStream(Stream):
    """A stream that the anchor holds and the program has not shown yet: it stands as it stood."""

    own = False

    def __init__(self, name: str, reading: Reading) -> None:
        self.name = name
        self._reading = reading
        self._digest = reading.digest()

    def read(self) -> Reading:
        """Return the anchor's state."""
        return self._reading

    def restore(self, reading: Reading) -> None:
        """Do nothing: nobody can have drawn from it."""

    def seed(self, value: int) -> None:
        """Do nothing: there is nothing to seed yet."""

    def digest(self) -> bytes:
        """Return the digest of the anchor's state."""
        return self._digest


class Entry:
    """Restores a session's program to an anchor, when the program's loops have come there.

    State, streams and counters come back at once, where the anchor's pass begins anew or its loop is entered; the
    passes that were in progress are built anew when the program begins each of them.
    """

    def __init__(self, session: Session, anchor: Anchor, path: str) -> None:
        self.session = session
        self.anchor = anchor
        self.path = path
        self.place: dict[str, Any] = {
            name: anchor.values[name] for name in ("step", "pass", "epoch", "position", "at", "enter")
        }
        self.resume: dict[str, Any] = anchor.resume
        self.restored = False
        self.absent: dict[str, Stream] = {}
        """Streams of the anchor that the program has not shown yet."""
        self._waiting = [Pass.from_values(values) for values in self.resume["passes"]]
        session.loaders.take(self.resume["loaders"], anchor.streams)

    @property
    def complete(self) -> bool:
        """Whether every pass that was in progress goes on again."""
        return self.restored and not self._waiting

    @property
    def is_here(self) -> bool:
        """Whether the program's loops are where the anchor was taken: in its epoch, or outside of ``run.epochs``."""
        clock = self.session.clock
        return (clock.epoch, clock.epoch_loop) == (self.place["epoch"], self.resume["epoch_loop"])

    def enter_epochs(self, loop: int, count: int) -> int:
        """Return with which epoch loop number ``loop`` over ``run.epochs(count)`` goes on."""
        if self.restored:
            return 0
        if loop < self.resume["epoch_loop"] or self.place["epoch"] is None:
            return count if loop <= self.resume["epoch_loop"] else 0
        return int(self.place["epoch"])

    def enter_loop(self, loop: int, count: int) -> int:
        """Return with which iteration loop number ``loop`` over ``run.steps(count)`` goes on."""
        if self.restored:
            return 0
        if not self.is_here or loop <= self.resume["loops"] or self.resume["iteration"] is None:
            return count  # it was over before the anchor was taken
        self.restore()
        return int(self.resume["iteration"])

    def give_up(self) -> list[Pass]:
        """Return the passes in progress that the program did not come back to in their epoch; they are over."""
        given_up, self._waiting = self._waiting, []
        for each in given_up:
            each.resumed_at = each.position
        return given_up

    def claim(self, loader: Any, number: int | None) -> Pass | None:
        """Return the pass in progress that goes on in this walk, built anew; None if the walk begins a new pass.

        Raises
        ------
        MemauditError
            If the program walks a loader on its way to the anchor, where the recorded one was past it.
        """
        if not self.restored:
            if self.place["at"] == "step" and all(waiting.loader != number for waiting in self._waiting):
                raise MemauditError(
                    "the program walks a loader where the recorded one did not",
                    where=self.path,
                    next_step="replay the program and arguments that were recorded",
                )
            self.restore()
        for waiting in self._waiting:
            if waiting.loader == number:
                self._waiting.remove(waiting)
                return self._rebuild(waiting, loader)
        return None

    def build(self, loader: Any, number: int | None, before_first_draw: Any, arrange: Arrange | None) -> Walk:
        """Begin a new pass; where the anchor's process had workers that live on, with those workers."""
        session = self.session
        self.settle()
        table = session.table_of(number)
        if number is None or table.born is None or getattr(loader, "_iterator", None) is not None:
            return Walk(loader, table, before_first_draw=before_first_draw, arrange=arrange)
        now = session.read_streams()

        def back() -> None:
            session.set_streams(now)
            before_first_draw()

        # The workers were started in an earlier pass: their seeds follow from the streams as they were then.
        session.set_streams(table.born)
        return Walk(loader, table, before_first_draw=back, arrange=arrange)

    def restore(self) -> None:
        """Put every source, stream, counter and gradient back."""
        session, anchor = self.session, self.anchor
        restore_sources(anchor, session.watched)
        absent = restore_streams(anchor, session.streams())
        self.absent = {name: WaitingStream(name, anchor.streams[name]) for name in absent}
        clock = session.clock
        clock.step = self.place["step"]
        clock.passes = self.resume["begun"]
        clock.closed = self.resume["closed"]
        session.consumed = Consumed.from_values(self.resume["consumed"])
        put_gradients(session, self.resume["gradients"])
        self.restored = True

    def settle(self) -> None:
        """Put back the streams of the anchor that have come into sight: a generator that a loader brought."""
        if self.absent:
            for stream in self.session.main_streams():
                if self.absent.pop(stream.name, None) is not None:
                    stream.restore(self.anchor.streams[stream.name])

    def forget(self) -> None:
        """Let go of what the anchor says of streams: they were re-keyed."""
        self.absent.clear()

    def _rebuild(self, waiting: Pass, loader: Any) -> Pass:
        """Walk the loader to where it was, and leave every stream as it is now."""
        session = self.session
        self.settle()
        set_pass(loader, waiting.number)
        table = session.table_of(waiting.loader)
        if waiting.workers is not None:
            # Batches are fetched and dropped: the workers begin as they did in this pass, and come here by themselves.
            table.states = dict(waiting.workers)
        now = session.read_streams()
        session.set_streams(table.born if table.born is not None else waiting.moments["before_iter"])
        waiting.walk = Walk(
            loader,
            table,
            skip=waiting.position,
            before_first_draw=lambda: session.set_streams(waiting.moments["before_draw"]),
        )
        waiting.walk.fast_forward()
        session.set_streams(now)
        waiting.resumed_at = waiting.position
        return waiting


def gradients(session: Session) -> dict[str, torch.Tensor]:
    """Return the gradients that stand beside the parameters; they are part of the next step if not cleared."""
    return {
        name: parameter.grad
        for name, parameter in _parameters(session).items()
        if parameter.grad is not None and parameter.grad.layout is torch.strided
    }


def has_odd_gradients(session: Session) -> bool:
    """Say whether a gradient is sparse: no anchor holds it."""
    found = (parameter.grad for parameter in _parameters(session).values())
    return any(grad is not None and grad.layout is not torch.strided for grad in found)


def put_gradients(session: Session, stored: dict[str, torch.Tensor]) -> None:
    """Undo :func:`gradients`."""
    for name, parameter in _parameters(session).items():
        if name not in stored:
            parameter.grad = None
        elif parameter.grad is not None and parameter.grad.shape == stored[name].shape:
            with torch.no_grad():
                parameter.grad.copy_(stored[name])
        else:
            parameter.grad = torch.empty_like(parameter).copy_(stored[name]).detach()


def _parameters(session: Session) -> dict[str, torch.Tensor]:
    """Return every parameter of watched modules, and those that only a watched optimizer knows."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for keyword, module in session.modules().items():
        for name, parameter in module.named_parameters():
            found[f"{keyword}.{name}"] = parameter
            seen.add(id(parameter))
    for keyword, thing in session.watched.objects.items():
        if isinstance(thing, torch.optim.Optimizer):
            for index, group in enumerate(thing.param_groups):
                for place, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen:
                        seen.add(id(parameter))
                        found[f"{keyword}.group{index}.{place}"] = parameter
    return found
