"""What the commands that answer share: the output options, colour, and printing to stdout."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from auditor.findings.formats.text import Style

F = TypeVar("F", bound=Callable[..., Any])


def format_options(function: F) -> F:
    """Add ``--format text|json`` and its short form ``--json``; the command gets ``output``, ``text`` or ``json``."""
    function = click.option("--json", "output", flag_value="json", expose_value=True, help="Short for --format json.")(
        function
    )
    return click.option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to answer.",
    )(function)


def style_for(stream: IO[Any]) -> Style:
    """Return the style a stream can show: NO_COLOR (no-color.org), FORCE_COLOR and TERM=dumb are honoured."""
    if os.environ.get("NO_COLOR"):
        return Style(colour=False)
    if os.environ.get("FORCE_COLOR"):
        return Style(colour=True)
    return Style(colour=os.environ.get("TERM") != "dumb" and stream.isatty())


class ReaderLeft(Exception):  # noqa: N818 - nothing went wrong
    """Whoever read the output left: `memaudit verify RUN | head`. No OSError, which click would end with status 1."""


def write(text: str, *, style: Style | None = None) -> None:
    """Print an answer to stdout.

    Raises
    ------
    ReaderLeft
        If nobody reads it any more.
    """
    try:
        click.echo(text, color=style.colour if style is not None else False)
    except BrokenPipeError:
        raise ReaderLeft from None


def write_json(document: dict[str, Any]) -> None:
    """Print a versioned document to stdout."""
    from auditor.findings.formats.json import render

    write(render(document))
