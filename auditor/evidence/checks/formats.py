"""The form of every file a run directory knows, and whether the files are those that the trace speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from auditor.artifact import order_file, safetensors_file
from auditor.artifact.run_directory import ENVIRONMENT, MANIFEST, PROBES, TENSORS, TRACE, VALUES, environment_of
from auditor.errors import MemauditError
from auditor.evidence.checks.files import leftover_paths
from auditor.evidence.examination import RUN, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

_ENVIRONMENT = re.compile(r"environment(-[0-9]+)?\.json")
_ORDER = re.compile(r"order/pass-[0-9]{6,}(-[0-9]+)?\.npy")
_PART = re.compile(r"order/pass-[0-9]{6,}\.part")
_ANCHOR = re.compile(r"anchors/[^/]+/([^/]+)")


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield files that break their format, files without a place in it, and files the trace says otherwise about."""
    if examined.kind != RUN:
        return
    leftovers = set(leftover_paths(examined))
    for path in examined.inventory.files:
        problem = None if path in leftovers else _problem(examined, path)
        if problem is not None:
            yield problem
    yield from _named_by_trace(examined)


def order_ids(examined: Examination, path: str) -> order_file.Ids | MemauditError:
    """Return the ids of an order file, or what is wrong with it."""
    return examined.parsed(path, "order", lambda: order_file.read(examined.inventory.open(path).data, path))


def anchor_tensors(examined: Examination, path: str) -> dict[str, safetensors_file.StoredTensor] | MemauditError:
    """Return the tensors of a safetensors file, or what is wrong with it."""
    return examined.parsed(path, "tensors", lambda: safetensors_file.read(examined.inventory.open(path).data, path))


def _problem(examined: Examination, path: str) -> Finding | None:
    anchor = _ANCHOR.fullmatch(path)
    if path in (MANIFEST, TRACE):
        return None
    if _PART.fullmatch(path) and MANIFEST not in examined.inventory:
        return None  # the log of a pass in progress, checked against the steps
    if environment_of(path) is not None:
        return None  # text of the program: MA403 says what is wrong with it
    if _ENVIRONMENT.fullmatch(path):
        result = examined.document(path, "environment")
    elif path == PROBES:
        result = examined.document(path, "probes")
    elif _ORDER.fullmatch(path):
        result = order_ids(examined, path)
    elif anchor and anchor[1] == VALUES:
        result = examined.document(path, "anchor-values")
    elif anchor and anchor[1] == TENSORS:
        result = anchor_tensors(examined, path)
    else:
        return UNKNOWN.finding(path, "a file that the format does not know; it was hashed and not opened")
    if isinstance(result, MemauditError):
        why = f" ({result.why})" if result.why else ""
        where = result.where if result.where is not None and result.where.startswith(path) else path
        return FORMAT.finding(where, f"a file breaks its format: {result.what}{why}")
    return None


def named_files(events: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Return path, SHA-256 and line of every file that a trace says is there."""
    named: list[tuple[str, str, int]] = []
    anchors: dict[str, list[tuple[str, str, int]]] = {}
    for event in events:
        match event["event"]:
            case "start":
                named.append((ENVIRONMENT, event["environment"], event["seq"]))
            case "resume" if event["environment"] is not None:
                named.append((event["environment"]["file"], event["environment"]["sha256"], event["seq"]))
            case "pass" if event["file"] is not None and event["sha256"] is not None:
                named.append((event["file"], event["sha256"], event["seq"]))
            case "stored":
                anchors[event["path"]] = [
                    (f"{event['path']}/{file}", sha256, event["seq"]) for file, sha256 in sorted(event["files"].items())
                ]
            case "dropped":
                anchors.pop(event["path"], None)
    return [*named, *(each for files in anchors.values() for each in files)]


def _named_by_trace(examined: Examination) -> Iterator[Finding | Claim]:
    """Compare the SHA-256 that stand in the trace with the files."""
    named = named_files(examined.trace.events)
    good = 0
    for path, sha256, line in named:
        place = f"line {line + 1} of the trace"
        if path not in examined.inventory:
            yield NOT_AS_TRACED.finding(
                path, f"a file that {place} names is missing", evidence=Evidence.MISSING, expected=sha256
            )
            continue
        opened = examined.opened(path)
        if opened is None or opened.sha256 != sha256:
            found = opened.sha256 if opened else "unreadable"
            yield NOT_AS_TRACED.finding(path, f"a file is not the one that {place} names", expected=sha256, found=found)
        else:
            good += 1
    if named and good == len(named):
        yield Claim(
            "anchors, order files and environment are those the trace names",
            Evidence.PROVED,
            TRACE,
            f"{count(good, 'file')}, SHA-256 recomputed",
        )


FORMAT = register(
    Rule(
        "MA814",
        "a file breaks its format",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Every file of a run directory has its one form: canonical JSON that fits its schema, NumPy 1.0 vectors, "
        "safetensors without gaps or overlaps.",
        "A file that two readers take differently can show a reviewer one thing and a program another.",
        "Get the file again as it was recorded.",
        "run",
        check,
    )
)
NOT_AS_TRACED = register(
    Rule(
        "MA817",
        "a file is not the one that the trace names",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each file that a start, pass, stored or resume event speaks of is there with that SHA-256; an anchor that was "
        "dropped need not be.",
        "The file was exchanged after the event was written, even if the directory was signed again.",
        "Get the file again as it was recorded.",
        "run",
        check,
    )
)
UNKNOWN = register(
    Rule(
        "MA819",
        "a file that the format does not know",
        Level.NOTE,
        Confidence.CERTAIN,
        Evidence.HUMAN,
        "Every file has a place in the run directory's format.",
        "Such a file is hashed and never opened: a pickle in it would run code.",
        "Keep it elsewhere, or tell the reviewer what it is.",
        "run",
        check,
    )
)
