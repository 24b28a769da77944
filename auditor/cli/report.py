"""`memaudit report`: runs, studies and comparisons as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "report",
    epilog="Exit status: 0 the page was written, whatever it says · 2 usage · 3 nothing to report on.",
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH…")
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
    """Make one self-contained HTML page of runs, studies and comparisons.

    \b
    Examples:
      memaudit report runs/digits -o report.html
      memaudit report runs/digits runs/digits-study -o report.html
      memaudit report demo -o report.html
      memaudit diff runs/a runs/b --format json > diff.json
      memaudit report runs/a runs/b diff.json -o report.html

    PATH is a run directory, a study directory, a folder that holds some, or a comparison that memaudit diff wrote.
    Runs and studies are verified first and never executed. The page needs no script and no network, and equal inputs
    give an equal page.
    """
    from auditor.artifact.canonical import write_atomically
    from auditor.evidence.verify import verify
    from auditor.report.files import read_comparison
    from auditor.report.model import build_report, find_directories
    from auditor.report.render import render_within
    from auditor.report.text import plural

    comparisons = [read_comparison(path) for path in dict.fromkeys(paths) if not path.is_dir()]
    directories = find_directories([path for path in paths if path.is_dir()])
    verifications = [verify(directory).to_json() for directory in directories]
    page = render_within(lambda limits: build_report(directories, verifications, limits, comparisons))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page)
    counts = ((len(directories), "directory", "directories"), (len(comparisons), "comparison", "comparisons"))
    told = " and ".join(plural(*each) for each in counts if each[0])
    click.echo(f"wrote {len(page) / 1000:.0f} kB from {told}", err=True)
    click.echo(str(output))
