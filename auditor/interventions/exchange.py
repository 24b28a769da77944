"""Interventions that put another cell's optimizer buffers in the place of the arm's own: ``swap`` and ``common``."""

from __future__ import annotations

from auditor.interventions.intervention import Branch, NotApplicable
from auditor.interventions.optimizer import OnSlots
from auditor.state.source import Source


class TakenBuffer(OnSlots):
    """Take the buffers that another cell held after the same step; weights, rates, order and streams stay.

    A reset also makes the next step shorter, so alone it confounds "no memory" with "a smaller step": buffers of the
    same kind of size that belong to another history keep the size and lose the memory (controls of "Process-Tensor
    Tomography of SGD", arXiv 2601.16563). The receipt says how much they differ; where they are equal, nothing was
    applied.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Put the given buffers in the slots' place."""
        given = branch.given(self)
        lacking = [source.name for source in sources if source.name not in given]
        if lacking:
            raise NotApplicable(f"the cell that gives its buffers has no {lacking[0]} at this step")
        for source in sources:
            own, new = source.read().tensors, given[source.name].tensors
            if own.keys() != new.keys() or any(own[path].shape != new[path].shape for path in own):
                raise NotApplicable(f"the buffers of {source.name} that are given belong to other parameters")
        for source in sources:
            source.restore(given[source.name])


class SwapBuffer(TakenBuffer):
    """Take the buffers of the next unit's control, the last unit those of the first: each goes to exactly one unit.

    Units that forked from one anchor hold equal buffers there, so a swap is one of buffers only some steps later
    (``after=5``); at the fork itself it is "not applied".
    """


class CommonBuffer(TakenBuffer):
    """Take the buffers of this unit's own control, so that both branches go on with the same ones.

    It is for arms that part earlier, such as ``order=reverse,window=+1-+5+optimizer=common,after=5``: what the two
    phases left in the buffers is made equal, and what they left in the weights stays.
    """
