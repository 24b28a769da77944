"""``memaudit verify``: a verdict on a directory, without executing anything of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.evidence.verify import Verification
    from auditor.findings.formats.text import Style


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), metavar="PUB", help="Also trust this public key."
)
@format_options
def command(path: Path, keys: tuple[Path, ...], output: str) -> int:
    """Check a run or study directory without executing anything of it.

    \b
    Examples:
      memaudit verify runs/a
      memaudit verify runs/a --key author.pub
      memaudit verify runs/a --format json > verdict.json

    Exit status: 0 it holds, 1 it does not, 3 there is nothing to audit, 4 inconclusive (an unfinished run, or nobody
    you trust signed it).
    """
    from auditor.evidence.keys import load_public
    from auditor.evidence.trust import TrustStore
    from auditor.evidence.verify import verify

    trusted = TrustStore.load()
    for key in keys:
        trusted = trusted.add(load_public(key), key.name)
    verification = verify(path, trusted=trusted)
    if output == "json":
        write_json(verification.to_json())
    else:
        style = style_for(sys.stdout)
        write(text(verification, style), style=style)
    return verification.exit_status


def text(verification: Verification, style: Style) -> str:
    """Return the answer for a terminal: what it is, what is known, what was found, the verdict last."""
    from auditor.findings.formats.text import heading, render_claims, render_closing, render_facts, render_findings

    blocks = [heading(f"{verification.kind} {verification.path}", style=style), render_facts(_facts(verification))]
    if verification.claims:
        blocks += [render_claims(verification.claims, style=style)]
    if verification.findings:
        blocks += [render_findings(verification.findings, subject=verification.path, style=style)]
    blocks.append(render_closing(verification.verdict, verification.sentence, _next(verification), style=style))
    return "\n\n".join(block for block in blocks if block)


def _facts(verification: Verification) -> list[tuple[str, str]]:
    summary = verification.summary
    facts: list[tuple[str, str]] = []
    if verification.kind == "run":
        program = summary["program"] or {}
        facts.append(("program", " ".join([str(program.get("path") or "unknown"), *program.get("argv", [])][:20])))
        facts.append(("steps", f"{summary['steps']} in {summary['passes']} passes, {len(summary['anchors'])} anchors"))
        facts.append(("seed", str(summary["seed"]) if summary["seed"] is not None else "none given"))
        if summary["started"]:
            facts.append(("recorded", f"{summary['started']}, {summary['seconds']} s"))
    else:
        facts.append(("arms", ", ".join(summary["arms"]) or "none"))
        facts.append(("rows", str(summary["estimates"])))
    facts.append(("files", f"{summary['files']}, {summary['bytes']} bytes"))
    return facts


def _next(verification: Verification) -> str | None:
    from auditor.findings.evidence import Verdict

    if verification.verdict is Verdict.PASSED:
        return f"memaudit report {verification.path} -o report.html"
    errors = [finding for finding in verification.findings if finding.level == "error"]
    return f"memaudit rule {errors[-1].code}" if errors else "memaudit key list"
