"""Findings and claims: what an examination says, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from auditor.findings.evidence import Evidence, Level, Verdict


@dataclass(frozen=True)
class Finding:
    """Something a reader has to know or mend."""

    code: str
    """The rule's code, such as ``MA302``."""
    level: Level
    evidence: Evidence
    where: str
    """Path below the run; ``#/pointer`` names the place inside a JSON file or the trace (its lines count from 0)."""
    message: str
    hint: str
    """What to do next; a command where there is one. May be empty."""
    expected: str | None = None
    """What was recorded or signed."""
    found: str | None = None
    """What was found here."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as it stands in every JSON document."""
        document: dict[str, Any] = {
            "code": self.code,
            "level": str(self.level),
            "evidence": str(self.evidence),
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
        }
        if self.expected is not None:
            document["expected"] = self.expected
        if self.found is not None:
            document["found"] = self.found
        return document


@dataclass(frozen=True)
class Claim:
    """A statement about the run, with how well it is supported."""

    what: str
    evidence: Evidence
    where: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the claim as it stands in every JSON document."""
        return {
            "what": self.what,
            "evidence": str(self.evidence),
            "where": self.where,
            "message": self.message,
        }


_WORST_LAST = {Level.NOTE: 0, Level.WARNING: 1, Level.ERROR: 2}


def worst_last(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the important ones at the end, by code and place within a level.

    Inconclusive errors stand before contradicted ones: what is wrong weighs more than what is unknown.
    """
    return sorted(
        findings,
        key=lambda f: (_WORST_LAST[f.level], f.evidence is not Evidence.INCONCLUSIVE, f.code, f.where),
    )


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Return what findings come to: a plain error fails, an inconclusive one leaves open, the rest passes."""
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if any(finding.evidence is not Evidence.INCONCLUSIVE for finding in errors):
        return Verdict.FAILED
    return Verdict.INCONCLUSIVE if errors else Verdict.PASSED
