"""The plan: what a study will do, declared and hashed before any cell runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.intervention_table import AT, complete
from auditor.artifact.resources import validator
from auditor.errors import MemauditError

FORMAT = "plan-1"
CONTROL = "carry"
GATE = "gate"
DEFAULT_OUTCOMES = ("nll", "accuracy", "tv", "disagreement")
_MAX_BYTES = 1 << 20
_MAX_NODES = 20_000
_MAX_UNITS = 100_000
_JOINT = re.compile(r"\+(?=[^,=+]+=)")  # not the sign of an exponent
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


class PlanError(MemauditError):
    """A plan that cannot be run."""


@dataclass(frozen=True)
class PlannedArm:
    """One arm: a name and its interventions, ``{source, do, …arguments}`` each; the control has none."""

    name: str
    do: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """A study, declared."""

    run: str
    """The run directory."""
    at: int
    """The step after which the arms fork."""
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

    def document(self) -> dict[str, Any]:
        """Return the plan as ``plan-1``."""
        return {
            "format": FORMAT,
            "forks": [{"run": self.run, "at": self.at}],
            "arms": [{"name": arm.name, "do": list(arm.do)} for arm in self.arms],
            "horizons": list(self.horizons),
            "units": {"kind": "fork", "seeds": list(self.seeds)},
            "outcomes": list(self.outcomes),
            "margins": self.margins,
            "seed": self.seed,
        }

    @property
    def sha256(self) -> str:
        """The hash of the plan's canonical JSON, newline included: that of plan.json."""
        return hashlib.sha256(canonical_bytes(self.document()) + b"\n").hexdigest()


def from_options(
    run: str, at: int, do: list[str], horizons: list[int], units: int, margins: dict[str, float], seed: int
) -> Plan:
    """Return the plan that the command line describes; each ``do`` is one arm, ``+`` joins interventions in it."""
    arms = [{"do": [parse_intervention(part) for part in _JOINT.split(text)]} for text in do]
    return from_document(
        {
            "format": FORMAT,
            "forks": [{"run": run, "at": at}],
            "arms": arms,
            "horizons": horizons,
            "units": {"kind": "fork", "seeds": list(range(units))},
            "margins": margins,
            "seed": seed,
        },
        "the command line",
    )


def from_yaml(path: Path) -> Plan:
    """Return the plan in a YAML file; a relative run directory is taken from the file's own folder.

    Raises
    ------
    PlanError
        If the file is not YAML of a sane size, or not a plan.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError("the plan cannot be read", where=str(path), why=error.strerror) from error
    if len(data) > _MAX_BYTES:
        raise PlanError(f"the plan is larger than {_MAX_BYTES} bytes", where=str(path))
    try:
        _check_size(data.decode("utf-8"), path)
        document = yaml.load(data, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise PlanError("the plan is not UTF-8", where=str(path), why=str(error)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PlanError("the plan is not YAML", where=f"{path}:{line}", why=error.problem) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise PlanError("the plan is not YAML", where=str(path), why=str(error)[:200]) from error
    plan = from_document(document, str(path))
    run = Path(plan.run)
    if run.is_absolute():
        return plan
    return _with_run(plan, str(path.parent / run))


def from_document(document: Any, where: str) -> Plan:
    """Return the plan in a parsed document; arms may lack names, defaults fill outcomes, margins and seed.

    Raises
    ------
    PlanError
        If it does not follow the schema, or two arms are the same.
    """
    if isinstance(document, dict):
        document = {"outcomes": list(DEFAULT_OUTCOMES), "margins": {}, "seed": 0, **document}
        units = document.get("units")
        if isinstance(units, dict) and isinstance(units.get("count"), int) and "seeds" not in units:
            if units["count"] > _MAX_UNITS:
                raise PlanError(f"more than {_MAX_UNITS} units", where=f"{where}#/units/count")
            document["units"] = {"kind": units.get("kind", "fork"), "seeds": list(range(units["count"]))}
    error = next(
        iter(sorted(validator("plan").iter_errors(document), key=lambda e: (list(map(str, e.path)), e.message))), None
    )
    if error is not None:
        pointer = "#/" + "/".join(str(part) for part in error.path)
        raise PlanError("the plan does not follow its schema", where=f"{where}{pointer}", why=error.message[:300])
    try:
        canonical_bytes(document)
    except (TypeError, ValueError) as reason:
        raise PlanError("a value that canonical JSON cannot hold", where=where, why=str(reason)[:300]) from None
    at = int(document["forks"][0]["at"])
    for index, item in enumerate(document["arms"]):
        for description in item["do"]:
            _check_intervention(description, f"{where}#/arms/{index}", at, at + max(document["horizons"]))
    arms = [_arm(item, f"{where}#/arms/{index}") for index, item in enumerate(document["arms"])]
    arms = [arm for arm in arms if arm.do]
    for index, arm in enumerate(arms):
        for other in arms[:index]:
            if arm.name == other.name or _completed(arm) == _completed(other):
                raise PlanError(f"two arms are the same: {arm.name}", where=f"{where}#/arms/{index}")
    fork = document["forks"][0]
    return Plan(
        run=fork["run"],
        at=int(fork["at"]),
        arms=tuple(arms),
        horizons=tuple(sorted(map(int, document["horizons"]))),
        seeds=tuple(document["units"]["seeds"]),
        outcomes=tuple(document["outcomes"]),
        margins={name: float(value) for name, value in document["margins"].items()},
        seed=document["seed"],
    )


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


def _check_intervention(description: dict[str, Any], where: str, first: int, last: int) -> None:
    """Refuse an intervention that does not exist, or that no step of the rollout comes after, before any cell runs."""
    try:
        at = complete(description, where).get(AT)
    except MemauditError as error:
        raise PlanError(error.what, where=where, why=error.why, next_step=error.next_step) from None
    if at is not None and not first <= at < last:
        raise PlanError(
            f"{intervention_name(description)} is not applied between the fork and the last horizon",
            where=where,
            next_step=f"use an {AT} from {first} to {last - 1}",
        )


def _completed(arm: PlannedArm) -> list[dict[str, Any]]:
    """Return an arm's interventions with their defaults filled in, to tell equal arms."""
    return [complete(description, arm.name) for description in arm.do]


def intervention_name(description: dict[str, Any]) -> str:
    """Return an intervention as the command line writes it."""
    arguments = "".join(
        f",{name}={value}" for name, value in sorted(description.items()) if name not in ("source", "do")
    )
    return f"{description['source']}={description['do']}{arguments}"


def _arm(item: dict[str, Any], where: str) -> PlannedArm:
    name = item.get("name") or "+".join(intervention_name(part) for part in item["do"]) or CONTROL
    if not item["do"] and name != CONTROL:
        raise PlanError(f"arm {name!r} changes nothing", where=where, next_step=f"drop it: {CONTROL} is always there")
    if item["do"] and name in (CONTROL, GATE):
        raise PlanError(f"an arm that changes something cannot be called {name!r}", where=where)
    return PlannedArm(name, tuple(item["do"]))


def _value(text: str) -> Any:
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _with_run(plan: Plan, run: str) -> Plan:
    from dataclasses import replace

    return replace(plan, run=run)


def _check_size(text: str, path: Path) -> None:
    """Refuse aliases (they can multiply without end) and more nodes than a plan can need."""
    for count, token in enumerate(yaml.scan(text, Loader=yaml.SafeLoader)):
        if isinstance(token, yaml.AliasToken):
            raise PlanError("a plan has no use for aliases", where=f"{path}:{token.start_mark.line + 1}")
        if count > _MAX_NODES:
            raise PlanError(f"the plan has more than {_MAX_NODES} tokens", where=str(path))


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, refusing a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises
        ------
        yaml.constructor.ConstructorError
            If a key stands twice.
        """
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) or key is None:
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)
