"""Interventions on a teacher alone: one that lags behind itself."""

from __future__ import annotations

from collections import deque
from typing import Any

from auditor.interventions.averages import FollowDifferently
from auditor.interventions.intervention import Branch
from auditor.interventions.student import Follower, Tensors, Update
from auditor.state.source import Source


class LagTeacher(FollowDifferently):
    """Have the training use the teacher as it was ``steps`` steps before, on its own trajectory.

    The teacher T goes on being updated from the student of this branch, T' = (1 - w) T + w · student, unseen; what
    stands in the teacher, and is used, is T of ``steps`` steps before, and the teacher of the fork for that many
    steps. The share w is measured at each update of the program's, from where it moved what stands there, U: then
    T' = U' + (1 - w)(T - U), in float64, whatever the schedule of w and whichever student it moved to. Weights lag,
    and buffers that the program averages or copies; those that the teacher's own forward passes move are carried. The
    student is held fixed.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._true: dict[str, Tensors] = {}
        self._past: dict[str, deque[Tensors]] = {}

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Find the students, and begin the trajectories with the teachers as they are."""
        super().change(sources, branch)
        for name, follower in self.followers.items():
            self._true[name] = dict(follower.left)
            self._past[name] = deque([self._true[name]], maxlen=self.arguments["steps"] + 1)

    def meant(self, name: str, follower: Follower, update: Update | None, now: Tensors, *, after_step: bool) -> Tensors:
        """Follow the true teacher, and return the one that is ``steps`` behind."""
        if update is not None:
            true = dict(self._true[name])
            for path in update.averaged:
                ahead = true[path].double() - follower.left[path].double()
                true[path] = now[path].double() + (1.0 - update.share) * ahead
            true |= {path: now[path] for path in update.copied}
            self._true[name] = true
        trail = self._past[name]
        if after_step:
            trail.append(self._true[name])
        # Updated within the step, before its use: that is already the next step's teacher.
        present = [*trail] if self._true[name] is trail[-1] else [*trail, self._true[name]]
        lagging = present[max(0, len(present) - 1 - self.arguments["steps"])]
        set_here = [*follower.student.weights] if update is None else [*update.averaged, *update.copied]
        return {path: lagging[path] for path in set_here}
