"""Cuts: where a run was interrupted and went on, what was done again, and whether it came out the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from auditor.artifact.run_directory import ENVIRONMENT, TRACE
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.history import Cut
from auditor.evidence.run_view import Step, resolve_steps
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield each cut, and how the steps that were done again compare with the first time."""
    if examined.kind != RUN or examined.trace.problems or not examined.history.cuts:
        return
    history = examined.history
    by_seq = {step.seq: step for step in resolve_steps(examined.trace.events)}
    begins = [cut.event["seq"] for cut in history.cuts]
    for cut, (begin, end) in zip(history.cuts, pairwise([*begins, examined.trace.lines + 1]), strict=True):
        yield RESUMED.finding(f"{TRACE}#/{begin}", _sentence(examined, cut, end))
        if cut.anchor is None or cut.problem is not None:
            continue
        first = {event["step"]: by_seq[event["seq"]] for event in cut.steps}
        again = [(first[step.step], step) for step in by_seq.values() if begin < step.seq < end and step.step in first]
        different = [(old, new, name) for old, new in again for name in [_difference(old, new)] if name is not None]
        if different:
            old, new, name = different[0]
            same = _same_numerics(examined, cut)
            message = (
                f"{count(len(different), 'step')} of {len(again)} done again after the cut at step {cut.event['step']} "
                f"came out otherwise, the first one {old.step}, in {name}"
            )
            yield NOT_REPEATABLE.finding(
                f"{TRACE}#/{new.seq}",
                message if same else f"{message}; it went on in another numerics class",
                level=None if same else Level.NOTE,
            )
        elif again:
            yield Claim(
                "the steps done again after a cut came out the same",
                examined.attested,
                f"{TRACE}#/{begin}",
                f"{len(again)} of {count(len(cut.steps), 'step')} abandoned at the cut, equal in every digest",
            )


def _sentence(examined: Examination, cut: Cut, end: int) -> str:
    event = cut.event
    parts = [f"the run was cut and went on after step {event['step']}"]
    if event["from"] is None:
        parts.append("from a checkpoint of the program's own, which nobody here knows")
    else:
        parts.append(f"from {event['from']}")
    told = [", ".join(parts)]
    told.append(
        f"{count(event['abandoned'], 'step')} taken before the cut {_were(event['abandoned'])} void"
        if event["abandoned"]
        else "no step was lost"
    )
    if event["environment"] is not None:
        told.append(f"it went on in the environment of {event['environment']['file']}")
    for each in examined.history.timeline:
        if each["event"] == "pass" and "resumed" in each and event["seq"] < each["seq"] < end:
            told.append(f"in pass {each['pass']} {_samples(each['resumed'])}")
    return "; ".join(told)


def _samples(resumed: dict[str, int | None]) -> str:
    words = []
    for name in ("repeated", "skipped"):
        number = resumed[name]
        if number is None:
            words.append(f"it is unknown how many samples were {name}")
        else:
            words.append(f"{count(number, 'sample')} {_were(number)} {name}")
    return " and ".join(words)


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _same_numerics(examined: Examination, cut: Cut) -> bool:
    environment = cut.event["environment"]
    if environment is None:
        return True
    one, two = (examined.document(name, "environment") for name in (ENVIRONMENT, environment["file"]))
    return isinstance(one, dict) and isinstance(two, dict) and one["numerics"] == two["numerics"]


def _difference(old: Step, new: Step) -> str | None:
    """Return in what a step differs from the same step before; what only one of them has a digest of does not count."""
    pairs = [("the sample ids", old.ids, new.ids), ("the batch", old.batch, new.batch)]
    pairs += [(f"stream.{name}", digest, new.streams.get(name)) for name, digest in old.streams.items()]
    pairs += [(name, digest, new.sources.get(name)) for name, digest in old.sources.items()]
    return next((name for name, one, two in pairs if None not in (one, two) and one != two), None)


RESUMED = register(
    Rule(
        "MA823",
        "the run was cut and went on",
        Level.NOTE,
        Confidence.CERTAIN,
        Evidence.ATTESTED,
        "The trace has no resume event.",
        "Steps were done twice, and where the program came back to a checkpoint of its own, samples may have been "
        "seen twice or never, and streams may stand elsewhere.",
        "Nothing to mend; say in the paper that the run was resumed, and from what.",
        "run",
        check,
    )
)
NOT_REPEATABLE = register(
    Rule(
        "MA824",
        "a resumed training did not repeat itself",
        Level.WARNING,
        Confidence.CERTAIN,
        Evidence.ATTESTED,
        "Steps done again from an anchor have the digests that they had before the cut.",
        "An anchor holds all that training remembers. Where the same steps come out otherwise, the training has a "
        "memory that nobody watched, or is not deterministic; a replay will not reproduce it either.",
        "Find the first difference with `memaudit replay RUN --at STEP`, and make the training deterministic or watch "
        "what is missing.",
        "run",
        check,
    )
)
