"""``memaudit rule``: what a rule checks, why, and how to mend what it finds."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.findings.formats.text import Style
    from auditor.findings.rules import Rule

FORMAT = "rules-1"


@click.command("rule")
@click.argument("code", required=False)
@format_options
def command(code: str | None, output: str) -> None:
    """Say what a rule checks, why, and how to mend it; without CODE, list all rules.

    \b
    Examples:
      memaudit rule
      memaudit rule MA302
    """
    from auditor.evidence import checks
    from auditor.findings import rules
    from auditor.lint import rules as lint_rules

    # Importing the two packages is what registers the rules.
    assert checks.__all__  # noqa: S101
    assert lint_rules.__all__  # noqa: S101
    chosen = rules.all_rules() if code is None else [rules.rule(code)]
    if output == "json":
        write_json({"format": FORMAT, "rules": [_document(rule) for rule in chosen]})
        return
    style = style_for(sys.stdout)
    if code is None:
        write("\n".join(f"{rule.code}  {rule.level:<7}  {rule.title}" for rule in chosen))
        write("next: memaudit rule CODE")
    else:
        write(_page(chosen[0], style), style=style)


def _page(rule: Rule, style: Style) -> str:
    lines = [style.paint(f"{rule.code}: {rule.title}", "1"), ""]
    lines.append(f"  {rule.level}, {rule.confidence}; looks at a {rule.subject}; its findings are {rule.evidence}")
    for name, content in (("What", rule.what), ("Why", rule.why), ("How to mend it", rule.mend)):
        lines += ["", style.paint(name, "1"), textwrap.fill(content, 88, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join(lines)


def _document(rule: Rule) -> dict[str, Any]:
    return {
        "code": rule.code,
        "title": rule.title,
        "level": str(rule.level),
        "confidence": str(rule.confidence),
        "evidence": str(rule.evidence),
        "subject": rule.subject,
        "what": rule.what,
        "why": rule.why,
        "mend": rule.mend,
    }
