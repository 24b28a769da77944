"""`memaudit report`: runs and studies as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "report",
    epilog="Exit status: 0 the page was written, whatever it says · 2 usage · 3 nothing to report on.",
)
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="PATH…"
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The page to write.",
)
def command(paths: tuple[Path, ...], output: Path) -> None:
    """Make one self-contained HTML page of runs and studies.

    \b
    Examples:
      memaudit report runs/digits -o report.html
      memaudit report runs/digits runs/digits-study -o report.html
      memaudit report demo -o report.html

    PATH is a run directory, a study directory, or a folder that holds some. Each is verified first and never executed.
    The page needs no script and no network, and equal inputs give an equal page.
    """
    from auditor.artifact.canonical import write_atomically
    from auditor.evidence.verify import verify
    from auditor.report.model import build_report, find_directories
    from auditor.report.render import render_within

    directories = find_directories(paths)
    verifications = [verify(directory).to_json() for directory in directories]
    page = render_within(lambda limits: build_report(directories, verifications, limits))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page)
    click.echo(
        f"wrote {len(page) / 1000:.0f} kB from {len(directories)} director{'y' if len(directories) == 1 else 'ies'}",
        err=True,
    )
    click.echo(str(output))
