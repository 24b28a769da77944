"""What a magnified cell saw (docs/study.md, "Magnified cells"), read step by step; nobody has to trust who wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.artifact import strict_json
from auditor.artifact.resources import schema
from auditor.errors import InconclusiveError, MemauditError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

FILE = "magnified.jsonl"
_EVENTS = ("start", "state", "batch", "call", "answer", "gradients", "end")

Line = dict[str, Any]


class Account:
    """One ``magnified.jsonl``, read step by step, with what a line left out as unchanged put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compiled: set[str] = set()
        self._known: dict[str, Line] = {}
        self._lines = self._read()
        start = next(self._lines, None)
        if start is None or start["event"] != "start":
            raise InconclusiveError("what a re-execution saw cannot be read", where=str(path), why="it has no start")
        self.begins = int(start["step"])

    def steps(self) -> Iterator[list[Line]]:
        """Yield the lines of each step."""
        for _, lines in groupby(self._lines, key=lambda line: int(line["step"])):
            yield list(lines)

    def finish(self) -> None:
        """Read the rest."""
        for _ in self._lines:
            continue

    def _read(self) -> Iterator[Line]:
        try:
            with self.path.open("rb") as file:
                number = 0
                while data := file.readline(strict_json.MAX_BYTES + 1):
                    number += 1
                    line = _parsed(data, f"{self.path}, line {number}")
                    if line["event"] == "end":
                        self.compiled.update(line["compiled"])
                        return
                    if line["event"] == "state":
                        line["sources"] = {entry["name"]: self._whole(entry) for entry in line["sources"]}
                    yield line
        except OSError as error:
            raise InconclusiveError(
                "what a re-execution saw cannot be read", where=str(self.path), why=str(error)
            ) from error
        raise InconclusiveError("what a re-execution saw was cut short", where=str(self.path))

    def _whole(self, entry: Line) -> Line:
        known = self._known.get(entry["name"])
        if entry["leaves"] is None and known is not None and known["digest"] == entry["digest"] is not None:
            return known
        self._known[entry["name"]] = entry
        return entry


def _parsed(data: bytes, where: str) -> Line:
    try:
        line: Any = strict_json.parse_canonical(data, where)
    except MemauditError as error:
        raise InconclusiveError("what a re-execution saw cannot be read", where=where, why=error.what) from error
    kind = line.get("event") if isinstance(line, dict) else None
    if kind not in _EVENTS:
        raise InconclusiveError("what a re-execution saw cannot be read", where=where, why="it is no known event")
    problem = next(iter(_validator_of(str(kind)).iter_errors(line)), None)
    if problem is not None:
        raise InconclusiveError("what a re-execution saw cannot be read", where=where, why=problem.message[:200])
    found: Line = line
    return found


@cache
def _validator_of(event: str) -> Validator:
    from jsonschema import Draft202012Validator

    whole = schema("magnified-line")
    return Draft202012Validator({"$schema": whole["$schema"], "$ref": f"#/$defs/{event}", "$defs": whole["$defs"]})
