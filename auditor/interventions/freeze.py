"""Holding averaged weights, teachers and BatchNorm statistics still."""

from __future__ import annotations

from typing import Any

from torch import nn

from auditor.interventions.hold import Hold
from auditor.interventions.intervention import Branch, Lasting
from auditor.interventions.student import callers
from auditor.state.module import BatchNormSource
from auditor.state.source import Source


class Freeze(Lasting):
    """Hold averaged weights, a teacher or BatchNorm statistics as they are: every tensor, counter and attribute.

    The whole source is put back bit for bit, in place, as it was where the intervention began: after each step, before
    each optimizer's update, and before each call of the module that it stands in. What the program computes from it in
    another way between an update and the step's end sees the updated one. In training mode BatchNorm normalises by the
    batch's own statistics all the same. Weights, optimizer and everything else go on. "Freeze" among the interventions
    on EMA, BN and teachers of "Training Memory in Deep Neural Networks" (arXiv 2601.21624).
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._hold: Hold | None = None

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Keep a copy of each source."""
        users: list[nn.Module] = []
        for source in sources:
            users += [source.module] if isinstance(source, BatchNormSource) else callers(source)
        self._hold = Hold(sources, users)

    def after_step(self, branch: Branch) -> bool:
        """Put the copies back; return whether anything had changed."""
        return self._hold is not None and self._hold.after_step()
