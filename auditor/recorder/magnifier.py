"""Inside a cell: what modules answered, which gradients an optimizer got, and state tensor by tensor, in order.

Two executions that part can so be compared call by call and tensor by tensor (docs/study.md, "Magnified cells").
Nothing is changed: hooks are global ones, which no module holds, and they only read.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.digest import array_digest, digest_text
from auditor.recorder.leaves import UNREAD, nested_digest, of_gradients, of_nested, of_source
from auditor.state.module import LayerHyperSource, RegisteredSource
from auditor.state.optimizer import HyperSource, KeySource, SlotSource, WatchedOptimizer
from auditor.state.places import PlacedSource
from auditor.state.source import Source
from auditor.state.streams import Stream

if TYPE_CHECKING:
    from auditor.recorder.passes import Pass
    from auditor.recorder.session import Session

FILE = "magnified.jsonl"
FORMAT = "magnified-1"


class _Call(NamedTuple):
    """A call of a module in progress."""

    module: nn.Module
    path: str
    number: int


class Magnifier:
    """Writes ``magnified.jsonl`` for one session, from :meth:`begin` to :meth:`end`.

    What happens in another thread than the one that closes the step is left out: its place in the order is chance.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self._file = path.open("xb")
        self._session = session
        self._handles: list[Any] = []
        self._names: dict[int, str] = {}
        self._sources: list[Source] = []
        self._streams: list[Stream] = []
        self._lines: list[tuple[int, dict[str, Any]]] = []
        """The lines of the step in progress, each with its thread."""
        self._calls: dict[int, list[_Call]] = {}
        """The calls in progress by thread, the innermost last."""
        self._count: Counter[tuple[int, str]] = Counter()
        """Calls begun in this step, by thread and path."""
        self._written: dict[str, str | None] = {}
        self._has_state: set[int] = set()
        """The threads in which the state at the step's first call was taken."""

    # What the session calls.

    def begin(self) -> None:
        """Write the state as it is now, and look on from here."""
        self._look()
        self._write({"event": "start", "format": FORMAT, "step": self._session.clock.step})
        self._write(self._state("entry", None, self._sources))
        # torch.compile warns of global hooks that fire twice; these know a compiled module from the one inside it.
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
        self._handles = [
            register_module_forward_pre_hook(self._before_call),
            register_module_forward_hook(self._after_call, with_kwargs=True),
            register_optimizer_step_pre_hook(self._before_update),
            register_optimizer_step_post_hook(self._after_update),
        ]

    @property
    def is_looking(self) -> bool:
        """Whether it has begun and not ended."""
        return bool(self._handles)

    def batch(self, ids: list[int] | None, content: Any, of: Pass | None) -> None:
        """Note one batch: sample ids (None: unknown) and what it holds, tensor by tensor."""
        self._add(
            {
                "event": "batch",
                "step": self._step,
                "pass": None if of is None else of.number,
                "position": None if of is None else of.position,
                "ids": None if ids is None else digest_text(array_digest("ids", np.asarray(ids, dtype=np.int64))),
                **(UNREAD if content is None else of_nested(content)).members(),
            }
        )

    def close(self) -> None:
        """Write what was seen of the step that was closed last, and the state after it."""
        thread = threading.get_ident()
        for where, line in self._lines:
            if where == thread:
                self._write(line)
        self._lines.clear()
        self._calls.clear()
        self._count.clear()
        self._has_state.clear()
        self._look()
        self._write(self._state("end", None, self._sources, step=self._session.clock.step))

    def end(self) -> None:
        """Look no longer; ending twice is allowed."""
        if self._file.closed:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        compiled = sorted(name for name, module in self._session.modules().items() if _is_compiled(module))
        self._write({"event": "end", "step": self._session.clock.step, "compiled": compiled})
        self._file.close()

    # What torch calls. Inside a graph that is being compiled each is nothing, and leaves nothing in the graph.

    def _before_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _is_traced():
            return
        path = self._names.get(id(module))
        if path is None:
            return
        thread = threading.get_ident()
        running = self._calls.setdefault(thread, [])
        # An evaluation in the loop makes many calls without gradients; the state is taken before its first one only.
        if not running and (torch.is_grad_enabled() or thread not in self._has_state):
            self._has_state.add(thread)
            self._add(self._state("before call", path, filter(_is_steady, self._sources)))
        self._count[thread, path] += 1
        number = self._count[thread, path]
        self._add(
            {
                "event": "call",
                "step": self._step,
                "module": path,
                "call": number,
                "inside": [running[-1].path, running[-1].number] if running else None,
                "inputs": nested_digest(args),
            }
        )
        running.append(_Call(module, path, number))

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if _is_traced():
            return
        running = self._calls.get(threading.get_ident(), [])
        if all(call.module is not module for call in running):
            return
        call = running.pop()
        while call.module is not module:  # a call that raised an exception never came back
            call = running.pop()
        # Keyword arguments are shown to a global hook only now.
        self._add(
            {
                "event": "answer",
                "step": self._step,
                "module": call.path,
                "call": call.number,
                "keywords": nested_digest(kwargs) if kwargs else None,
                "outputs": nested_digest(output),
            }
        )

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _is_traced():
            return
        name = self._keyword(optimizer)
        named = WatchedOptimizer(optimizer, self._session.watched.parameter_names()).parameters()
        self._add({"event": "gradients", "step": self._step, "of": name, **of_gradients(named).members()})
        self._add(self._state("before update", name, filter(_is_steady, self._sources)))

    def _after_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _is_traced():
            return
        self._add(self._state("after update", self._keyword(optimizer), filter(_is_steady, self._sources)))

    # Lines.

    @property
    def _step(self) -> int:
        """The step in progress."""
        return self._session.clock.step + 1

    def _look(self) -> None:
        """Take sources, streams and names as they are between two steps.

        Inside a step sources are not looked for: what stands in a module only while it runs is no memory.
        """
        self._sources = [source for source in self._session.sources() if source.captured]
        self._streams = self._session.streams()
        self._names = {
            id(layer): f"{keyword}.{path}" if path else keyword
            for keyword, module in self._session.modules().items()
            for path, layer in module.named_modules()
        }

    def _keyword(self, optimizer: torch.optim.Optimizer) -> str | None:
        return next((name for name, thing in self._session.watched.objects.items() if thing is optimizer), None)

    def _state(
        self, moment: str, of: str | None, sources: Iterable[Source], *, step: int | None = None
    ) -> dict[str, Any]:
        """Return the line of the state at a moment; tensors of a source that has not changed are left out."""
        entries = []
        for source in sources:
            read = of_source(source, self._written.get(source.name))
            self._written[source.name] = read.digest
            entries.append({"name": source.name, **read.members()})
        return {
            "event": "state",
            "step": self._step if step is None else step,
            "moment": moment,
            "of": of,
            "sources": entries,
            "streams": [[stream.name, digest_text(stream.digest())] for stream in self._streams],
        }

    def _add(self, line: dict[str, Any]) -> None:
        self._lines.append((threading.get_ident(), line))

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(canonical_bytes(line) + b"\n")


def _is_traced() -> bool:
    """Say whether a graph is being made of what runs: nothing may be read from tensors then, and nothing added."""
    # First, alone: torch.compile knows its answer, and leaves the rest out of its graph.
    if torch.compiler.is_compiling():
        return True
    cuda: Any = torch.cuda
    return torch._C._get_tracing_state() is not None or (cuda.is_initialized() and cuda.is_current_stream_capturing())


def _is_steady(source: Source) -> bool:
    """Say whether a source can be read in the middle of a step: tensors and numbers at fixed places.

    Reading the others asks the program's own ``state_dict``, or notes for good what cannot be read at the moment.
    """
    if isinstance(source, PlacedSource):
        return not source.places
    return isinstance(source, RegisteredSource | SlotSource | KeySource | HyperSource | LayerHyperSource)


def _is_compiled(module: nn.Module) -> bool:
    """Say whether torch.compile runs a module or a part of it: what is inside is then called by nobody."""
    return any(
        getattr(layer, "_compiled_call_impl", None) is not None or "dynamo_ctx" in vars(layer)
        for layer in module.modules()
    )
