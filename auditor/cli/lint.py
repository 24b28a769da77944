"""``memaudit lint``: every rule, on every run and study below a path."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from auditor.cli.output import format_options, style_for, write, write_json


@click.command("lint")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--select", multiple=True, metavar="CODES", help="Apply only these rules: MA701, or MA7 for all of them.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Leave these rules out.")
@format_options
def command(path: Path, select: tuple[str, ...], ignore: tuple[str, ...], output: str) -> int:
    """Apply every rule to all runs and studies at or below PATH.

    \b
    Examples:
      memaudit lint submission/
      memaudit lint submission/ --select MA7
      memaudit lint submission/ --ignore MA402,MA819 --json

    Exit status: 0 no errors, 1 errors, 3 no run or study lies there, 4 inconclusive.
    """
    from auditor.findings.formats.text import heading, render_closing, render_findings
    from auditor.lint.engine import lint

    linting = lint(path, selected=_codes(select), ignored=_codes(ignore))
    if output == "json":
        write_json(linting.to_json())
        return linting.exit_status
    style = style_for(sys.stdout)
    blocks = [heading(f"{each.kind} {each.path}: {each.verdict}", style=style) for each in linting.subjects]
    blocks = ["\n".join(blocks)]
    if linting.findings:
        blocks.append(render_findings(linting.findings, subject=linting.path, style=style))
    following = f"memaudit rule {linting.findings[-1].code}" if linting.findings else None
    blocks.append(render_closing(linting.verdict, linting.sentence, following, style=style))
    write("\n\n".join(blocks), style=style)
    return linting.exit_status


def _codes(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code.strip() for value in values for code in value.split(",") if code.strip())
