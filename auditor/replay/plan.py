"""The plan: what a study will do, declared and hashed before any cell runs."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonschema.exceptions import ValidationError

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.intervention_table import AT, at_fork, complete
from auditor.artifact.resources import validator
from auditor.errors import MemauditError

FORMAT = "plan-1"
CONTROL = "carry"
GATE = "gate"
FLOOR = "1-ulp"
RESERVED = (CONTROL, GATE, FLOOR)
"""Arms that every study has."""
DEFAULT_OUTCOMES = ("nll", "accuracy", "tv", "disagreement")
_MAX_UNITS = 100_000
_JOINT = re.compile(r"\+(?=[^,=+]+=)")  # not the sign of an exponent
_NUMBER = re.compile(r"[+-]?\d{1,400}(\.\d{0,400})?([eE][+-]?\d{1,4})?")
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([kMGT]i?B|B)")
_SCALE = {
    "B": 1,
    **{f"{c}B": 1000**k for k, c in enumerate("kMGT", 1)},
    **{f"{c}iB": 1024**k for k, c in enumerate("kMGT", 1)},
}

Place = tuple[str | int, ...]
"""Where in a document something stands: its keys and indices from the top."""
Where = Callable[[Place], str]
"""Says where in the file, or on the command line, a place of the document stands."""


class PlanError(MemauditError):
    """A plan that cannot be run."""


@dataclass(frozen=True)
class PlannedArm:
    """One arm: a name and its interventions, ``{source, do, …arguments}`` each; the control has none."""

    name: str
    do: tuple[dict[str, Any], ...]

    def at(self, fork: int) -> PlannedArm:
        """Return the arm with steps counted from the fork (``after=5``, ``+1-+20``) as steps of the run."""
        return PlannedArm(self.name, tuple(at_fork(each, fork) for each in self.do))


@dataclass(frozen=True)
class PlannedFork:
    """One fork: the run directory, and the step after which its arms fork."""

    run: str
    at: int

    @property
    def name(self) -> str:
        """The fork's name for people."""
        return f"{self.run} after step {self.at}"


@dataclass(frozen=True)
class Execution:
    """How the cells are run; nothing of it changes a result."""

    kind: str = "forkserver"
    """``forkserver``: each cell in a process of its own; ``in-process``: one after the other in this one."""
    jobs: int | None = None
    """Cells at a time; None for one a core and thread."""
    timeout: float | None = None
    """Seconds that a cell may take."""
    memory: int | None = None
    """Bytes that a cell's processes may hold."""
    attempts: int = 3
    """How often a cell is begun that is killed, or goes over a limit."""


@dataclass(frozen=True)
class Plan:
    """A study, declared."""

    forks: tuple[PlannedFork, ...]
    """Where the arms fork: runs and steps."""
    arms: tuple[PlannedArm, ...]
    """The treated arms; the control, ``carry``, is always there."""
    horizons: tuple[int, ...]
    """Steps after the fork at which outcomes are measured, ascending."""
    seeds: tuple[int, ...]
    """The units: fork seeds."""
    outcomes: tuple[str, ...]
    margins: dict[str, float]
    """Equivalence margins by outcome."""
    seed: int
    """What random choices of the analysis derive from, and the fork seeds' common key."""
    probes: tuple[str, ...] | None = None
    """The probes to measure on; None for all that the program has."""
    level: float = 0.95
    """The confidence of the whole study; with several looks the error is split among them."""
    family: str = "plan"
    """Which tests are adjusted together: all of the ``plan``, or those of each ``fork``."""
    looks: tuple[int, ...] = ()
    """After how many units the estimates are looked at, ascending, the last of them all; empty for once, at the end."""
    reach: str = "auto"
    """How cells come to the fork: ``restore``, ``rerun``, ``fork``, or what fits (:mod:`auditor.replay.reach`)."""
    execution: Execution = Execution()

    @property
    def last(self) -> int:
        """The last horizon."""
        return max(self.horizons)

    @property
    def look_units(self) -> tuple[int, ...]:
        """After how many units the study is looked at; at least once, at the end."""
        return self.looks or (len(self.seeds),)

    def document(self) -> dict[str, Any]:
        """Return the plan as ``plan-1``."""
        return {
            "format": FORMAT,
            "forks": [{"run": fork.run, "at": fork.at} for fork in self.forks],
            "arms": [{"name": arm.name, "do": list(arm.do)} for arm in self.arms],
            "horizons": list(self.horizons),
            "units": {"kind": "fork", "seeds": list(self.seeds)},
            "probes": None if self.probes is None else list(self.probes),
            "outcomes": list(self.outcomes),
            "margins": self.margins,
            "level": self.level,
            "family": self.family,
            "looks": list(self.looks),
            "reach": self.reach,
            "executor": asdict(self.execution),
            "seed": self.seed,
        }

    @property
    def sha256(self) -> str:
        """The hash of the plan's canonical JSON, newline included: that of plan.json."""
        return hashlib.sha256(canonical_bytes(self.document()) + b"\n").hexdigest()

    def beside(self, folder: Path) -> Plan:
        """Return the plan with relative run directories taken from ``folder``."""
        forks = tuple(replace(fork, run=str(folder / fork.run)) for fork in self.forks)
        return replace(self, forks=forks)


def from_options(
    run: str,
    at: Sequence[int],
    do: Sequence[str],
    horizons: Sequence[int],
    units: int,
    *,
    reach: str = "auto",
) -> Plan:
    """Return the plan that the command line describes; each ``do`` is one arm, ``+`` joins interventions in it."""
    return from_document(
        {
            "format": FORMAT,
            "forks": [{"run": run, "at": step} for step in at],
            "arms": [{"do": [parse_intervention(part) for part in _JOINT.split(text)]} for text in do],
            "horizons": list(horizons),
            "units": {"kind": "fork", "count": units},
            "reach": reach,
        },
        lambda place: "--do " + do[int(place[1])] if place[:1] == ("arms",) and len(place) > 1 else "the command line",
    )


def from_document(document: Any, where: Where) -> Plan:
    """Return the plan in a parsed document; arms may lack names, and what has a default may be left out.

    Raises
    ------
    PlanError
        If it does not follow the schema, or contradicts itself; ``where`` says at which line.
    """
    if isinstance(document, dict):
        document = _with_defaults(document, where)
    # A name that nobody knows comes first: where one is misspelt, another is missing.
    errors = sorted(
        validator("plan").iter_errors(document),
        key=lambda e: (e.validator != "additionalProperties", list(map(str, e.path)), e.message),
    )
    error = next(iter(errors), None)
    if error is not None:
        raise _schema_error(error, where)
    found = _unholdable(document)
    if found is not None:
        place, reason = found
        raise PlanError("a value that canonical JSON cannot hold", where=where(place), why=reason[:300])
    plan = Plan(
        # JSON Schema takes 14.0 for an integer.
        forks=tuple(PlannedFork(item["run"], int(item["at"])) for item in document["forks"]),
        arms=tuple(_arms(document["arms"], where)),
        horizons=tuple(sorted(map(int, document["horizons"]))),
        seeds=tuple(map(int, document["units"]["seeds"])),
        probes=None if document["probes"] is None else tuple(document["probes"]),
        outcomes=tuple(document["outcomes"]),
        margins={name: float(value) for name, value in document["margins"].items()},
        level=float(document["level"]),
        family=document["family"],
        looks=tuple(map(int, document["looks"])),
        reach=document["reach"],
        execution=_execution(document["executor"]),
        seed=int(document["seed"]),
    )
    _check(plan, document, where)
    return plan


def parse_intervention(text: str) -> dict[str, Any]:
    """Return ``{source, do, …arguments}`` for ``SOURCE=ACTION[,name=value…]``; numbers are read as numbers.

    Raises
    ------
    PlanError
        If the text has another form.
    """
    first, *rest = text.strip().split(",")
    source, equals, action = first.partition("=")
    if not (equals and source and action):
        raise PlanError(
            f"{text!r} is not an intervention",
            where="--do",
            next_step="write SOURCE=ACTION[,name=value…], for example optimizer.momentum_buffer=reset,how=zero",
        )
    description: dict[str, Any] = {"source": source, "do": action}
    for part in rest:
        name, equals, value = part.partition("=")
        if not (equals and name) or name in description:
            raise PlanError(f"{part!r} is not name=value, or stands twice", where=f"--do {text}")
        description[name] = _value(value)
    return description


def intervention_name(description: dict[str, Any]) -> str:
    """Return an intervention as the command line writes it."""
    arguments = "".join(
        f",{name}={value}" for name, value in sorted(description.items()) if name not in ("source", "do")
    )
    return f"{description['source']}={description['do']}{arguments}"


def bytes_of(text: str) -> int | None:
    """Return how many bytes ``4 GiB``, ``500MB`` or ``1000000`` are; None where the text has another form."""
    if text.isdecimal() and len(text) <= 18:
        return int(text)
    found = _BYTES.fullmatch(text)
    return None if found is None else int(float(found[1]) * _SCALE[found[2]])


def _with_defaults(document: dict[Any, Any], where: Where) -> dict[Any, Any]:
    defaults: dict[str, Any] = {
        "arms": [],
        "probes": None,
        "outcomes": list(DEFAULT_OUTCOMES),
        "margins": {},
        "level": 0.95,
        "family": "plan",
        "looks": [],
        "reach": "auto",
        "executor": {},
        "seed": 0,
    }
    document = {**defaults, **document}
    units = document.get("units")
    if isinstance(units, dict):
        units = {"kind": "fork", **units}
        if "seeds" not in units and "count" in units:
            count = units.pop("count")
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MAX_UNITS:
                raise PlanError(
                    "the number of units is no whole number that can be run",
                    where=where(("units", "count")),
                    next_step=f"use one from 1 to {_MAX_UNITS}",
                )
            units["seeds"] = list(range(count))
        document["units"] = units
    executor = document["executor"]
    if isinstance(executor, dict):
        memory = executor.get("memory")
        if isinstance(memory, str):
            memory = bytes_of(memory)
            if memory is None:
                raise PlanError(
                    f"{executor['memory'][:40]!r} is no amount of memory",
                    where=where(("executor", "memory")),
                    next_step="write 4 GiB, 500 MB, or a number of bytes",
                )
        document["executor"] = {**asdict(Execution()), **executor, "memory": memory}
    return document


def _execution(declared: Mapping[str, Any]) -> Execution:
    whole = {name: None if declared[name] is None else int(declared[name]) for name in ("jobs", "memory", "attempts")}
    return Execution(**{**declared, **whole})


def _unholdable(value: Any, place: Place = ()) -> tuple[Place, str] | None:
    """Return where the innermost value stands that canonical JSON cannot hold, and why it cannot; None if it can."""
    try:
        canonical_bytes(value)
    except (TypeError, ValueError) as reason:
        items: list[tuple[Any, Any]] = []
        if isinstance(value, dict):
            items = [(name, below) for name, below in value.items() if isinstance(name, str)]
        elif isinstance(value, list):
            items = list(enumerate(value))
        inner = (_unholdable(below, (*place, name)) for name, below in items)
        return next((found for found in inner if found is not None), (place, str(reason)))
    return None


def _schema_error(error: ValidationError, where: Where) -> PlanError:
    """Say what the schema does not allow, where, and what may have been meant."""
    place: Place = tuple(error.absolute_path)
    next_step = ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(dict(error.schema)["properties"]) if isinstance(error.schema, Mapping) else []
        odd = next((name for name in error.instance if name not in known), None)
        near = difflib.get_close_matches(str(odd), known, n=1)
        next_step = f"did you mean {near[0]}?" if near else f"known here are {', '.join(known)}"
        what = f"a plan has no {odd!r} here"
        return PlanError(what, where=where((*place, str(odd))), next_step=next_step)
    return PlanError("the plan does not follow its schema", where=where(place), why=error.message[:300])


def _arms(items: list[Any], where: Where) -> list[PlannedArm]:
    arms: list[PlannedArm] = []
    for index, item in enumerate(items):
        arm = _arm(item, where(("arms", index)))
        for part, description in enumerate(arm.do):
            try:
                complete(description, arm.name)
            except MemauditError as error:
                place = where(("arms", index, "do", part))
                raise PlanError(error.what, where=place, why=error.why, next_step=error.next_step) from None
        for other in arms:
            if arm.name == other.name or (arm.do and _completed(arm) == _completed(other)):
                raise PlanError(f"two arms are the same: {arm.name}", where=where(("arms", index)))
        arms.append(arm)
    return [arm for arm in arms if arm.do]


def _check(plan: Plan, document: dict[str, Any], where: Where) -> None:
    """Refuse what the schema allows and nobody could run."""
    indices = [index for index, item in enumerate(document["arms"]) if item["do"]]
    for fork in plan.forks:
        for index, arm in zip(indices, plan.arms, strict=True):
            for part, description in enumerate(arm.at(fork.at).do):
                at, last = description.get(AT), fork.at + plan.last
                if at is not None and not fork.at <= at < last:
                    raise PlanError(
                        f"{intervention_name(description)} is not applied between the fork after step {fork.at} and "
                        "the last horizon",
                        where=where(("arms", index, "do", part)),
                        next_step=f"use an {AT} from {fork.at} to {last - 1}, or after=N, counted from each fork",
                    )
    if len(set(plan.forks)) < len(plan.forks):
        raise PlanError("two forks are the same", where=where(("forks",)))
    if list(plan.looks) != sorted(set(plan.looks)) or (plan.looks and plan.looks[-1] != len(plan.seeds)):
        raise PlanError(
            "looks do not ascend to the number of units",
            where=where(("looks",)),
            next_step=f"end them with {len(plan.seeds)}, such as [{max(len(plan.seeds) // 2, 1)}, {len(plan.seeds)}]",
        )


def _completed(arm: PlannedArm) -> list[dict[str, Any]]:
    """Return an arm's interventions with their defaults filled in, to tell equal arms."""
    return [complete(description, arm.name) for description in arm.do]


def _arm(item: dict[str, Any], where: str) -> PlannedArm:
    name = item.get("name") or "+".join(intervention_name(part) for part in item["do"]) or CONTROL
    if not item["do"] and name != CONTROL:
        raise PlanError(f"arm {name!r} changes nothing", where=where, next_step=f"drop it: {CONTROL} is always there")
    if item["do"] and name in RESERVED:
        raise PlanError(f"an arm of your own cannot be called {name!r}", where=where, next_step="every study has one")
    return PlannedArm(name, tuple(item["do"]))


def _value(text: str) -> Any:
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text)
