"""Refine: run two programs again from their last common anchor, magnified, and name what parted first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auditor.compare.divergence import Divergence, first_divergence
from auditor.errors import InconclusiveError, MemauditError
from auditor.evidence.run_view import RunView
from auditor.replay.cells import Cell, CellStore, description_of
from auditor.replay.executors.fresh import run_fresh
from auditor.replay.executors.worker import Launch
from auditor.replay.magnified import FILE
from auditor.replay.nulls import cell_steps
from auditor.replay.parting import Place, first_difference
from auditor.replay.plan import GATE
from auditor.replay.reach import Reach

Event = dict[str, Any]
FURTHER = 2
"""How many steps are run past the first one that parts."""
MOST_FROM_START = 10_000
"""The most steps that are taken a second time, from the start, because a later anchor did not do."""


@dataclass(frozen=True)
class Reexecution:
    """How one run's program went when it was run again."""

    first: Divergence | None
    """Where it parts from its own recording."""

    @property
    def reproduced(self) -> bool:
        """Whether every step's digests are the recorded ones."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """Return ``{reproduced, first: null or {step, source}}``."""
        first = None if self.first is None else {"step": self.first.step, "source": self.first.source}
        return {"reproduced": self.reproduced, "first": first}


@dataclass(frozen=True)
class Refinement:
    """What two executions showed."""

    begin: int
    """The step of the anchors that they went on from."""
    to: int
    """The last step they took."""
    a: Reexecution
    b: Reexecution
    first: Place | None
    """What parted first between the two executions; None if nothing did."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in a comparison's JSON."""
        return {
            "from": self.begin,
            "to": self.to,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "first": None if self.first is None else self.first.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Entrance:
    """From which anchors the two go on, and whether these are equal."""

    a: Event
    b: Event
    common: bool

    @property
    def step(self) -> int:
        """The step after which both go on."""
        return int(self.a["step"])


def entrances(a: RunView, b: RunView, first_step: int) -> list[Entrance]:
    """Return from where two runs can go on to ``first_step``, the nearest first.

    That is the last anchor before it at which both can be entered and every memory source and stream that both have is
    equal; and each run's own start, for where there is no such anchor or it does not do.

    Raises
    ------
    InconclusiveError
        If there is neither.
    """
    anchors = [
        [anchor.event for anchor in run.anchors if anchor.event["enter"] is not None and anchor.step < first_step]
        for run in (a, b)
    ]
    common = [Entrance(one, two, common=True) for one in anchors[0] for two in anchors[1] if _are_equal(one, two)]
    found = [max(common, key=lambda each: (each.step, each.a["seq"], each.b["seq"]))] if common else []
    if not (found and found[0].step == 0):
        starts = [[event for event in events if event["step"] == 0] for events in anchors]
        if all(starts):
            found.append(Entrance(starts[0][0], starts[1][0], common=False))
    if not found:
        lacking = [str(run.path) for run, events in zip((a, b), anchors, strict=True) if not events]
        raise InconclusiveError(
            f"the runs cannot be entered together before step {first_step}",
            where=", ".join(lacking) or f"{a.path}, {b.path}",
            why="no anchor of the start was kept, or none that a fresh process can come back to"
            if lacking
            else "they have no anchor with equal state at the same step, and no anchor of their starts",
            next_step="record with anchors that are kept, and with `for epoch in run.epochs(n)` around the passes",
        )
    return found


def refine(
    a: RunView,
    b: RunView,
    *,
    launches: tuple[Launch, Launch],
    first_step: int,
    out: Path,
    further: int = FURTHER,
    most_from_start: int = MOST_FROM_START,
    progress: Callable[[str], None] = lambda text: None,
) -> Refinement:
    """Run the programs of ``a`` and ``b`` again, one after the other, and compare them tensor by tensor.

    This executes code that the runs name: ask first (:mod:`auditor.cli.consent`).

    Parameters
    ----------
    a, b
        The two runs; finished or not.
    launches
        How to start their programs (:func:`auditor.replay.program.launch_of`).
    first_step
        The first step at which their traces part.
    out
        A directory for what the executions write; a cell that is there already is not run again.
    further
        How many steps to run past ``first_step``, if there are as many.
    most_from_start
        Where going on from a later anchor does not repeat a recording, the start is tried if it is no further away.
    progress
        Called with one line of text before each execution.

    Raises
    ------
    MemauditError
        If ``out`` cannot be used; it names the file.
    InconclusiveError
        If a run ends before ``first_step``, cannot be entered, or its program fails.
    """
    to = first_step + max(further, 0)
    for name, run in (("A", a), ("B", b)):
        if run.history.step < first_step:
            raise InconclusiveError(
                f"run {name} has no step {first_step}: there is nothing to compare it with",
                where=str(run.path),
                why=f"its last step is {run.history.step}",
            )
        to = min(to, run.history.step)
    _check_out(out, a, b)
    tries = entrances(a, b, first_step)
    if len(tries) == 2 and to > most_from_start:
        del tries[1]
    found, failure, notes = None, None, list[str]()
    for entrance in tries:
        try:
            again = _attempt(a, b, launches, entrance, to, out, progress)
        except InconclusiveError as error:
            failure = error  # the last one: its log is still there
            notes.append(f"going on from step {entrance.step} failed: {error.what}")
            continue
        notes += [] if found is None else _mended(found, again)
        found = again
        if not _names(found, reproduced=False):
            break
    if found is None:
        raise failure or InconclusiveError("nothing was run", where=str(out))
    return replace(found, notes=(*found.notes, *notes, *_doubts(found)))


def _are_equal(one: Event, two: Event) -> bool:
    """Say whether two anchors were taken after the same step, with all that both hold in the same state."""
    return bool(
        one["step"] == two["step"]
        and one["at"] == two["at"]
        and all(
            one[group].keys() & two[group].keys()
            and all(one[group][name] == two[group][name] for name in one[group].keys() & two[group].keys())
            for group in ("sources", "streams")
        )
    )


def _attempt(
    a: RunView,
    b: RunView,
    launches: tuple[Launch, Launch],
    entrance: Entrance,
    to: int,
    out: Path,
    progress: Callable[[str], None],
) -> Refinement:
    """Run both programs from one entrance to a step."""
    ends: list[Reexecution] = []
    files: list[Path] = []
    losses: list[dict[int, float | None]] = []
    notes: list[str] = []
    for name, run, launch, anchor in (("a", a, launches[0], entrance.a), ("b", b, launches[1], entrance.b)):
        told = name.upper()
        progress(f"run {told}: steps {entrance.step + 1} to {to}, from {anchor['path']}")
        store = CellStore(out / name)
        cell = _cell(run, anchor, to)
        if not store.is_done(cell):
            _run(run, told, cell, store, launch)
        recorded = [step for step in run.steps() if entrance.step < step.step <= to]
        taken = cell_steps(store, cell)
        ends.append(Reexecution(first_divergence(recorded, taken)[0]))
        losses.append({step.step: step.loss for step in taken})
        files.append(store.path(cell) / FILE)
        if store.result(cell)["numerics"] != run.environment_at(to)["numerics"]:
            notes.append(f"run {told} was recorded in another numerics class than the one it was run in now")
    first, more = first_difference(*files)
    if first is not None and first.phase == "backward":
        more.append(_of_gradients(*(each.get(first.step) for each in losses)))
    return Refinement(entrance.step, to, ends[0], ends[1], first, (*more, *notes))


def _of_gradients(one: float | None, two: float | None) -> str:
    """Say what the losses tell of gradients that part."""
    if one is None or two is None:
        return "the program tells no loss: whether it was computed differently, or what came after, is not known"
    if repr(one) == repr(two):  # NaN is not equal to itself
        return (
            "the losses are equal: the backward pass, or what was done to gradients after it, such as clipping, parts"
        )
    return "the losses differ: they were computed differently from equal outputs, after the modules"


def _cell(run: RunView, anchor: Event, to: int) -> Cell:
    inside = anchor["at"] == "step" or anchor["enter"] == "steps"
    reached = Reach("restore", anchor, "step" if inside else "pass", None if inside else anchor["pass"], to)
    description = {
        **description_of(run, reached, at=anchor["step"], last=to),
        "arm": GATE,
        "do": [],
        "unit": None,
        "key": None,
        "repeat": 0,
        "horizons": [to - anchor["step"]],
        "magnify": True,
    }
    return Cell(GATE, None, 0, description)


def _run(run: RunView, name: str, cell: Cell, store: CellStore, launch: Launch) -> None:
    store.sweep()
    directory = store.begin(cell)
    hash_seed = run.environment["flags"]["PYTHONHASHSEED"]
    status = run_fresh(str(directory.resolve()), launch, hash_seed=hash_seed)
    problem = store.commit(cell)
    if problem is not None:
        raise InconclusiveError(
            f"the program of run {name}, run again, did not come to the step where the runs part",
            where=str(store.log(cell)),
            why=f"its process was killed by signal {-status}" if status < 0 else problem,
            next_step="read the log",
        )


def _check_out(out: Path, *runs: RunView) -> None:
    if out.exists() and not out.is_dir():
        raise MemauditError("the directory for the re-executions is a file", where=str(out))
    for run in runs:
        if out.resolve().is_relative_to(run.path.resolve()):
            raise MemauditError(
                "re-executions cannot lie inside a run",
                where=str(out),
                why="the run would no longer verify: every file in it is listed",
                next_step="name a directory beside the runs",
            )


def _names(refinement: Refinement, *, reproduced: bool) -> list[str]:
    return [name for name, run in (("A", refinement.a), ("B", refinement.b)) if run.reproduced is reproduced]


def _mended(earlier: Refinement, later: Refinement) -> list[str]:
    """Say which runs repeat themselves from their start only."""
    parted, whole = _names(earlier, reproduced=False), _names(later, reproduced=True)
    return [
        f"run {name} repeats itself from its start and not from the anchor at step {earlier.begin}: it depends on "
        "something that no anchor holds, such as a counter of its own"
        for name in parted
        if name in whole
    ]


def _doubts(refinement: Refinement) -> list[str]:
    """Say what the answer does not mean."""
    notes = [
        f"run {name} does not repeat itself: executed again it parts from its own recording at step {run.first.step} "
        f"in {run.first.source}"
        for name, run in (("A", refinement.a), ("B", refinement.b))
        if run.first is not None
    ]
    if len(notes) == 2:
        notes.append(
            "neither repeats: a kernel or the program draws on something that no stream holds, or something outside "
            "of the programs is not as it was when they were recorded, such as environment variables, files or the "
            "machine"
        )
    if refinement.first is None:
        notes.append("the two executions do not part" + (", though the recordings may" if notes else ""))
    return notes
