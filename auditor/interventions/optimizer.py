"""Interventions on an optimizer's state: ``optimizer`` (all slots) and ``optimizer.<slot>``."""

from __future__ import annotations

import torch

from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.state.optimizer import SlotSource
from auditor.state.source import Source

# Slots that these optimizers fill only when there is something to fill them with; a new optimizer has none.
_ABSENT_WHEN_NEW = {("SGD", "momentum_buffer")}

# Optimizers that fill every slot of a parameter at its first step, with zeros but for _FIRST_VALUE.
_ZEROS_WHEN_NEW = frozenset({"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adadelta"})

_FIRST_VALUE = {("NAdam", "mu_product"): 1.0}


# Slots that count steps, or follow from their number alone (ASGD's eta and mu).
_COUNTERS = frozenset({"step", "mu_product", "eta", "mu"})

# Optimizers whose slots are parts of one thing: a direction, the curvature pairs it came from and their products.
_JOINT = frozenset({"LBFGS"})


class OnSlots(Intervention):
    """An intervention on ``optimizer`` (every slot) or ``optimizer.<slot>``; brackets name one optimizer of several."""

    def targets(self, branch: Branch) -> list[Source]:
        """Return the slots that are there: one, or all of the optimizer's."""
        head, dot, slot = self.source.partition(".")
        found: list[Source] = [
            source
            for source in branch.watched.sources()
            if isinstance(source, SlotSource)
            and head in (source.name.partition(".")[0], source.name.partition("[")[0])
            and (not dot or source.slot == slot)
        ]
        if not found:
            raise NotApplicable(f"the optimizer keeps no {slot or 'state'} at this step")
        return found


class ResetOptimizer(OnSlots):
    """Forget an optimizer's buffers; weights, learning rate, momentum coefficient and schedule go on.

    ``how=clear`` (the default) leaves the state a new optimizer would have: SGD's next momentum buffer is then the
    next gradient, whole; Adam's bias correction starts anew where ``optimizer`` is cleared as a whole.
    ``how=zero`` fills the moments with zeros and keeps counters (``step``): with dampening d the next momentum buffer
    is (1 - d) times the gradient, and Adam's next update is not corrected for bias.

    This is the causal break of "Process-Tensor Tomography of SGD" (arXiv 2601.16563): weights stay, buffers go.
    A reset also makes the next step shorter, so on its own it confounds "no memory" with "a smaller step".
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Clear or zero the slots."""
        slots = [source for source in sources if isinstance(source, SlotSource)]
        if self.arguments["how"] == "zero":
            _zero(slots, counters="." in self.source)
        elif "." in self.source:
            _clear_slots(slots)
        else:
            for source in slots:
                source.watched.optimizer.state.clear()


class ScaleOptimizer(OnSlots):
    """Multiply an optimizer's floating buffers by ``factor``, in place: a dose between carrying (1) and zeroing (0).

    ``optimizer=scale`` takes every floating slot but those that count steps or follow from their number (``step``,
    NAdam's ``mu_product``, ASGD's ``eta`` and ``mu``); a slot that is named is scaled whatever it holds. Weights, rates
    and integers stay. The product is torch's ``Tensor.mul_``, rounded once to the buffer's own type.

    With heavy ball (torch/optim/sgd.py, buffer = momentum * buffer + gradient) the next update is that much longer or
    shorter by the old buffer's part alone. What Adam does next is not linear in ``factor``: scaling both moments by
    one factor changes their quotient by its root (torch/optim/adam.py).
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Multiply the slots' floating tensors, each once."""
        slots = [source for source in sources if isinstance(source, SlotSource)]
        if "." not in self.source:
            kinds = {type(source.watched.optimizer).__name__ for source in slots}
            if kinds & _JOINT:
                raise NotApplicable(f"what scaling every slot of {min(kinds & _JOINT)} means is not known; name one")
            slots = [source for source in slots if source.slot not in _COUNTERS]
        found = {
            id(tensor): tensor
            for source in slots
            for tensor in source.read().tensors.values()
            if tensor.is_floating_point() or tensor.is_complex()
        }
        if not found:
            raise NotApplicable(f"{self.source} holds no floating tensors at this step")
        with torch.no_grad():
            for tensor in found.values():
                tensor.mul_(self.arguments["factor"])


def _zero(slots: list[SlotSource], *, counters: bool) -> None:
    for source in slots:
        if source.slot == "step" and not counters:
            continue
        for tensor in source.read().tensors.values():
            with torch.no_grad():
                tensor.zero_()


def _clear_slots(slots: list[SlotSource]) -> None:
    for source in slots:
        optimizer = source.watched.optimizer
        kind = type(optimizer).__name__
        if (kind, source.slot) not in _ABSENT_WHEN_NEW and kind not in _ZEROS_WHEN_NEW:
            raise NotApplicable(
                f"what a new {kind} starts its {source.slot} with is not known; "
                "use how=zero, or reset the whole optimizer"
            )
    for source in slots:
        optimizer = source.watched.optimizer
        for _, parameter in source.watched.parameters():
            state = optimizer.state.get(parameter)
            if state is None or source.slot not in state:
                continue
            if (type(optimizer).__name__, source.slot) in _ABSENT_WHEN_NEW:
                del state[source.slot]
                continue
            first = _FIRST_VALUE.get((type(optimizer).__name__, source.slot), 0.0)
            if isinstance(state[source.slot], torch.Tensor):
                with torch.no_grad():
                    state[source.slot].fill_(first)
            else:
                state[source.slot] = type(state[source.slot])(first)
