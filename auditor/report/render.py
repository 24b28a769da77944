"""From a report to bytes of HTML. The only module that knows Jinja."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from auditor.artifact.resources import template_directory
from auditor.errors import MemauditError
from auditor.report.text import visible
from auditor.report.views import LIMITS, Chart, Limits, Report

#: A page larger than this is made again with less in it: reviewers read it on a train.
MAX_BYTES = 500_000


def _finalize(value: object) -> object:
    """Strings on the page have their control and direction characters made visible, and a longest length."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment() -> Environment:
    """The one template environment: everything is escaped, and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(template_directory()),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.filters["drawing"] = _drawing
    return made


def _drawing(chart: Chart) -> Markup:
    """The SVG of a chart, the one thing that is not escaped: `charts.clean` wrote it element by element."""
    return Markup(chart.svg)  # noqa: S704


def style() -> str:
    """The style sheet, as it stands in the page."""
    return (template_directory() / "report.css").read_text(encoding="utf-8").strip()


def style_hash(css: str) -> str:
    """The source expression that lets a policy accept exactly this style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()


def render(report: Report) -> bytes:
    """The page in UTF-8, whatever its size; `render_within` keeps it small."""
    css = style()
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            # From a file of memaudit's own, hashed by the policy: nothing in it comes from a run.
            css=Markup(css),  # noqa: S704
            policy=f"default-src 'none'; style-src '{style_hash(css)}'; base-uri 'none'; form-action 'none'",
        )
    )
    return (page.rstrip() + "\n").encode()


def render_within(build: Callable[[Limits], Report], max_bytes: int = MAX_BYTES) -> bytes:
    """The page of `build` with as much in it as fits into `max_bytes`.

    Raises `MemauditError` where even the shortest page is too large: too many runs for one page.
    """
    for limits in LIMITS:
        page = render(build(limits))
        if len(page) <= max_bytes:
            return page
    raise MemauditError(
        f"the page would take {len(page):,} bytes, more than {max_bytes:,}",
        why="there are too many runs and studies for one page",
        next_step="make one report for each: memaudit report RUN -o report.html",
    )
