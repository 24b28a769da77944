"""Verification: a verdict on a run or study directory that was submitted, without executing anything of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact import run_directory
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence import checks
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.trust import TrustStore
from auditor.findings.evidence import Evidence, Level, Verdict, exit_status
from auditor.findings.finding import Claim, Finding, verdict, worst_last
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, all_rules, apply

FORMAT = "verify-1"
_MARKS = (run_directory.MANIFEST, run_directory.TRACE, run_directory.ESTIMATE, run_directory.PLAN)
__all__ = ["Signer", "Verification", "checks", "is_evidence", "verify"]


@dataclass(frozen=True)
class Signer:
    """Who signed a manifest."""

    keyid: str
    name: str | None
    """The verifier's own name for the key; None if it is not trusted."""
    trusted: bool
    verified: bool
    """Whether the signature holds."""

    def to_json(self) -> dict[str, Any]:
        """Return the signer as it stands in ``verify-1``."""
        return {"keyid": self.keyid, "name": self.name, "trusted": self.trusted, "verified": self.verified}


@dataclass(frozen=True)
class Verification:
    """The outcome of verifying one directory."""

    path: str
    kind: str
    """``run`` or ``study``."""
    verdict: Verdict
    sentence: str
    """The verdict in words."""
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]
    """The worst last."""
    signers: tuple[Signer, ...]
    summary: dict[str, Any]
    """Facts of the run: steps, passes, seed, program, times; what the directory says, verified or not."""

    @property
    def exit_status(self) -> int:
        """What ``memaudit verify`` ends with."""
        return exit_status(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return the ``verify-1`` document."""
        return {
            "format": FORMAT,
            "path": self.path,
            "kind": self.kind,
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "summary": self.summary,
            "signers": [signer.to_json() for signer in self.signers],
            "claims": [claim.to_json() for claim in self.claims],
            "findings": [finding.to_json() for finding in self.findings],
        }


def is_evidence(path: Path) -> bool:
    """Say whether a directory looks like a run or a study."""
    return any((path / name).is_file() and not (path / name).is_symlink() for name in _MARKS)


def verify(path: str | Path, *, trusted: TrustStore | None = None, rules: Sequence[Rule] | None = None) -> Verification:
    """Verify a run or study directory.

    Parameters
    ----------
    path
        The directory.
    trusted
        The keys that count; the user's own list if None.
    rules
        The rules to apply; all that verification has if None. Lint gives more.

    Raises
    ------
    NothingToAuditError
        If the directory is neither a run nor a study.
    MemauditError
        If it cannot be read at all.
    """
    directory = Path(path)
    if not directory.exists() and not directory.is_symlink():
        raise MemauditError("no such directory", where=str(path))
    if not directory.is_dir() or not is_evidence(directory):
        raise NothingToAuditError(
            "neither a run nor a study",
            where=str(path),
            why=f"it has none of {', '.join(_MARKS)}",
            next_step="memaudit record -- python train.py",
        )
    examined = Examination(directory, look(directory), trusted if trusted is not None else TrustStore.load())
    applied = rules if rules is not None else [rule for rule in all_rules() if not rule.lint_only]
    outcome = list(apply(applied, examined))
    findings = worst_last(each for each in outcome if isinstance(each, Finding))
    claims = [each for each in outcome if isinstance(each, Claim)]
    result = verdict(findings)
    if result is Verdict.PASSED and not examined.is_vouched_for:
        # Without a rule that says so (rules can be selected), unsigned evidence still never passes.
        result = Verdict.INCONCLUSIVE
    return Verification(
        str(path),
        examined.kind,
        result,
        _sentence(result, findings),
        (*claims, *_not_recomputed(examined)),
        tuple(findings),
        _signers(examined),
        _summary(examined),
    )


def look(directory: Path) -> run_directory.Inventory:
    """Return the inventory of a directory that may still be written to.

    A run without a manifest may be going on: its trace is read first, and what it names is then there.
    """
    inventory = run_directory.scan(directory)
    if run_directory.MANIFEST in inventory or run_directory.TRACE not in inventory:
        return inventory
    trace = inventory.open(run_directory.TRACE)
    later = run_directory.scan(directory)
    later.keep(trace)
    return later


def _signers(examined: Examination) -> tuple[Signer, ...]:
    return tuple(
        Signer(
            signer.keyid,
            examined.trusted.name_of(signer.keyid) if signer.problem is None else None,
            signer.problem is None and examined.trusted.trusts(signer.keyid),
            signer.problem is None,
        )
        for signer in examined.signers
    )


def _not_recomputed(examined: Examination) -> list[Claim]:
    """Return what the directory says and verification cannot recompute: it belongs into every verdict."""
    if examined.kind != RUN:
        return [
            Claim(
                "the cells were run as the plan says",
                examined.attested,
                run_directory.CELLS,
                "not re-run here; `memaudit replay` with the same plan does",
            )
        ]
    if not examined.trace.events:
        return []
    return [
        Claim(
            "losses, outcomes and state digests came from this training",
            examined.attested,
            run_directory.TRACE,
            "not recomputed here; `memaudit replay` from an anchor does",
        ),
        Claim(
            "the program and data are the ones the paper describes",
            Evidence.HUMAN,
            run_directory.ENVIRONMENT,
            "no program can judge it",
        ),
    ]


def _sentence(result: Verdict, findings: Sequence[Finding]) -> str:
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if result is Verdict.PASSED:
        return (
            "all that can be recomputed here holds, and a key you trust signed it; "
            "that the training was honest only a replay can show"
        )
    if result is Verdict.FAILED:
        wrong = [finding for finding in errors if finding.evidence is not Evidence.INCONCLUSIVE]
        return f"{count(len(wrong), 'error')}; the last one: {wrong[-1].message}"
    reasons = list(dict.fromkeys(finding.message for finding in errors)) or ["nobody you trust signed it"]
    return f"nothing contradicts the record, but {'; and '.join(reasons)}"


def _summary(examined: Examination) -> dict[str, Any]:
    files = examined.inventory.files
    common: dict[str, Any] = {"files": len(files), "bytes": sum(files.values())}
    manifest = examined.opened(run_directory.MANIFEST) if run_directory.MANIFEST in files else None
    common["manifest_sha256"] = manifest.sha256 if manifest is not None else None
    predicate = examined.manifest.predicate if examined.manifest is not None else {}
    if examined.kind != RUN:
        estimate = examined.document(run_directory.ESTIMATE, "estimate") if run_directory.ESTIMATE in files else None
        if not isinstance(estimate, dict):
            return {**common, "verdict": None, "estimates": None, "arms": []}
        arms = list(dict.fromkeys(arm["name"] for fork in estimate["forks"] for arm in fork["arms"]))
        return {**common, "verdict": estimate["verdict"], "estimates": len(estimate["estimates"]), "arms": arms}
    trace, history = examined.trace, examined.history
    start = trace.events[0] if trace.events and trace.events[0]["event"] == "start" else {}
    end = trace.end or {}
    times = {name: predicate.get(name) for name in ("started", "finished", "seconds")}
    return {
        **common,
        **{name: value if isinstance(value, str | int | float) else None for name, value in times.items()},
        "status": end.get("status", "unfinished"),
        "steps": sum(1 for event in history.timeline if event["event"] == "step"),
        "passes": sum(1 for event in history.timeline if event["event"] == "pass"),
        "anchors": [record.event["step"] for record in history.anchors if record.is_kept and not record.void],
        "cuts": len(history.cuts),
        "lines": trace.lines,
        "trace_head": trace.head,
        "seed": start.get("seed"),
        "program": start.get("program"),
    }
