"""The engine of ``memaudit lint``: finds the runs and studies below a path and applies every rule to each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import Verification, is_evidence, verify
from auditor.findings.evidence import Verdict, exit_status
from auditor.findings.finding import Finding, verdict, worst_last
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, all_rules
from auditor.lint import rules as lint_rules

FORMAT = "lint-1"
__all__ = ["Linting", "find_evidence", "lint", "lint_rules", "select"]


@dataclass(frozen=True)
class Linting:
    """The outcome of linting everything below a path."""

    path: str
    verdict: Verdict
    sentence: str
    subjects: tuple[Verification, ...]
    findings: tuple[Finding, ...]
    """Of all subjects, ``where`` taken from ``path``; the worst last."""

    @property
    def exit_status(self) -> int:
        """What ``memaudit lint`` ends with."""
        return exit_status(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return the ``lint-1`` document."""
        return {
            "format": FORMAT,
            "path": self.path,
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "subjects": [
                {"path": each.path, "kind": each.kind, "verdict": str(each.verdict)} for each in self.subjects
            ],
            "findings": [finding.to_json() for finding in self.findings],
        }


def lint(
    path: str | Path,
    *,
    trusted: TrustStore | None = None,
    selected: tuple[str, ...] = (),
    ignored: tuple[str, ...] = (),
) -> Linting:
    """Apply the rules to every run and study at or below ``path``.

    ``selected`` and ``ignored`` are codes or their beginnings (``MA7``); all rules are selected if none is named.

    Raises
    ------
    MemauditError
        If there is no such path, or a code fits no rule.
    NothingToAuditError
        If no run or study lies there.
    """
    root = Path(path)
    if not root.exists():
        raise MemauditError("no such file or directory", where=str(path))
    applied = select(selected, ignored)
    subjects = tuple(verify(each, trusted=trusted, rules=applied) for each in find_evidence(root))
    if not subjects:
        raise NothingToAuditError(
            "no run or study here", where=str(path), next_step="memaudit record -- python train.py"
        )
    codes = {rule.code for rule in applied}
    findings = worst_last(
        _placed(finding, subject, root) for subject in subjects for finding in subject.findings if finding.code in codes
    )
    result = verdict(findings)
    runs = sum(subject.kind == "run" for subject in subjects)
    sentence = (
        f"{count(len(findings), 'finding')} in {count(runs, 'run')} and "
        f"{count(len(subjects) - runs, 'study', 'studies')}"
    )
    return Linting(str(path), result, sentence, subjects, tuple(findings))


def select(selected: tuple[str, ...], ignored: tuple[str, ...]) -> list[Rule]:
    """Return the rules that the given codes, or beginnings of codes, leave.

    Raises
    ------
    MemauditError
        If one fits no rule: a misspelt code must not switch a check off, or on, in silence.
    """
    rules = all_rules()
    for code in (*selected, *ignored):
        if not any(rule.code.startswith(code.upper()) for rule in rules):
            raise MemauditError(f"no rule's code begins with {code}", next_step="memaudit rule")

    def fits(rule: Rule, codes: tuple[str, ...]) -> bool:
        return any(rule.code.startswith(code.upper()) for code in codes)

    return [rule for rule in rules if (not selected or fits(rule, selected)) and not fits(rule, ignored)]


def find_evidence(root: Path) -> Iterator[Path]:
    """Yield every run and study at or below ``root``, sorted; links are not followed, and found ones not entered."""
    if root.is_file():
        return
    for parent, folders, _ in os.walk(root, followlinks=False):
        path = Path(parent)
        if is_evidence(path):
            folders.clear()
            yield path
        folders.sort()


def _placed(finding: Finding, subject: Verification, root: Path) -> Finding:
    below = Path(subject.path).relative_to(root).as_posix()
    return finding if below == "." else replace(finding, where=f"{below}/{finding.where}")
