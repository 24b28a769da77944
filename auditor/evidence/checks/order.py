"""Data order: the sample ids that were kept against each step's digest, and against what the sampler promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.artifact.order_file import Ids
from auditor.artifact.run_directory import MANIFEST, TRACE, order_part
from auditor.artifact.windows import multiset, window_multisets
from auditor.errors import MemauditError
from auditor.evidence.checks.formats import order_ids
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.order_part import Agreement, agreements, part_ids
from auditor.evidence.order_walk import Kept, OrderWalk, batch_size_of
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield contradictions between order files, step digests and contracts, and what was confirmed."""
    if examined.kind != RUN or examined.trace.problems:
        return
    passes = [event for event in examined.history.timeline if event["event"] == "pass"]
    contracts = faults = 0
    for event in examined.trace.of("pass"):
        ids = _ids_of(examined, event)
        if ids is None:
            continue
        found = [*_check_counts(event, ids)]
        if event["seq"] not in examined.history.void:
            found += _check_contract(event, ids)
            contracts += _has_contract(event) and not _is_uneven(event)
        faults += len(found)
        yield from found
    hashed = [event for event in passes if event["file"] is None and event["samples"] is not None]
    if hashed:
        message = (
            f"{count(len(hashed), 'pass', 'passes')} kept only hashes of their sample ids; their contract "
            "cannot be checked"
        )
        yield HASH_ONLY.finding(f"{TRACE}#/{hashed[0]['seq']}", message)
    kept = kept_ids(examined)
    walk = OrderWalk(kept)
    confirmed = with_ids = 0
    for step in (event for event in examined.history.timeline if event["event"] == "step"):
        with_ids += step["ids"] is not None
        outcome = walk.advance(step)
        confirmed += outcome is True
        if outcome is False:
            faults += 1
            yield OTHER_IDS.finding(f"{TRACE}#/{step['seq']}/ids", _other(step, passes), expected=step["ids"])
    for event in passes:
        if "resumed" in event and event["pass"] in kept:
            for fault in _check_resumed(event, kept[event["pass"]].ids, walk):
                faults += 1
                yield fault
    for fault in _check_parts(examined):
        faults += 1
        yield fault
    if kept and not faults:
        yield Claim(
            "the sample ids kept are those each step says it consumed",
            examined.attested,
            "order",
            f"{count(confirmed, 'step')} of {with_ids} with ids, digests recomputed",
        )
        if contracts:
            yield Claim(
                "the order keeps its sampler's contract",
                Evidence.PROVED,
                "order",
                f"{count(contracts, 'pass', 'passes')}: no id twice where there is no replacement, "
                "none missing, none out of range",
            )


def kept_ids(examined: Examination) -> dict[int, Kept]:
    """Return what was kept of the sample ids of each pass that counts."""
    kept: dict[int, Kept] = {}
    for event in examined.history.timeline:
        ids = _ids_of(examined, event) if event["event"] == "pass" else None
        if ids is not None:
            kept[event["pass"]] = Kept.of(event, ids)
    return kept


def part_agreements(examined: Examination) -> dict[int, Agreement]:
    """Return how far the log of each pass in progress agrees with the steps; only an unfinished run has logs."""
    parts: dict[int, Ids] = {}
    for number in sorted(examined.history.open):
        path = order_part(number)
        opened = examined.opened(path) if path in examined.inventory else None
        if opened is not None:
            parts[number] = part_ids(opened.data)
    return agreements(examined.history, parts, kept_ids(examined)) if parts else {}


def _other(step: dict[str, Any], passes: list[dict[str, Any]]) -> str:
    numbers = {step["pass"], *(number for number, _ in step.get("also", ()))}
    files = sorted(str(event["file"]) for event in passes if event["pass"] in numbers and event["file"] is not None)
    return f"the sample ids of step {step['step']} are not those of {' and '.join(files)}"


def _ids_of(examined: Examination, event: dict[str, Any]) -> Ids | None:
    if event["file"] is None or event["file"] not in examined.inventory:
        return None
    ids = order_ids(examined, event["file"])
    return None if isinstance(ids, MemauditError) else ids


def _check_counts(event: dict[str, Any], ids: Ids) -> Iterator[Finding]:
    where = f"{TRACE}#/{event['seq']}"
    if event["samples"] is not None and event["samples"] != ids.size:
        yield COUNTS.finding(
            f"{where}/samples",
            f"pass {event['pass']} counts other samples than its order file holds",
            expected=str(event["samples"]),
            found=str(ids.size),
        )
    if event["multiset"] is not None:
        found = multiset(ids.astype(np.int64))
        if found != event["multiset"]:
            yield COUNTS.finding(
                f"{where}/multiset",
                f"pass {event['pass']} names another multiset of ids",
                expected=event["multiset"],
                found=found,
            )
    yield from _check_windows(event, ids, where)


def _check_windows(event: dict[str, Any], ids: Ids, where: str) -> Iterator[Finding]:
    told = event["windows"]
    if told is None:
        return
    batches, size = int(event["batches"]), batch_size_of(event, ids)
    if size is not None:
        lengths = [min(size, int(ids.size) - begin) for begin in range(0, int(ids.size), size)]
        length, multisets = window_multisets(ids.astype(np.int64), lengths)
    elif 0 < batches <= told["batches"]:
        # One window, whatever the batches' sizes.
        length, multisets = window_multisets(ids.astype(np.int64), [int(ids.size)])
    else:
        return
    if told["batches"] != length or len(told["multisets"]) != len(multisets):
        yield COUNTS.finding(
            f"{where}/windows",
            f"pass {event['pass']} is cut into other windows than its batches give",
            expected=f"{len(told['multisets'])} of {told['batches']} batches",
            found=f"{len(multisets)} of {length} batches",
        )
        return
    for index, (expected, found) in enumerate(zip(told["multisets"], multisets, strict=True)):
        if expected != found:
            message = f"window {index + 1} of pass {event['pass']} names another multiset of ids"
            yield COUNTS.finding(f"{where}/windows/multisets/{index}", message, expected=expected, found=found)


def _check_resumed(event: dict[str, Any], ids: Ids, walk: OrderWalk) -> Iterator[Finding]:
    """Count anew what a pass that went on after a cut repeated and skipped."""
    told, policy = event["resumed"], event["policy"]
    before = walk.ends.get(event["pass"], {}).get(told["position"])
    if before is None and policy is not None and policy["batch_size"] is not None and policy["kind"] != "batches":
        before = int(policy["batch_size"]) * int(told["position"])
    if before is None or before > ids.size:
        return
    found = {"repeated": int(np.isin(ids[before:], ids[:before]).sum())}
    if policy is not None and policy["length"] is not None:
        found["skipped"] = int(policy["length"]) - int(np.unique(ids).size)
    for name, number in found.items():
        if told[name] not in (None, number):
            yield COUNTS.finding(
                f"{TRACE}#/{event['seq']}/resumed/{name}",
                f"pass {event['pass']} counts other samples as {name} after the cut than its order file shows",
                expected=str(told[name]),
                found=str(number),
            )


def _check_parts(examined: Examination) -> Iterator[Finding]:
    """Check the logs of passes in progress; only an unfinished run has them."""
    if MANIFEST in examined.inventory:
        return
    for number, agreement in part_agreements(examined).items():
        if agreement.contradicted:
            message = f"the sample ids logged of pass {number} are not those its steps consumed"
            yield OTHER_IDS.finding(order_part(number), message)


def _has_contract(event: dict[str, Any]) -> bool:
    policy = event["policy"]
    return (
        policy is not None
        and policy["kind"] in ("shuffled", "sequential", "replacement")
        and policy["length"] is not None
    )


def _is_uneven(event: dict[str, Any]) -> bool:
    """Whether a pass says itself that after a cut it repeated or skipped samples, or does not know."""
    resumed = event.get("resumed", {"repeated": 0, "skipped": 0})
    return resumed["repeated"] != 0 or resumed["skipped"] not in (0, None)


def _check_contract(event: dict[str, Any], ids: Ids) -> Iterator[Finding]:
    """Check ids against their policy. What an own sampler promises is unknown, so only stock policies are checked."""
    if not _has_contract(event):
        return
    policy, where, number = event["policy"], str(event["file"]), event["pass"]
    length = int(policy["length"])
    beyond = ids[ids >= length]
    if beyond.size:
        message = f"pass {number} holds ids outside the data set"
        yield CONTRACT.finding(where, message, expected=f"0 to {length - 1}", found=str(int(beyond[0])))
    if policy["replacement"] or policy["kind"] == "replacement" or _is_uneven(event):
        return
    values, counts = np.unique(ids, return_counts=True)
    twice = values[counts > 1]
    if twice.size:
        message = f"pass {number} draws {count(int(twice.size), 'id')} more than once, without replacement"
        yield CONTRACT.finding(
            where, message, expected="each id at most once", found=f"id {int(twice[0])} twice or more"
        )
    if event["complete"] and not policy["drop_last"] and values.size < length:
        message = f"pass {number} is complete and lacks {count(length - int(values.size), 'id')}"
        yield CONTRACT.finding(where, message, expected=f"{length} different ids", found=f"{int(values.size)}")
    if policy["kind"] == "sequential" and ids.size and not np.array_equal(ids, np.arange(ids.size, dtype=ids.dtype)):
        yield CONTRACT.finding(where, f"pass {number} is sequential by its policy, and its ids are not")


OTHER_IDS = register(
    Rule(
        "MA201",
        "an order file differs from the steps",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The slice of the order file that each step consumed has the digest in the step's event; where a step took "
        "batches of several passes, the slices one after the other.",
        "The ids shown are not those the training was fed.",
        "Get the order file again as it was recorded.",
        "run",
        check,
    )
)
CONTRACT = register(
    Rule(
        "MA202",
        "the order breaks its sampler's contract",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Without replacement each id comes at most once a pass, and exactly once in a complete pass "
        "that drops no batch; "
        "every id is within the data set; a sequential order is sequential.",
        "Samples seen twice or never change the result, and a paper's 'one epoch' then means something else.",
        "Find what changed the sampler, or declare the policy that was used; then record again.",
        "run",
        check,
    )
)
COUNTS = register(
    Rule(
        "MA203",
        "a pass counts other samples than it kept",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Number, multiset and windows of a pass's ids are those of its order file, and so is what it repeated and "
        "skipped after a cut.",
        "The summary of the pass is not of these ids.",
        "Get the order file again as it was recorded.",
        "run",
        check,
    )
)
HASH_ONLY = register(
    Rule(
        "MA204",
        "the sample ids were not kept",
        Level.NOTE,
        Confidence.CERTAIN,
        Evidence.MISSING,
        "Order files are there for every pass whose ids are known.",
        "From hashes alone nobody can tell whether each sample came once.",
        "Record with `--order ids` where the ids may be shown.",
        "run",
        check,
    )
)
