"""Two runs compared: the answer of ``memaudit diff``, as a value and as the document ``diff-1``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.artifact.canonical import encode_float
from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.beside import CENSUS, Row, beside
from auditor.compare.causal_order import COMPUTED
from auditor.compare.cause_classes import CLASSES, causes_of
from auditor.compare.growth import Growth, growth_of
from auditor.compare.order_difference import OrderDifference, Orders
from auditor.compare.program_text import FileDifference, ProgramTexts
from auditor.compare.side import Side
from auditor.compare.situation import Cause, Situation
from auditor.compare.tensors import SourceDifference, TensorDifference
from auditor.compare.walk import Parting, Walk, walk
from auditor.errors import MemauditError
from auditor.evidence.trace_stream import LastStep
from auditor.findings.formats.text import count

FORMAT = "diff-1"
EQUAL, DIFFERENT, NOT_COMPARABLE, INCONCLUSIVE = "equal", "different", "not comparable", "inconclusive"
EXIT_STATUS = {EQUAL: 0, DIFFERENT: 1, NOT_COMPARABLE: 4, INCONCLUSIVE: 4}
_LEFT_OFF = frozenset({"unfinished", "interrupted", "broken"})
_LISTED = 200


@dataclass(frozen=True)
class First:
    """Where the runs part first, as closely as what they recorded can tell."""

    parting: Parting
    difference: SourceDifference | None
    """The source in the nearest anchors of both, at that step or later; None where there are none."""
    sample: OrderDifference | None
    """Where it is the order that parted: the first sample that differs."""
    leaf: str | None = None
    """The first tensor by the digests in the step's own line, where both recorded them."""

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in ``diff-1``."""
        first = self._tensor()
        return {
            "step": self.parting.step,
            "at": self.parting.at,
            "source": self.parting.name,
            "kind": self.parting.kind,
            "tensor": self.leaf or (first.name if first is not None else None),
            "chunk": None if first is None else first.chunk,
            "detail": self._detail(),
            "sample": None
            if self.sample is None
            else {
                "pass": self.sample.pass_,
                "position": self.sample.position,
                "a": self.sample.ids[0],
                "b": self.sample.ids[1],
            },
        }

    def _tensor(self) -> TensorDifference | None:
        """The tensor that is named, as the anchors have it; None where it does not differ in them."""
        tensors = self.difference.tensors if self.difference is not None else ()
        return next((each for each in tensors if self.leaf in (None, each.name)), None)

    def _detail(self) -> dict[str, Any] | None:
        found = self.difference
        if found is None or not (found.tensors or found.values or any(found.only)):
            return None
        first = self._tensor()
        values = first.values if first is not None else None
        return {
            "step": found.step,
            "element": None if first is None or first.element is None else list(first.element),
            "a": None if values is None else encode_float(values[0]),
            "b": None if values is None else encode_float(values[1]),
            "tensors": len(found.tensors),
            "differing": sum(each.differing or 0 for each in found.tensors),
            "elements": sum(each.elements for each in found.tensors),
            "largest": _number(found.largest),
            "relative": _number(found.relative),
            "ulps": found.ulps,
            "values": [{"place": place, "a": a, "b": b} for place, a, b in found.values[:_LISTED]],
        }


@dataclass(frozen=True)
class Comparison:
    """What comparing two runs showed."""

    walk: Walk
    verdict: str
    """``equal``, ``different``, ``not comparable`` or ``inconclusive``."""
    sentence: str
    reasons: tuple[str, ...]
    """Why the runs cannot be compared, or what keeps the answer open."""
    notes: tuple[str, ...]
    """What differs and is no difference of the trainings."""
    first: First | None
    causes: tuple[Cause, ...]
    growth: Growth
    rows: tuple[Row, ...]
    files: tuple[FileDifference, ...]
    refined: dict[str, Any] | None = None
    """What running both programs again showed (:mod:`auditor.replay.refine`), or None."""

    @property
    def exit_status(self) -> int:
        """What ``memaudit diff`` ends with."""
        return EXIT_STATUS[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the ``diff-1`` document."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "comparable": self.verdict != NOT_COMPARABLE,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "runs": {"a": _run(self.walk.a), "b": _run(self.walk.b)},
            "compared": {"equal": self.walk.equal, "steps": self.walk.compared},
            "first": None if self.first is None else {**self.first.to_json(), **self._named_again()},
            "parted": [
                {"source": each.name, "kind": each.kind, "step": each.step, "at": each.at, "steps": each.differs}
                for each in (self.walk.sorted() if self.first is not None else ())
            ],
            "causes": [
                {
                    "class": each.class_,
                    "confidence": each.confidence,
                    "evidence": list(each.evidence),
                    "source": each.source,
                    "step": each.step,
                }
                for each in self.causes
            ],
            "growth": self.growth.to_json(),
            "beside": [{"group": row.group, "name": row.name, "a": row.a, "b": row.b} for row in self.rows],
            "program": [
                {"path": each.path, "change": each.change, "diff": None if each.lines is None else list(each.lines)}
                for each in self.files
            ],
            "refined": self.refined,
        }

    def _named_again(self) -> dict[str, Any]:
        """The tensor and chunk as running both again named them: in that very step, where anchors may be later."""
        again = self.refined["first"] if self.refined is not None else None
        first = self.first.parting if self.first is not None else None
        if again is None or first is None or (again["source"], again["step"]) != (first.name, first.step):
            return {}
        return {"tensor": again["tensor"], "chunk": again["chunk"]}


def compare(a: Path, b: Path) -> Comparison:
    """Compare two run directories; nothing of them is executed.

    Raises
    ------
    NothingToAuditError, InconclusiveError
        If one of them is no run, or its trace cannot be read at all.
    """
    for path in (a, b):
        if not path.is_dir():
            raise MemauditError("no such directory", where=str(path))
    last_step = LastStep()
    one, two = Side(a, last_step), Side(b, last_step)
    walked = walk(one, two)
    anchors = AnchorPairs(one, two)
    rows = beside(one, two, anchors)
    programs = ProgramTexts(one, two)
    files = programs.differences  # read here: a damaged text keeps the answer open too
    reasons = tuple(_incomparable(walked, anchors))
    if reasons:
        sentence = f"The runs cannot be compared: {reasons[0]}."
        return Comparison(walked, NOT_COMPARABLE, sentence, reasons, (), None, (), Growth((), ()), rows, files)
    situation = Situation(walked, anchors, rows, Orders(walked), programs)
    parted = situation.first
    first = None if parted is None else _first(situation, parted)
    growth = growth_of(walked, anchors)
    causes = tuple(causes_of(situation)) if parted is not None else ()
    verdict, open_ = _verdict(walked)
    if parted is None and (one.damage or two.damage):
        verdict = INCONCLUSIVE
        sides = (("A", one), ("B", two))
        open_ = (*open_, *(f"{x}: {path}: {what}" for x, side in sides for path, what in sorted(side.damage.items())))
    return Comparison(
        walked,
        verdict,
        _sentence(walked, verdict, parted, causes, open_),
        open_,
        tuple(_notes(walked, rows)),
        first,
        causes,
        growth,
        rows,
        files,
    )


def _incomparable(walked: Walk, anchors: AnchorPairs) -> list[str]:
    a, b = walked.a, walked.b
    found = [f"{label} has no step" for label, side in (("A", a), ("B", b)) if side.steps == 0]
    models = [{name for name, kind in side.kinds.items() if kind == "params"} for side in (a, b)]
    if all(models) and not models[0] & models[1]:
        names = [", ".join(sorted(each)) for each in models]
        found.append(f"they train different models: {names[0]} in A, {names[1]} in B")
    if found:
        return found
    for name in sorted(models[0] & models[1]):
        pair = next((pair for pair in anchors.pairs.values() if pair.differs(name)), None)
        if pair is None or name not in walked.partings:
            continue
        difference = anchors.compare(pair, name)
        shapes = [] if difference is None else [each for each in difference.tensors if each.shapes is not None]
        if difference is not None and any(difference.only):
            label, only = next((x, y) for x, y in zip(("A", "B"), difference.only, strict=True) if y)
            found.append(f"the models differ: only {label} has {only[0]}" + _more(len(only) - 1))
        elif shapes and shapes[0].shapes is not None:
            one, two = shapes[0].shapes
            found.append(f"the models differ: {shapes[0].name} is {one} in A and {two} in B" + _more(len(shapes) - 1))
    return found


def _more(number: int) -> str:
    return f", and {count(number, 'tensor')} more" if number else ""


def _verdict(walked: Walk) -> tuple[str, tuple[str, ...]]:
    """Return the verdict, and what keeps it open."""
    left = [(label, side) for label, side in (("A", walked.a), ("B", walked.b)) if side.status in _LEFT_OFF]
    told = tuple(
        f"{label} is {side.status}" + (f": {side.trace.problem.message}" if side.trace.problem is not None else "")
        for label, side in left
    )
    only_end = set(walked.partings) <= {"(end)"}
    if not only_end:
        return DIFFERENT, told
    if left:
        return INCONCLUSIVE, told
    return (DIFFERENT if walked.partings else EQUAL), told


def _first(situation: Situation, parted: Parting) -> First:
    anchors, difference, sample = situation.anchors, None, None
    if parted.kind == "ids":
        sample = situation.orders.first_difference()
    elif parted.kind not in ("stream", "batch", "loss", "outcome", "end"):
        pair = anchors.from_parting(parted)
        difference = None if pair is None else anchors.compare(pair, parted.name)
    return First(parted, difference, sample, parted.leaf)


def _sentence(
    walked: Walk, verdict: str, parted: Parting | None, causes: tuple[Cause, ...], open_: tuple[str, ...]
) -> str:
    if verdict == EQUAL:
        return f"The runs are equal in every digest of {count(walked.compared, 'step')}."
    if verdict == INCONCLUSIVE or parted is None:
        return f"The runs are equal in {count(walked.equal, 'step')} that both have; {'; '.join(open_)}."
    if parted.kind == "end":
        short, steps = ("A", walked.a.steps) if walked.a.steps < walked.b.steps else ("B", walked.b.steps)
        return f"The runs are equal until {short} ends after step {steps}."
    where = "before the first step" if parted.step == 0 else f"at step {parted.step}"
    why = f": {CLASSES[causes[0].class_]} ({causes[0].confidence})" if causes else ""
    return f"The runs part {where}, first in {parted.name}{why}."


def _notes(walked: Walk, rows: tuple[Row, ...]) -> list[str]:
    found = [f"{name} differs, and nobody draws from it" for name in walked.idle]
    found += [
        f"{name} is recorded in one run only in some steps, and not compared there" for name in sorted(walked.one_sided)
    ]
    for label, side in (("A", walked.a), ("B", walked.b)):
        if side.end is not None and side.end["status"] == "failed":
            found.append(f"{label} failed: {side.end['error']}")
        found += [f"damage in {label}: {path}: {what}" for path, what in sorted(side.damage.items())]
    computed = [each for each in walked.partings.values() if each.kind in COMPUTED]
    if walked.partings and not computed and set(walked.partings) != {"(end)"}:
        found.append("nothing that is computed parts: parameters, optimizer and outcomes agree in every step of both")
    for label, mine in (("A", 0), ("B", 1)):
        only = [row.name for row in rows if row.group == CENSUS and (row.b, row.a)[mine] is None]
        if only:
            found.append(f"only {label} recorded {', '.join(only[:8])}{' and more' if len(only) > 8 else ''}")
    return found


def _run(side: Side) -> dict[str, Any]:
    manifest = run_directory.MANIFEST
    return {
        "path": str(side.path),
        "status": side.status,
        "steps": side.steps,
        "seed": side.start["seed"],
        "program": side.start["program"]["path"],
        "arguments": side.start["program"]["argv"],
        "manifest": side.inventory.open(manifest).sha256 if manifest in side.inventory else None,
        "head": side.trace.head,
    }


def _number(value: float | None) -> Any:
    return None if value is None else encode_float(value)
