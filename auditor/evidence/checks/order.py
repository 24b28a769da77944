"""Data order: the sample ids that were kept against each step's digest, and against what the sampler promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.artifact.digest import array_digest, digest_text
from auditor.artifact.order_file import Ids
from auditor.artifact.run_directory import TRACE
from auditor.errors import MemauditError
from auditor.evidence.checks.formats import order_ids
from auditor.evidence.examination import RUN, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

_SEARCHED_IDS = 4096
"""Where the batch size is unknown, a step's ids are looked for up to this many."""


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield contradictions between order files, step digests and contracts, and what was confirmed."""
    if examined.kind != RUN or examined.trace.problems:
        return
    passes = examined.trace.of("pass")
    kept: dict[int, Ids] = {}
    contracts = faults = 0
    for event in passes:
        ids = _ids_of(examined, event)
        if ids is None:
            continue
        kept[event["pass"]] = ids
        found = [*_check_counts(event, ids), *_check_contract(event, ids)]
        contracts += _has_contract(event)
        faults += len(found)
        yield from found
    hashed = [event for event in passes if event["file"] is None and event["samples"] is not None]
    if hashed:
        message = (
            f"{count(len(hashed), 'pass', 'passes')} kept only hashes of their sample ids; their contract "
            "cannot be checked"
        )
        yield HASH_ONLY.finding(f"{TRACE}#/{hashed[0]['seq']}", message)
    confirmed, steps = 0, [event for event in examined.trace.of("step") if event["ids"] is not None]
    walk = _Walk(kept, {event["pass"]: event for event in passes})
    for step in steps:
        outcome = walk.advance(step)
        if outcome is True:
            confirmed += 1
        elif outcome is False:
            faults += 1
            file = walk.events[step["pass"]]["file"]
            message = f"the sample ids of step {step['step']} are not those of {file}"
            yield OTHER_IDS.finding(f"{TRACE}#/{step['seq']}/ids", message, expected=step["ids"])
    if kept and not faults:
        yield Claim(
            "the sample ids kept are those each step says it consumed",
            examined.attested,
            "order",
            f"{count(confirmed, 'step')} of {len(steps)} with ids, digests recomputed",
        )
        if contracts:
            yield Claim(
                "the order keeps its sampler's contract",
                Evidence.PROVED,
                "order",
                f"{count(contracts, 'pass', 'passes')}: no id twice where there is no replacement, "
                "none missing, none out of range",
            )


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
        found = digest_text(array_digest("ids", np.sort(ids).astype(np.int64)))
        if found != event["multiset"]:
            yield COUNTS.finding(
                f"{where}/multiset",
                f"pass {event['pass']} names another multiset of ids",
                expected=event["multiset"],
                found=found,
            )


def _has_contract(event: dict[str, Any]) -> bool:
    policy = event["policy"]
    return (
        policy is not None
        and policy["kind"] in ("shuffled", "sequential", "replacement")
        and policy["length"] is not None
    )


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
    if policy["replacement"] or policy["kind"] == "replacement":
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


class _Walk:
    """Cuts the order files into steps as they were consumed, to compare each with its digest.

    Batches that no step followed belong to the next step, even of the next pass.
    """

    def __init__(self, kept: dict[int, Ids], events: dict[int, dict[str, Any]]) -> None:
        self.kept = kept
        self.events = events
        self._pass: int | None = None
        self._used = 0
        self._lost = False

    def advance(self, step: dict[str, Any]) -> bool | None:
        """Return whether a step's ids are those of its pass; None where that cannot be told."""
        number = step["pass"]
        if number not in self.kept:
            self._pass, self._used, self._lost = number, 0, True
            return None
        before = self._left_over(number)
        if self._pass != number:
            # Ids that were carried over from a pass whose file is not here make this step unknowable.
            self._pass, self._used = number, 0
        end = self._end(step, before)
        if end is None:
            return False if self._searched_all() else None
        found = self._fits(step["ids"], before, end)
        self._used = end
        unknowable, self._lost = self._lost, False
        return None if not found and unknowable else found

    def _left_over(self, number: int) -> np.ndarray[Any, Any]:
        """Return the ids after the last step of the passes before ``number``."""
        parts: list[np.ndarray[Any, Any]] = []
        first = self._pass if self._pass is not None else 1
        if first != number:
            for earlier in range(first, number):
                if earlier in self.kept:
                    start = self._used if earlier == self._pass else 0
                    parts.append(self.kept[earlier][start:].astype(np.int64))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _end(self, step: dict[str, Any], before: np.ndarray[Any, Any]) -> int | None:
        ids, policy = self.kept[step["pass"]], self.events[step["pass"]]["policy"]
        if policy is not None and policy["batch_size"] is not None and policy["kind"] != "batches" and step["position"]:
            return min(int(policy["batch_size"]) * int(step["position"]), int(ids.size))
        for end in range(self._used, min(int(ids.size), self._used + _SEARCHED_IDS) + 1):
            if self._fits(step["ids"], before, end):
                return end
        return None

    def _searched_all(self) -> bool:
        return self._pass is not None and self.kept[self._pass].size - self._used <= _SEARCHED_IDS and not self._lost

    def _fits(self, digest: str, before: np.ndarray[Any, Any], end: int) -> bool:
        if self._pass is None:
            return False
        own = self.kept[self._pass][self._used : end].astype(np.int64)
        candidates = [own] if not before.size else [np.concatenate([before, own]), own]
        return any(digest_text(array_digest("ids", ids)) == digest for ids in candidates)


OTHER_IDS = register(
    Rule(
        "MA201",
        "an order file differs from the steps",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The slice of the order file that each step consumed has the digest in the step's event.",
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
        "Number and multiset of a pass's ids are those of its order file.",
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
