"""Where in the loaders' passes the steps of an order intervention lie, told from what the run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from auditor.artifact.intervention_table import AT, TABLE, kind_of, window
from auditor.evidence.run_view import RunView
from auditor.replay.plan import PlanError, intervention_name

ORDER = "order"


@dataclass(frozen=True)
class _Taken:
    """What one recorded step took."""

    main: int | None
    """The pass it belongs to."""
    batches: dict[int, tuple[int, int]]
    """By pass: how many batches of it were consumed before the step, and with it; only where it took any."""
    has_ids: bool


@dataclass
class Walked:
    """The recorded steps of a rollout, and the loaders whose batches they took."""

    first: int
    """The first step after the fork."""
    last: int
    """The last horizon's step."""
    loaders: dict[int, int | None] = field(default_factory=dict)
    """By pass; None for an iterable that is no DataLoader."""
    steps: dict[int, _Taken] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunView, at: int, last: int) -> Walked:
        """Return what a run's steps ``at + 1`` to ``last`` took."""
        walked = cls(at + 1, last)
        reached: dict[int, int] = {}
        for event in run.history.timeline:
            if event["event"] == "iter":
                walked.loaders[event["pass"]] = event["loader"]
            if event["event"] != "step" or event["step"] > last:
                continue
            now = dict(event.get("also", ()))
            if event["pass"] is not None:
                now[event["pass"]] = event["position"]
            if event["step"] > at:
                batches = {n: (reached.get(n, 0), to) for n, to in sorted(now.items()) if to > reached.get(n, 0)}
                walked.steps[event["step"]] = _Taken(event["pass"], batches, event["ids"] is not None)
            reached.update(now)
        return walked

    def place(self, description: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return where an order intervention acts (``order`` in cell.json, docs/study.md); None for any other one.

        Raises
        ------
        PlanError
            If its steps are none of the rollout's, lie in several passes, or two windows overlap; or if its source
            names no loader of the run.
        """
        if (ORDER, description["do"]) not in TABLE or kind_of(description["source"]) != ORDER:
            return None
        name = intervention_name(dict(description))
        loader = self._loader(str(description["source"]), name)
        if description["do"] == "policy":
            return self._loaders(loader, max(self.first, int(description.get(AT) or 0) + 1))
        windows = sorted(found for key in ("first", "second", "window") if (found := window(description.get(key))))
        self._check(windows, name, max(self.first, int(description.get(AT) or 0) + 1))
        reason = self._without_ids([step for first, last in windows for step in range(first, last + 1)])
        return {"reason": reason} if reason is not None else self._windows(windows, loader, name)

    def _loader(self, source: str, name: str) -> int | None:
        """Return the loader that a source names; None for a bare ``order``."""
        number = source.removeprefix(ORDER)
        if not number:
            return None
        known = sorted({loader for loader in self.loaders.values() if loader is not None})
        for loader in known:
            if number == f"[{loader}]":
                return loader
        raise PlanError(
            f"{source} names no loader of the run",
            where=name,
            why=f"it has {', '.join(f'order[{loader}]' for loader in known) or 'none'}, numbered as first walked",
            next_step="order alone is the loader that the steps belong to",
        )

    def _check(self, windows: list[tuple[int, int]], name: str, first: int) -> None:
        for begin, end in windows:
            if begin < first or end > self.last or any(step not in self.steps for step in range(begin, end + 1)):
                raise PlanError(
                    f"steps {begin}-{end} are not all in the rollout",
                    where=name,
                    why=f"what feeds a step can be moved from step {first} on, to the last horizon's, {self.last}",
                    next_step="name later steps, an earlier --at, or a longer horizon",
                )
        if len(windows) == 2 and windows[1][0] <= windows[0][1]:
            raise PlanError("the two windows overlap", where=name, next_step="name windows that share no step")

    def _without_ids(self, steps: list[int]) -> str | None:
        """Return why the batches of some steps cannot be told from one another, or None."""
        for step in steps:
            main = self.steps[step].main
            if main is None:
                return f"step {step} took no batch of a loader: the program draws its batches by hand"
            if self.loaders.get(main) is None:
                return f"step {step} took its batches from an iterable that is no DataLoader"
            if not self.steps[step].has_ids:
                return (
                    f"the batches of step {step} have no sample ids: an iterable data set, an order that workers race "
                    "for, or a thread that draws ahead"
                )
        return None

    def _windows(self, windows: list[tuple[int, int]], loader: int | None, name: str) -> dict[str, Any]:
        wanted = self._main_loader(windows[0][0]) if loader is None else loader
        places, closes, passes = [], [], set()
        for begin, end in windows:
            taken = [
                (number, span)
                for step in range(begin, end + 1)
                for number, span in self.steps[step].batches.items()
                if self.loaders.get(number) == wanted
            ]
            if not taken:
                return {"reason": f"steps {begin}-{end} take no batch of loader {wanted}"}
            passes |= {number for number, _ in taken}
            before, after = taken[0][1][0], taken[-1][1][1]
            places.append([before + 1, after])
            closes += [[begin - 1, before]] if before and begin > self.first else []
            closes.append([end, after])
        if len(passes) > 1:
            raise PlanError(
                f"the steps take batches from passes {', '.join(map(str, sorted(passes)))}",
                where=name,
                why="batches change places inside one pass: another one holds every sample again",
                next_step=self._advice(passes),
            )
        return {"pass": passes.pop(), "loader": wanted, "windows": places, "closes": closes}

    def _advice(self, passes: set[int]) -> str:
        """Say which steps of the rollout lie in which of some passes."""
        told = []
        for number in sorted(passes):
            steps = [step for step, taken in self.steps.items() if taken.batches.keys() & passes == {number}]
            if steps:
                told.append(f"steps {steps[0]}-{steps[-1]} (pass {number})")
        return f"name steps of one pass: {' or '.join(told)}" if told else "name steps of one pass"

    def _loaders(self, loader: int | None, first: int) -> dict[str, Any]:
        steps = [step for step in self.steps if step >= first]
        if loader is not None:
            steps = [s for s in steps if loader in {self.loaders.get(number) for number in self.steps[s].batches}]
        reason = self._without_ids(steps)
        if reason is not None:
            return {"reason": reason}
        return {"loaders": sorted({self._main_loader(step) for step in steps} if loader is None else {loader})}

    def _main_loader(self, step: int) -> int:
        """Return the loader of the pass that a step belongs to; asked only where :meth:`_without_ids` is None."""
        return self.loaders[self.steps[step].main or 0] or 0
