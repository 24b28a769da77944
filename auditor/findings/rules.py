"""The registry of rules. A rule is registered once, beside the check that can raise it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from auditor.errors import MemauditError
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding

Check = Callable[[Any], Iterator[Finding | Claim]]
"""Takes what is examined (an ``Examination`` of a run or a study) and yields what it finds."""

_CODE = re.compile(r"MA[1-9][0-9]{2}")
_RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Rule:
    """One thing that is checked. Its code is never given to another rule."""

    code: str
    title: str
    """One line, as in ``memaudit rule``."""
    level: Level
    confidence: Confidence
    evidence: Evidence
    """The class a finding of this rule usually has."""
    what: str
    """What it checks."""
    why: str
    """Why it matters."""
    mend: str
    """How to mend it."""
    subject: str
    """``run``, ``study``, or ``evidence`` for both."""
    check: Check
    lint_only: bool = False
    """True for rules that ``memaudit verify`` does not apply: they judge the work, not its evidence."""

    def finding(
        self,
        where: str,
        message: str,
        *,
        hint: str = "",
        evidence: Evidence | None = None,
        level: Level | None = None,
        expected: str | None = None,
        found: str | None = None,
    ) -> Finding:
        """Return a finding of this rule; level and evidence are the rule's unless they are given."""
        return Finding(
            self.code,
            level if level is not None else self.level,
            evidence if evidence is not None else self.evidence,
            where,
            message,
            hint or f"memaudit rule {self.code}",
            expected,
            found,
        )


def register(rule: Rule) -> Rule:
    """Add a rule to the registry and return it.

    Raises
    ------
    ValueError
        If its code is malformed or taken.
    """
    if not _CODE.fullmatch(rule.code):
        raise ValueError(f"{rule.code} is not a rule's code")
    if rule.code in _RULES:
        raise ValueError(f"{rule.code} is registered twice")
    _RULES[rule.code] = rule
    return rule


def all_rules() -> list[Rule]:
    """Return the registered rules by code."""
    return [_RULES[code] for code in sorted(_RULES)]


def rule(code: str) -> Rule:
    """Return one rule.

    Raises
    ------
    MemauditError
        If there is none; the nearest code is suggested.
    """
    found = _RULES.get(code.upper())
    if found is None:
        near = difflib.get_close_matches(code.upper(), _RULES, n=1)
        step = f"memaudit rule {near[0]}" if near else "memaudit rule"
        raise MemauditError(f"there is no rule {code}", next_step=step)
    return found


def apply(rules: Iterable[Rule], examined: Any) -> Iterator[Finding | Claim]:
    """Run the check of each rule on what is examined; a check shared by several rules runs once."""
    done: list[Check] = []
    for each in rules:
        if each.check not in done:
            done.append(each.check)
            yield from each.check(examined)
