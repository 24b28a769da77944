"""The words of a verdict (design §7): how well a statement is supported, how bad it is, and what follows."""

from __future__ import annotations

from enum import StrEnum


class Evidence(StrEnum):
    """How well a statement is supported. Claimed is never shown as good."""

    PROVED = "proved"
    """Recomputed here from the artifact, with SHA-256 or by comparing tensors."""
    ATTESTED = "attested"
    """Signed by a key the verifier trusts; not recomputed."""
    CLAIMED = "claimed"
    """Said by somebody the verifier has no reason to trust."""
    MISSING = "missing"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    HUMAN = "human"
    """No program can judge it."""


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Confidence(StrEnum):
    """How sure a rule is when it fires."""

    CERTAIN = "certain"
    LIKELY = "likely"
    HINT = "hint"


class Verdict(StrEnum):
    """What a whole examination came to."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class ExitStatus:
    """The exit statuses of every command, whatever its output format (design §7)."""

    HOLDS = 0
    FINDINGS = 1
    USAGE = 2
    NOTHING_TO_AUDIT = 3
    INCONCLUSIVE = 4
    DEFECT = 5


_STATUS = {
    Verdict.PASSED: ExitStatus.HOLDS,
    Verdict.FAILED: ExitStatus.FINDINGS,
    Verdict.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
}


def exit_status(verdict: Verdict) -> int:
    """Return the exit status a verdict ends a command with."""
    return _STATUS[verdict]
