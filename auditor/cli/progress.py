"""How a study goes, on stderr: a live table on a terminal, else a line now and then. Estimates are never shown."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from auditor.findings.formats.text import count, escape
from auditor.replay.cells import Cell

MAX_ROWS = 20
"""Arms with a row of their own; the others share one."""

_AROUND = 6
"""Lines of the live view beside the arms' rows: heading, the shared row, the summary, and room for the prompt."""


@dataclass
class _Row:
    """One arm's cells."""

    total: int = 0
    done: int = 0
    running: set[str] = field(default_factory=set)

    def add(self, other: _Row) -> None:
        self.total += other.total
        self.done += other.done
        self.running |= other.running


class LiveProgress:
    """Tells a study's progress (an :class:`auditor.replay.progress.Observer`); use it as a context manager.

    Parameters
    ----------
    stream
        Where to; stderr if None.
    live
        Whether the table is redrawn in place; None for: on a terminal that can (TERM is not ``dumb``).
    clock
        Seconds, from any start.
    """

    def __init__(
        self, stream: IO[str] | None = None, *, live: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        target = sys.stderr if stream is None else stream
        self._live_wanted = target.isatty() and os.environ.get("TERM") != "dumb" if live is None else live
        self._own = _own_copy(target)
        # No markup, no emoji, no highlighting anywhere: names are the submitter's.
        self._console = Console(file=self._own or target, markup=False, emoji=False, highlight=False)
        self._live: Live | None = None
        self._clock = clock
        self._began = clock()
        self._rows: dict[str, _Row] = {}
        self._finished_here = 0
        self._told = 0
        # The live view is drawn from a thread of its own.
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop; the last state of the table stays where it is. A second call does nothing."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        if self._own is not None:
            self._own.close()
            self._own = None

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        """Begin with what there is to do."""
        finished = {cell.hash for cell in done}
        with self._lock:
            self._began = self._clock()
            for cell in {cell.hash: cell for cell in cells}.values():
                row = self._rows.setdefault(cell.arm, _Row())
                row.total += 1
                row.done += cell.hash in finished
            self._told = self._tenths()
        if self._live_wanted and self._live is None:
            self._live = Live(
                get_renderable=self._view, console=self._console, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start(refresh=True)

    def started(self, cell: Cell) -> None:
        """Count a cell among those that run."""
        with self._lock:
            self._row(cell).running.add(cell.hash)

    def finished(self, cell: Cell) -> None:
        """Count a finished cell."""
        with self._lock:
            self._row(cell).running.discard(cell.hash)
            self._row(cell).done += 1
            self._finished_here += 1
            all_ = self._all()
            tenths = self._tenths()
            due = tenths > self._told or all_.done == all_.total
            self._told = tenths
        if due and not self._live_wanted:
            self._tell(f"cells {all_.done}/{all_.total}  {cell.title}")

    def retried(self, cell: Cell, reason: str) -> None:
        """Tell that a cell begins again."""
        with self._lock:
            self._row(cell).running.discard(cell.hash)
        self._tell(f"again: {cell.title}: {reason}")

    def failed(self, cell: Cell, reason: str) -> None:
        """Tell that a cell failed."""
        with self._lock:
            self._row(cell).running.discard(cell.hash)
        self._tell(f"failed: {cell.title}: {reason}")

    def _row(self, cell: Cell) -> _Row:
        return self._rows.setdefault(cell.arm, _Row())

    def _all(self) -> _Row:
        total = _Row()
        for row in self._rows.values():
            total.add(row)
        return total

    def _tenths(self) -> int:
        total = self._all()
        return total.done * 10 // max(total.total, 1)

    def _tell(self, line: str) -> None:
        self._console.print(Text(escape(line)), soft_wrap=True)

    def _view(self) -> Group:
        """The table of arms and the line below it."""
        with self._lock:
            return Group(self._table(), Text(self._summary(), no_wrap=True, overflow="ellipsis"))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("arm", no_wrap=True, overflow="ellipsis", ratio=None)
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("running", justify="right", no_wrap=True)
        names = list(self._rows)
        most = max(1, min(MAX_ROWS, self._console.height - _AROUND))
        shown = names if len(names) <= most else names[:most]
        for name in shown:
            _add(table, escape(name), self._rows[name])
        rest = _Row()
        for name in names[len(shown) :]:
            rest.add(self._rows[name])
        if rest.total:
            _add(table, f"and {count(len(names) - len(shown), 'more arm')}", rest)
        return table

    def _summary(self) -> str:
        all_ = self._all()
        seconds = self._clock() - self._began
        parts = [f"{all_.done}/{count(all_.total, 'cell')}"]
        rate = self._finished_here / seconds if seconds > 0 else 0.0
        if rate:
            parts.append(f"{60 * rate:.3g} a minute")
        parts.append(f"{_clock_time(seconds)} so far")
        if rate and all_.done < all_.total:
            parts.append(f"about {_clock_time((all_.total - all_.done) / rate)} to go")
        return " · ".join(parts)


def _add(table: Table, name: str, row: _Row) -> None:
    # Text, not str: rich would read markup in a submitter's names.
    running = str(len(row.running)) if row.running else ""
    table.add_row(Text(name), Text(f"{row.done}/{row.total}"), Text(running))


def _clock_time(seconds: float) -> str:
    """Return ``0:07``, ``12:30`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _own_copy(stream: IO[str]) -> IO[str] | None:
    """Return the same place under a descriptor of its own: cells in this process turn descriptor 2 to their logs."""
    try:
        stream.flush()
        return os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", errors="replace")
    except (AttributeError, io.UnsupportedOperation, OSError, ValueError):
        return None  # not a file: a notebook's, or a test's
