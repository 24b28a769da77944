"""Anchors: whether the state they hold is the state the trace speaks of, tensor by tensor, and whole by the census."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from auditor.artifact.digest import digest_text, source_digest, tensor_digest
from auditor.artifact.run_directory import TENSORS, TRACE, VALUES
from auditor.artifact.safetensors_file import StoredTensor
from auditor.errors import MemauditError
from auditor.evidence.checks.formats import anchor_tensors
from auditor.evidence.checks.sequence import not_stored
from auditor.evidence.examination import RUN, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

_STREAM = "stream."
_RESUME = "resume"
"""What stands before the tensors that belong to no source: passes in progress, gradients."""


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield every difference between an anchor, its events and the census in force."""
    if examined.kind != RUN or examined.trace.problems:
        return
    yield from _not_stored(examined)
    kept = {record.event["seq"] for record in examined.history.anchors if record.is_kept}
    anchors = faults = readable = 0
    for event, census, leaves in in_context(examined.trace.events):
        for fault in _check_census(event, census):
            faults += 1
            yield fault
        if event["seq"] not in kept:
            continue
        anchors += 1
        found = state_faults(examined, event, leaves)
        readable += found is not None
        for fault in found or ():
            faults += 1
            yield fault
    if anchors and not faults and readable == anchors:
        yield Claim(
            "the state in each anchor has the digests that the trace gives it",
            examined.attested,
            TRACE,
            f"{count(anchors, 'anchor')}, XXH3 recomputed: it locates differences and is no proof against a forger",
        )


def in_context(events: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yield each anchor event with the census in force and the leaves of the step before it."""
    census: dict[str, Any] = {"sources": [], "streams": []}
    leaves: dict[str, dict[str, str]] = {}
    for event in events:
        match event["event"]:
            case "census":
                census = event
            case "step":
                leaves = event.get("leaves", {})
            case "resume":
                leaves = {}
            case "anchor":
                yield event, census, leaves


def state_faults(
    examined: Examination, event: dict[str, Any], leaves: dict[str, dict[str, str]]
) -> list[Finding] | None:
    """Return where an anchor's files differ from its event; None where they are not there or break their format."""
    tensors = anchor_tensors(examined, f"{event['path']}/{TENSORS}")
    values = examined.document(f"{event['path']}/{VALUES}", "anchor-values")
    if isinstance(tensors, MemauditError) or isinstance(values, MemauditError):
        return None
    return [*_check_values(event, values), *_check_state(examined, event, tensors, values, leaves)]


def _not_stored(examined: Examination) -> Iterator[Finding]:
    """Yield the anchors that were never on the disk, whole: a run that ended by itself has none."""
    end = examined.trace.end
    ended = end is not None and end["status"] != "interrupted"
    for record in not_stored(examined.history):
        event = record.event
        message = f"the anchor at step {event['step']} was taken, and the trace does not say that it was stored"
        where = f"{TRACE}#/{event['seq']}"
        if ended:
            yield NOT_STORED.finding(where, message)
        else:
            yield NOT_STORED.finding(where, message, level=Level.NOTE, evidence=Evidence.INCONCLUSIVE)


def _check_census(event: dict[str, Any], census: dict[str, Any]) -> Iterator[Finding]:
    for kind in ("sources", "streams"):
        # What could not be captured is in the census, so that it is known, and in no anchor.
        listed = {entry["name"] for entry in census[kind] if entry.get("captured", True)}
        held = set(event[kind])
        for name in sorted(listed - held):
            message = f"the anchor at step {event['step']} lacks {name}, which the census lists"
            yield NOT_WHOLE.finding(event["path"], message, evidence=Evidence.MISSING)
        for name in sorted(held - listed):
            message = f"the anchor at step {event['step']} holds {name}, which the census does not list"
            yield NOT_WHOLE.finding(event["path"], message)


def _check_values(event: dict[str, Any], values: dict[str, Any]) -> Iterator[Finding]:
    where = f"{event['path']}/{VALUES}"
    for name in ("step", "pass", "epoch", "position", "at", "enter"):
        if values[name] != event[name]:
            yield OTHER_PLACE.finding(
                f"{where}#/{name}",
                f"the anchor gives another {name} than the trace",
                expected=str(event[name]),
                found=str(values[name]),
            )
    for kind in ("sources", "streams"):
        if set(values[kind]) != set(event[kind]):
            yield OTHER_PLACE.finding(f"{where}#/{kind}", f"the anchor holds other {kind} than the trace says")


def _check_state(
    examined: Examination,
    event: dict[str, Any],
    tensors: dict[str, StoredTensor],
    values: dict[str, Any],
    leaves: dict[str, dict[str, str]],
) -> Iterator[Finding]:
    grouped: dict[str, dict[str, bytes]] = {}
    for full, tensor in tensors.items():
        owner, _, path = full.partition("/")
        if owner != _RESUME:
            grouped.setdefault(owner, {})[path] = tensor_digest(path, tensor.dtype, tensor.shape, tensor.data)
    known = set(event["sources"]) | {_STREAM + name for name in event["streams"]}
    for owner in sorted(set(grouped) - known):
        yield NOT_WHOLE.finding(
            f"{event['path']}/{TENSORS}", f"the anchor holds tensors of {owner}, which is no source of it"
        )
    for kind, prefix in (("sources", ""), ("streams", _STREAM)):
        for name, recorded in event[kind].items():
            if name not in values[kind]:
                continue
            held = grouped.get(prefix + name, {})
            found = digest_text(source_digest(held, values[kind][name]))
            if found != recorded:
                place, expected, got = _locate(name, held, leaves.get(name) if kind == "sources" else None)
                yield OTHER_STATE.finding(
                    event["path"],
                    f"{prefix}{name}{place} differs from the trace at step {event['step']}",
                    hint=_hint(examined, event),
                    expected=expected or recorded,
                    found=got or found,
                )


def _locate(name: str, held: dict[str, bytes], leaves: dict[str, str] | None) -> tuple[str, str | None, str | None]:
    """Return the first tensor that differs from the step's leaves, where the trace has them."""
    for path, recorded in sorted((leaves or {}).items()):
        found = digest_text(held[path]) if path in held else None
        if found != recorded:
            return f"[{path}]", recorded, found or "no such tensor"
    return "", None, None


def _hint(examined: Examination, event: dict[str, Any]) -> str:
    before = [each["step"] for each in examined.trace.of("anchor") if each["step"] < event["step"]]
    if not before:
        return "memaudit rule MA302"
    return f"memaudit replay {examined.label} --at {before[-1]} --horizon {event['step'] - before[-1]}"


NOT_WHOLE = register(
    Rule(
        "MA301",
        "an anchor is not what the census lists",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each anchor holds every source that could be captured and every stream of the census in force, and nothing "
        "else.",
        "A run continued from an anchor that lacks a memory source is another run.",
        "Watch every object that keeps state: `run.watch(name=object)`, then record again.",
        "run",
        check,
    )
)
OTHER_STATE = register(
    Rule(
        "MA302",
        "an anchor's tensors differ from the trace",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The digests recomputed from an anchor's tensors and values equal those in its event.",
        "The checkpoint is not of the training that the trace describes.",
        "Replay from the anchor before it to see which of the two is right.",
        "run",
        check,
    )
)
OTHER_PLACE = register(
    Rule(
        "MA303",
        "an anchor says another moment than the trace",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Step, pass, epoch, position, sources and streams are the same in values.json and in the anchor's event.",
        "A checkpoint of another moment would be restored at this one.",
        "Get the anchor again as it was recorded.",
        "run",
        check,
    )
)
NOT_STORED = register(
    Rule(
        "MA304",
        "an anchor was taken and not stored",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.MISSING,
        "Each anchor event is followed by a stored event, which names its files. In a run that was cut off, the last "
        "anchor may lack it.",
        "A recorder that ends by itself waits for its anchors; one that is missing was taken out.",
        "Get the trace again as it was recorded.",
        "run",
        check,
    )
)
