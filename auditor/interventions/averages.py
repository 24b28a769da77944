"""Interventions on averaged weights and teachers that bring them to their student or change how fast they follow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from auditor.interventions.calls import before_calls
from auditor.interventions.intervention import Branch, Intervention, Lasting, NotApplicable
from auditor.interventions.student import Follower, Tensors, Update, callers, put, same, student_of
from auditor.state.places import PlacedSource
from auditor.state.source import Source


class BecomeStudent(Intervention):
    """Make averaged weights, or a teacher, a fresh copy of the student: its history is forgotten.

    Every weight, and every buffer that both have under the same name, takes the student's value. A torch
    ``AveragedModel`` then stands as after its first update, which copies (torch/optim/swa_utils.py,
    ``update_parameters``): parameters and buffers are the student's, whatever ``use_buffers`` says, and ``n_averaged``
    is 1. Counters and attributes of other objects, and the student, are held fixed. ``student`` names the trained
    module where names and shapes do not settle it (:func:`auditor.interventions.student.student_of`).

    Effect of an EMA's reset at step k on the EMA at T, at decay β: β^(T-k) (θ_k - EMA_k), whatever the network.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Copy the student's tensors into each source."""
        for source in sources:
            if _has_averaged_nothing(source):
                raise NotApplicable(f"{source.name} has averaged nothing yet: its first update copies the student")
        students = [student_of(source, branch, self.arguments["student"]) for source in sources]
        self.arguments["student"] = ", ".join(dict.fromkeys(student.name for student in students))
        for source, student in zip(sources, students, strict=True):
            counter = source.read().tensors["n_averaged"] if _averaged_model(source) else None
            put(
                source, student.read() if counter is None else student.read() | {"n_averaged": torch.ones_like(counter)}
            )


class FollowDifferently(Lasting):
    """What lasting changes to how a follower follows share: seeing each update of the program's, and acting on it.

    The program is taken to have updated a follower where any bit of its weights differs from how it was left. That is
    looked at, and put right, after each step, and before each call of the follower's module: it is then used as it is
    meant, whether the program updates it before its use or after the optimizer's step.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self.followers: dict[str, Follower] = {}
        self._changed = False

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Find each follower's student; nothing is changed yet."""
        students = {source.name: student_of(source, branch, self.arguments["student"]) for source in sources}
        if students:
            self.arguments["student"] = ", ".join(dict.fromkeys(student.name for student in students.values()))
        self.followers = {source.name: Follower(source, students[source.name]) for source in sources}
        called = {id(module): source.name for source in sources for module in callers(source)}

        def before_call(self: FollowDifferently, module: nn.Module) -> None:
            self._see(*branch.named([called[id(module)]]))

        before_calls(self, [module for source in sources for module in callers(source)], before_call)

    def after_step(self, branch: Branch) -> bool:
        """Act on the step's updates; return whether there was one that was changed."""
        for source in branch.named(self.followers):
            self._see(source, after_step=True)
        changed, self._changed = self._changed, False
        return changed

    def _see(self, source: Source, *, after_step: bool = False) -> None:
        follower = self.followers[source.name]
        update, now = follower.update(source), follower.now(source)
        meant = self.meant(source.name, follower, update, now, after_step=after_step)
        if meant:
            put(source, meant)
        follower.leave(source)
        self._changed |= any(not same(now[path], follower.left[path]) for path in meant)

    @abstractmethod
    def meant(self, name: str, follower: Follower, update: Update | None, now: Tensors, *, after_step: bool) -> Tensors:
        """Return the tensors that shall stand in the follower, by path; those that are left out stay as they are."""


class SetDecay(FollowDifferently):
    """Have averaged weights, or a teacher, forget at another decay d' from here on: ``value`` or ``half_life``.

    Where the program updated it, it is made d' · (what it was before) + (1 - d') · student, in its
    own dtype; buffers that the program averages likewise, those that it copies or leaves alone stay as the program
    made them. The student is the one that the program moved to: as it is after the step, or as it was before it. What
    was averaged until here is carried, the student held fixed. The half-life is in updates, d' = 2^(-1 / half_life).

    torch's ``AveragedModel`` is given the averaging function of that decay instead (torch/optim/swa_utils.py,
    ``get_ema_multi_avg_fn`` or ``get_ema_avg_fn``), which its own updates then call: bit for bit a model with it.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        value, half_life = self.arguments["value"], self.arguments["half_life"]
        self.decay = float(value) if half_life is None else 0.5 ** (1.0 / float(half_life))
        self._counts: dict[str, int] = {}

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Give torch's averaged models their function, and find the students of the others."""
        averages = [(source, average) for source in sources if (average := _averaged_model(source)) is not None]
        super().change([source for source in sources if _averaged_model(source) is None], branch)
        for source, average in averages:
            self._counts[source.name] = int(average.n_averaged)
            if average.avg_fn is None:
                average.multi_avg_fn = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
            else:
                average.avg_fn = get_ema_avg_fn(self.decay)  # type: ignore[no-untyped-call]

    def after_step(self, branch: Branch) -> bool:
        """Recompute what the program updated; return whether any follower was."""
        changed = super().after_step(branch)
        for source in branch.named(self._counts):
            average = _averaged_model(source)
            count = 0 if average is None else int(average.n_averaged)
            changed |= count != self._counts[source.name]
            self._counts[source.name] = count
        return changed

    def meant(self, name: str, follower: Follower, update: Update | None, now: Tensors, *, after_step: bool) -> Tensors:
        """Return the weighted means at the new decay."""
        if update is None:
            return {}
        return {
            path: torch.lerp(follower.left[path], update.student[path].to(now[path].dtype), 1.0 - self.decay)
            for path in update.averaged
        }


def _averaged_model(source: Source) -> AveragedModel | None:
    """Return torch's averaged model, if the source is one that updates itself as torch has it."""
    root = source.root if isinstance(source, PlacedSource) else None
    own = isinstance(root, AveragedModel) and type(root).update_parameters is AveragedModel.update_parameters
    return root if isinstance(root, AveragedModel) and own else None


def _has_averaged_nothing(source: Source) -> bool:
    average = _averaged_model(source)
    return average is not None and int(average.n_averaged) == 0
