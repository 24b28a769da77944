"""``memaudit seal``: close a run that was interrupted, with the key that recorded it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.evidence.keys import SigningKey
    from auditor.findings.formats.text import Style

FORMAT = "seal-1"


@click.command("seal")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="KEY", help="The private key it was recorded with; else your own."
)
@format_options
def command(run: Path, key: Path | None, output: str) -> None:
    """Close an unfinished run: verify it, tidy up what was left half-written, end it as interrupted, and sign it.

    \b
    Examples:
      memaudit seal runs/a
      memaudit seal runs/a --key signing-key.pem

    Only the key that sealed the run while it was recorded can close it. A run that still goes on, that contradicts
    itself, or that is closed already is left as it is (status 2).
    """
    from auditor.evidence.unfinished import Unfinished

    unfinished = Unfinished.open(run)
    done = unfinished.close(_signing_key(key))
    document = {
        "format": FORMAT,
        "path": str(run),
        "status": unfinished.status,
        "steps": unfinished.history.step,
        "keyid": unfinished.keyid,
        "done": done,
    }
    if output == "json":
        write_json(document)
        return
    style = style_for(sys.stdout)
    write(_text(document, style), style=style)


def _signing_key(path: Path | None) -> SigningKey:
    from auditor.evidence.home import home
    from auditor.evidence.keys import DEFAULT_KEY, load_private

    # A key of your own is never made here: it could not be the one that recorded the run.
    return load_private(path if path is not None else home() / DEFAULT_KEY)


def _text(document: dict[str, Any], style: Style) -> str:
    from auditor.findings.formats.text import count, escape, heading

    lines = [heading(f"run {document['path']}", style=style), *(f"  {escape(line)}" for line in document["done"]), ""]
    lines.append(f"closed: {document['status']} after {count(document['steps'], 'step')}")
    lines.append(f"next: memaudit verify {escape(document['path'])}")
    return "\n".join(lines)
