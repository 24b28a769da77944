"""What differs beside the steps: numerics class, program, data, contract, census, hyper-parameters, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.side import Event, Side

NUMERICS, PROGRAM, DATA, CONTRACT, CENSUS, HYPER = "numerics", "program", "data", "contract", "census", "hyper"
GROUPS = (NUMERICS, PROGRAM, DATA, CONTRACT, CENSUS, HYPER)


@dataclass(frozen=True)
class Row:
    """One thing that differs."""

    group: str
    """``numerics``, ``program``, ``data``, ``contract``, ``census`` or ``hyper``."""
    name: str
    a: Any
    b: Any
    """What A and B have, as canonical JSON; None where one has none."""
    since: int = field(default=0, kw_only=True)
    """The step from which on it differs; 0: from the beginning."""


def beside(a: Side, b: Side, anchors: AnchorPairs) -> tuple[Row, ...]:
    """Return what differs, group by group; equal things are left out. Both traces were gone through before."""
    known = all([a.environment, b.environment])  # both are read: what is damaged is noted
    return (
        *(_rows(NUMERICS, a.environment["numerics"], b.environment["numerics"]) if known else ()),
        *(_libraries(a, b) if known else ()),
        *(_after_cuts(a, b) if known else ()),
        *_program(a, b),
        *_data(a, b),
        *_contract(a, b),
        *_census(a, b),
        *_hyper(anchors),
    )


def _rows(group: str, a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[Row]:
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield Row(group, f"{prefix}{name}", a.get(name), b.get(name))


def _after_cuts(a: Side, b: Side) -> Iterator[Row]:
    """What a run went on with after a cut, where the other one did all along with something else."""
    for label, side, other in (("A", a, b), ("B", b, a)):
        for step, environment in side.environments_after_cuts():
            for group, mine, others in (
                (NUMERICS, environment["numerics"], other.environment["numerics"]),
                (PROGRAM, arguments(environment["program"]["argv"]), arguments(other.start["program"]["argv"])),
                (PROGRAM, environment["program"]["modules"], other.environment["program"]["modules"]),
            ):
                prefix = (
                    "" if group == NUMERICS else "module " if mine is environment["program"]["modules"] else "argument "
                )
                pair = (mine, others) if label == "A" else (others, mine)
                for row in _rows(group, *pair, prefix):
                    yield Row(group, f"{row.name} ({label} from step {step + 1} on)", row.a, row.b, since=step + 1)


def _libraries(a: Side, b: Side) -> Iterator[Row]:
    """Packages and Python: not in the numerics class, and known to change what is drawn and computed."""
    versions = [side.environment.get("python", {}).get("version") for side in (a, b)]
    yield from _rows(NUMERICS, {"python": versions[0]}, {"python": versions[1]})
    yield from _rows(NUMERICS, a.environment.get("flags", {}), b.environment.get("flags", {}))
    yield from _rows(NUMERICS, a.environment.get("packages", {}), b.environment.get("packages", {}), "package ")


def _program(a: Side, b: Side) -> Iterator[Row]:
    yield from _rows(PROGRAM, {"seed": a.start["seed"]}, {"seed": b.start["seed"]})
    one, two = a.start["program"], b.start["program"]
    yield from _rows(PROGRAM, _file(one), _file(two))
    yield from _rows(PROGRAM, arguments(one["argv"]), arguments(two["argv"]), "argument ")
    if a.environment and b.environment:
        modules = [side.environment["program"]["modules"] for side in (a, b)]
        yield from _rows(PROGRAM, modules[0], modules[1], "module ")
        git = [side.environment["git"] or {} for side in (a, b)]
        yield from _rows(PROGRAM, git[0], git[1], "git ")


def _file(program: Mapping[str, Any]) -> dict[str, Any]:
    name = None if program["path"] is None else program["path"].replace("\\", "/").rpartition("/")[2]
    return {"file": name, "sha256": program["sha256"]}


def arguments(argv: list[str]) -> dict[str, str]:
    """Return a command line's options by name: ``--lr 0.1`` and ``--lr=0.1`` alike; what stands alone by its place."""
    found: dict[str, str] = {}
    name, alone = None, 0
    for word in argv:
        if word.startswith("-") and len(word) > 1 and not _is_number(word):
            name, equals, value = word.partition("=")
            found[name] = value if equals else ""
            name = None if equals else name
        elif name is not None:
            found[name] = f"{found[name]} {word}".strip()
        else:
            alone += 1
            found[f"#{alone}"] = word
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def loaders(side: Side) -> dict[int, Event]:
    """Return the first ``iter`` event of each loader of a run, by its number."""
    found: dict[int, Event] = {}
    for event in side.history.timeline:
        if event["event"] == "iter" and event["loader"] is not None:
            found.setdefault(event["loader"], event)
    return found


def _data(a: Side, b: Side) -> Iterator[Row]:
    one, two = loaders(a), loaders(b)
    for number in sorted(one.keys() | two.keys()):
        name = "loader" if number == 1 else f"loader[{number}]"
        events = one.get(number), two.get(number)
        if None in events:
            yield Row(DATA, name, *("there" if event else None for event in events))
            continue
        policies = [(event or {}).get("policy") or {} for event in events]
        yield from _rows(DATA, policies[0], policies[1], f"{name} ")
        workers = [(event or {}).get("workers") or {"count": 0} for event in events]
        yield from _rows(DATA, workers[0], workers[1], f"{name} workers ")
    for name in sorted(a.probes.keys() & b.probes.keys()):
        yield from _rows(DATA, a.probes[name], b.probes[name], f"probe {name} ")


def _contract(a: Side, b: Side) -> Iterator[Row]:
    one, two = ({entry["name"]: entry for entry in side.census["streams"]} for side in (a, b))
    for name in sorted(one.keys() | two.keys()):
        if name not in one or name not in two:
            yield Row(CONTRACT, f"stream.{name}", *("there" if name in each else None for each in (one, two)))
            continue
        for member in ("seeded_by", "consumers"):
            if one[name][member] != two[name][member]:
                yield Row(CONTRACT, f"stream.{name} {member}", one[name][member], two[name][member])


def _census(a: Side, b: Side) -> Iterator[Row]:
    one, two = ({entry["name"]: entry for entry in side.census["sources"]} for side in (a, b))
    for name in sorted(a.kinds.keys() | b.kinds.keys()):
        if name not in a.kinds or name not in b.kinds:
            yield Row(CENSUS, name, *("there" if name in side.kinds else None for side in (a, b)))
        elif name in one and name in two and one[name]["half_life"] != two[name]["half_life"]:
            yield Row(CENSUS, f"{name} half-life", one[name]["half_life"], two[name]["half_life"])


def _hyper(anchors: AnchorPairs) -> Iterator[Row]:
    """The hyper-parameters before the first step, group by group; later ones stand in the trace."""
    pair = anchors.pairs.get(0)
    if pair is None:
        return
    for name in sorted(pair.a.event["sources"].keys() & pair.b.event["sources"].keys()):
        if name.startswith(("hyper.", "hyper[")) and pair.differs(name):
            found = anchors.compare(pair, name)
            for place, one, two in () if found is None else found.values:
                yield Row(HYPER, f"{name}{place if place.startswith('[') else '.' + place if place else ''}", one, two)
