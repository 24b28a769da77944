"""Interventions on clocks that go on by themselves: ``scheduler`` (rates) and ``scaler`` (the loss scale)."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from auditor.interventions.hold import Hold
from auditor.interventions.intervention import Branch, Intervention, Lasting, NotApplicable
from auditor.state.optimizer import HyperSource
from auditor.state.source import Source
from auditor.state.stateful import StatefulSource

_CLOCKS = "torch.optim.lr_scheduler"
"""Where the step() of a schedule stands that is known to set nothing but rates."""


class ResetSchedule(Intervention):
    """Start a learning-rate schedule over: its clock and the rates it sets stand as the program built them.

    The rates are ``lr`` and, where the schedule cycles it, ``momentum`` or ``betas``; the receipt counts them in. From
    here on the schedule gives the rates of its first steps again. A ReduceLROnPlateau forgets its best value and its
    waiting, and the rates are those from before any reduction; chained and sequential ones start over with all that is
    in them. Weights and buffers are carried, so the momentum of a late, slow phase meets an early phase's rate.

    The meaning is that of a scheduler constructed at the start (torch/optim/lr_scheduler.py, ``LRScheduler.__init__``);
    the values are read in the program itself, before the anchor is put into it.
    """

    def targets(self, branch: Branch) -> list[Source]:
        """Return the schedules and the hyper-parameters they set."""
        return with_rates(super().targets(branch), branch)

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Put back what the program built."""
        _as_built(sources, branch)


class HoldSchedule(Lasting):
    """Stop a learning-rate schedule: its clock and the rates it sets stay as they are at the fork.

    Whatever the schedule does afterwards is put back after each step and before each update, so every update uses the
    rates of the fork. Rates are ``lr`` and, where the schedule cycles it, ``momentum`` or ``betas``
    (torch/optim/lr_scheduler.py, CyclicLR and OneCycleLR). Everything else is carried.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._hold: Hold | None = None

    def targets(self, branch: Branch) -> list[Source]:
        """Return the schedules and the hyper-parameters they set."""
        return with_rates(super().targets(branch), branch)

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Remember how they stand."""
        # Rates first: a schedule's own load_state_dict() may look at them.
        self._hold = Hold(_rates_first(sources))

    def after_step(self, branch: Branch) -> bool:
        """Put them back."""
        return self._hold is not None and self._hold.after_step()


class ResetScaler(Intervention):
    """Give a loss scaler the scale, the count and the factors that the program built it with.

    Gradients are divided by the scale before the update (torch/amp/grad_scaler.py, ``unscale_``), so the next update
    differs only by rounding, or where it is skipped for an overflow. Everything else is carried. The values are read in
    the program itself, before the anchor is put into it: a GradScaler forgets its first scale when a state is loaded.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Put back what the program built."""
        _refuse_disabled(sources)
        _as_built(sources, branch)


class HoldScaler(Lasting):
    """Keep a loss scaler's scale and count as they are at the fork: it neither grows nor backs off.

    Put back after each step, before each update and before each call of a watched module (an iteration's scaling comes
    after that). Updates whose gradients overflow are still skipped (torch/amp/grad_scaler.py, ``_maybe_opt_step``);
    everything else is carried.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._hold: Hold | None = None

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Remember how they stand."""
        _refuse_disabled(sources)
        self._hold = Hold(sources, users=branch.watched.modules().values())

    def after_step(self, branch: Branch) -> bool:
        """Put them back."""
        return self._hold is not None and self._hold.after_step()


def with_rates(schedules: list[Source], branch: Branch) -> list[Source]:
    """Return schedules with those inside them that are watched too, and the hyper-parameters that they set.

    Raises
    ------
    NotApplicable
        If what one of them sets is not known, or is not its alone.
    """
    meant = [each for source in schedules for each in _inside(_schedule(source))]
    optimizers = [each.optimizer for each in meant]
    names = {name for each in meant for name in _rate_names(each)}
    found = list(schedules)
    rates: list[Source] = []
    for source in branch.watched.sources():
        if isinstance(source, HyperSource) and source.key in names:
            if any(source.watched.optimizer.param_groups is each.param_groups for each in optimizers):
                rates.append(source)
        elif source.kind == "scheduler" and all(source is not each for each in schedules):
            other = getattr(source, "owner", None)
            if any(other is each for each in meant):
                found.append(source)
            elif any(getattr(other, "optimizer", None) is each for each in optimizers):
                raise NotApplicable(f"{source.name} sets the rates of the same optimizer; name both: scheduler=…")
    unwatched = [each for each in optimizers if all(each is not thing for thing in branch.watched.objects.values())]
    if unwatched:
        raise NotApplicable("the optimizer whose rates it sets is not watched")
    return [*found, *rates]


def _schedule(source: Source) -> LRScheduler:
    schedule = getattr(source, "owner", None)
    if not isinstance(source, StatefulSource) or not isinstance(schedule, LRScheduler):
        raise NotApplicable(f"which rates {source.name} sets is not known: it is none of torch's schedulers")
    return schedule


def _inside(schedule: LRScheduler) -> list[LRScheduler]:
    """Return a schedule and those that it steps.

    Raises
    ------
    NotApplicable
        If one of them has a step() of its own: what it sets is not known.
    """
    kind = type(schedule)
    if kind.step.__module__ != _CLOCKS or getattr(kind, "_update_lr", kind.step).__module__ != _CLOCKS:
        raise NotApplicable(f"what else a {kind.__name__} sets is not known: its step() is its own")
    inner = getattr(schedule, "_schedulers", ())
    return [schedule, *(each for child in inner for each in _inside(child))]


def _rate_names(schedule: LRScheduler) -> list[str]:
    if not getattr(schedule, "cycle_momentum", False):
        return ["lr"]
    return ["lr", "betas" if getattr(schedule, "use_beta1", False) else "momentum"]


def _rates_first(sources: list[Source]) -> list[Source]:
    return sorted(sources, key=lambda source: (source.kind != "hyper", source.name))


def _as_built(sources: list[Source], branch: Branch) -> None:
    for source in sources:
        built = branch.built.get(source.name)
        if built is None:
            raise NotApplicable(f"how the program built {source.name} is not known: it was made later")
        if isinstance(source, HyperSource) and len(built.values) != len(source.watched.optimizer.param_groups):
            raise NotApplicable(
                f"{source.name} had {len(built.values)} parameter groups when it was built, not as many as now"
            )
    for source in _rates_first(sources):
        source.restore(branch.built[source.name])


def _refuse_disabled(sources: list[Source]) -> None:
    for source in sources:
        reading = source.read()
        if not reading.tensors and not reading.values:
            raise NotApplicable(f"{source.name} is disabled: it scales nothing")
