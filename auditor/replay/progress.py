"""What a study tells while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from auditor.replay.cells import Cell


class Observer(Protocol):
    """Told what happens to cells, always from the thread that runs the study. Estimates are never told."""

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        """Hear of all cells of the study, and of those that had finished before; told once, first."""

    def started(self, cell: Cell) -> None:
        """Hear that a cell has begun to run, for the first time or again."""

    def finished(self, cell: Cell) -> None:
        """Hear that a cell is done and kept."""

    def retried(self, cell: Cell, reason: str) -> None:
        """Hear that a cell's process was killed, why, and that it is to be begun again."""

    def failed(self, cell: Cell, reason: str) -> None:
        """Hear that a cell has failed for good, and why."""


class Silent:
    """An observer that tells nobody."""

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        """Keep silent."""

    def started(self, cell: Cell) -> None:
        """Keep silent."""

    def finished(self, cell: Cell) -> None:
        """Keep silent."""

    def retried(self, cell: Cell, reason: str) -> None:
        """Keep silent."""

    def failed(self, cell: Cell, reason: str) -> None:
        """Keep silent."""
