"""What can be done to which kind of memory source: names, arguments, defaults (design, section 5).

Plans, the command line and the cells read one table; the changes themselves stand in ``auditor/interventions``. Other
packages add theirs by an entry point in the group ``memaudit.interventions``, named ``KIND.ACTION``: the names are
known here without importing anything, and their arguments are looked at where they are applied.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from auditor.errors import MemauditError

GROUP = "memaudit.interventions"
AT = "at"
"""The argument that every intervention takes: the step after which it is applied; the fork's if left out."""
AFTER = "after"
"""The same, counted from the fork: plans know it, and cells hold the step that it stands for."""
_WINDOW = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_FROM_FORK = re.compile(r"\+([0-9]{1,20})-\+([0-9]{1,20})")
REQUIRED = object()
"""The default of an argument that has none."""


@dataclass(frozen=True)
class Argument:
    """One argument: one of some words, or a number in a range."""

    default: Any = REQUIRED
    words: tuple[str, ...] = ()
    """What it may be; empty for numbers and texts."""
    low: float | None = None
    """The least number; None for words and texts."""
    high: float | None = None
    whole: bool = False
    """Whether the number is an integer."""
    steps: bool = False
    """Whether it is a range of steps, ``401-420``, or counted from the fork, ``+1-+20``."""

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if self.words:
            return None if value in self.words else f"it is one of {', '.join(self.words)}"
        if self.steps:
            found = window(value) or window(_from_fork(value, 0))
            return None if found is not None else "it is a range of steps such as 401-420, or +1-+20 from the fork"
        if self.low is None:
            return None if isinstance(value, str) and value else "it is a text"
        kind = "a whole number" if self.whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return f"it is {kind}"
        if value < self.low or (self.high is not None and value > self.high):
            return f"it is {kind} from {self.low:g}" + ("" if self.high is None else f" to {self.high:g}")
        return None


@dataclass(frozen=True)
class Declared:
    """One intervention as plans know it."""

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    lasting: bool = False
    """Whether it goes on acting after each step, and does not only change the state once."""
    together: Callable[[Mapping[str, Any]], str | None] | None = None
    """Says what is wrong with ``{source, do, …arguments}`` as a whole, or None; asked once each argument is right."""
    takes_from: str | None = None
    """Whose buffers it takes, after the same step: those of its own ``control``, or of an ``other unit``'s."""


_NUMBER = Argument(None, low=-math.inf)
"""A number that may be left out."""
_SIZE = Argument(None, low=0.0)
"""One that is not negative and may be left out."""
_HOLD = Argument("yes", ("yes", "no"))


def _jitter(given: Mapping[str, Any]) -> str | None:
    if given["how"] == "gaussian":
        return None if given["sigma"] else "how=gaussian needs sigma, the noise's standard deviation, above 0"
    return None if given["sigma"] is None else "sigma goes with how=gaussian"


def _hyper(given: Mapping[str, Any]) -> str | None:
    if sum(given[name] is not None for name in ("value", "half_life", "factor")) != 1:
        return "it needs exactly one of value, half_life and factor"
    if given["half_life"] == 0:
        return "a half-life is above 0"
    return "betas are two; say which by index=0 or index=1" if _is_pair(given) and given["index"] is None else None


def _is_pair(given: Mapping[str, Any]) -> bool:
    return str(given["source"]).endswith(".betas")


def _decay(given: Mapping[str, Any]) -> str | None:
    if (given["value"] is None) == (given["half_life"] is None):
        return "it needs exactly one of value and half_life"
    return "a half-life is above 0" if given["half_life"] == 0 else None


_FOLLOWS = {"student": Argument(None)}
"""The watched module that an average or a teacher follows, where its names and shapes leave it open."""
_DECAY = {"value": Argument(None, low=0, high=1), "half_life": _SIZE, **_FOLLOWS}
_QUEUE = {"of": Argument(None), "axis": Argument(None, low=0, whole=True)}


TABLE: dict[tuple[str, str], Declared] = {
    ("params", "jitter"): Declared({"how": Argument("ulp", ("ulp", "gaussian")), "sigma": _SIZE}, together=_jitter),
    ("optimizer", "reset"): Declared({"how": Argument("clear", ("clear", "zero"))}),
    ("optimizer", "scale"): Declared({"factor": Argument(low=-math.inf)}),
    ("optimizer", "swap"): Declared(takes_from="other unit"),
    ("optimizer", "common"): Declared(takes_from="control"),
    ("hyper", "set"): Declared(
        {
            "value": _NUMBER,
            "half_life": _SIZE,
            "factor": _NUMBER,
            "index": Argument(None, low=0, high=1, whole=True),
            "hold": _HOLD,
        },
        lasting=True,
        together=_hyper,
    ),
    ("scheduler", "reset"): Declared(),
    ("scheduler", "hold"): Declared(lasting=True),
    ("scaler", "reset"): Declared(),
    ("scaler", "hold"): Declared(lasting=True),
    ("stream", "rekey"): Declared(),
    ("bn", "reset"): Declared(),
    ("bn", "freeze"): Declared(lasting=True),
    ("bn", "recalibrate"): Declared({"batches": Argument(1, low=1, whole=True), "probe": Argument(None)}),
    ("ema", "reset"): Declared(_FOLLOWS),
    ("ema", "freeze"): Declared(lasting=True),
    ("ema", "decay"): Declared(_DECAY, lasting=True, together=_decay),
    ("swa", "reset"): Declared(_FOLLOWS),
    ("swa", "freeze"): Declared(lasting=True),
    ("teacher", "resync"): Declared(_FOLLOWS),
    ("teacher", "freeze"): Declared(lasting=True),
    ("teacher", "decay"): Declared(_DECAY, lasting=True, together=_decay),
    ("teacher", "lag"): Declared({"steps": Argument(low=1, whole=True), **_FOLLOWS}, lasting=True),
    ("queue", "flush"): Declared(_QUEUE),
    ("queue", "shuffle"): Declared(_QUEUE),
    ("queue", "age"): Declared({"entries": Argument(low=1, whole=True), **_QUEUE}),
    ("queue", "truncate"): Declared({"length": Argument(low=1, whole=True), **_QUEUE}),
    ("augment", "off"): Declared(lasting=True),
    ("augment", "stage"): Declared({"value": Argument(low=0)}, lasting=True),
    ("augment", "rekey"): Declared(),
    ("order", "swap"): Declared({"first": Argument(steps=True), "second": Argument(steps=True)}),
    ("order", "reverse"): Declared({"window": Argument(steps=True)}),
    ("order", "shuffle"): Declared({"window": Argument(steps=True)}),
    ("order", "policy"): Declared({"kind": Argument(words=("reshuffling", "replacement", "fixed", "sequential"))}),
}


def kind_of(source: str) -> str:
    """Return the kind that a source's name begins with: ``optimizer`` of ``optimizer[critic].exp_avg``."""
    return source.partition(".")[0].partition("[")[0]


def takes_from(description: Mapping[str, Any]) -> str | None:
    """Return whose buffers an intervention takes: ``control``, ``other unit``, or None."""
    declared = TABLE.get((kind_of(description["source"]), description["do"]))
    return None if declared is None else declared.takes_from


@cache
def external() -> dict[tuple[str, str], metadata.EntryPoint]:
    """Return what other packages add, by kind and action; what is built in cannot be replaced."""
    found: dict[tuple[str, str], metadata.EntryPoint] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        kind, dot, action = point.name.partition(".")
        if dot and (kind, action) not in TABLE:
            found.setdefault((kind, action), point)
    return found


def known() -> list[tuple[str, str]]:
    """Return every kind and action there is, sorted."""
    return sorted({*TABLE, *external()})


def complete(description: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return an intervention, ``{source, do, …arguments}``, with its defaults filled in.

    Raises
    ------
    MemauditError
        If there is none for this source and action, or an argument is not one of its own.
    """
    source, action = description["source"], description["do"]
    key = kind_of(source), action
    given = {name: value for name, value in description.items() if name not in ("source", "do")}
    when = {name: given.pop(name) for name in (AT, AFTER) if given.get(name) is not None}
    for name, value in when.items():
        problem = Argument(None, low=0, whole=True).problem(value)
        if problem is not None:
            raise MemauditError(f"{name}={value} of {source}={action}: {problem}", where=where)
    if len(when) == 2:
        raise MemauditError(f"{source}={action} has both {AT} and {AFTER}", where=where, next_step="keep one of them")
    declared = TABLE.get(key)
    if declared is not None:
        given = {name: _word(value, declared.arguments.get(name)) for name, value in given.items()}
    if declared is None:
        if key in external():
            return {"source": source, "do": action, **given, **when}
        actions = [f"{kind}={name}" for kind, name in known()]
        raise MemauditError(
            f"there is no intervention {action!r} on {source!r}",
            where=where,
            next_step=f"there are: {', '.join(actions)}, also on one slot (optimizer.momentum_buffer=reset)",
        )
    for name, value in given.items():
        argument = declared.arguments.get(name)
        problem = "it takes no such argument" if argument is None else argument.problem(value)
        if problem is not None:
            takes = ", ".join(declared.arguments) or "none"
            raise MemauditError(
                f"{name}={value} of {source}={action}: {problem}", where=where, next_step=f"its arguments: {takes}"
            )
    filled = {name: given.get(name, each.default) for name, each in declared.arguments.items()}
    missing = [name for name, value in filled.items() if value is REQUIRED]
    if missing:
        raise MemauditError(
            f"{source}={action} needs {missing[0]}",
            where=where,
            next_step=f"{source}={action},{missing[0]}=…",
        )
    completed = {"source": source, "do": action, **filled}
    problem = None if declared.together is None else declared.together(completed)
    if problem is not None:
        raise MemauditError(f"{source}={action}: {problem}", where=where)
    return {**completed, **when}


def at_fork(description: Mapping[str, Any], fork: int) -> dict[str, Any]:
    """Return an intervention whose steps are counted from the fork (``after=5``, ``+1-+20``) with the run's steps."""
    found = {name: _from_fork(value, fork) for name, value in description.items() if name != AFTER}
    return found if description.get(AFTER) is None else {**found, AT: fork + description[AFTER]}


def _from_fork(value: Any, fork: int) -> Any:
    found = _FROM_FORK.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else f"{fork + int(found[1])}-{fork + int(found[2])}"


def _word(value: Any, argument: Argument | None) -> Any:
    """Return the words yes and no where YAML read them as true and false."""
    return ("no", "yes")[value] if isinstance(value, bool) and argument and argument.words == _HOLD.words else value


def window(value: Any) -> tuple[int, int] | None:
    """Return the first and last step of ``401-420``, or None for anything else."""
    found = _WINDOW.fullmatch(str(value))
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    return (first, last) if 1 <= first <= last else None
