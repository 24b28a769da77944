"""``memaudit diff``: where two runs part, and why, without executing anything of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.compare.comparison import Comparison
    from auditor.findings.formats.text import Style

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"
_VERDICT_COLOUR = {"equal": _GREEN, "different": _RED, "not comparable": _YELLOW, "inconclusive": _YELLOW}
_ROWS, _STEPS, _NAMES, _LINES, _FILES, _CAUSES = 24, 6, 6, 24, 4, 6
_BAR = 28


@click.command(
    "diff",
    epilog="Exit status: 0 equal · 1 different · 2 usage · 3 no run there · 4 not comparable, or a run is unfinished.",
)
@click.argument("a", type=click.Path(path_type=Path), metavar="RUN_A")
@click.argument("b", type=click.Path(path_type=Path), metavar="RUN_B")
@format_options
def command(a: Path, b: Path, output: str) -> int:
    """Find the first step and memory source where two runs part, and the class of cause.

    \b
    Examples:
      memaudit diff runs/monday runs/tuesday
      memaudit diff runs/monday runs/tuesday --format json > diff.json

    Both traces are read once; nothing of either run is executed, and torch is not needed. What anchors both runs have
    at the same step says which tensor parted and how far. Verify what you don't trust first: diff takes the traces at
    their word.
    """
    from auditor.compare.comparison import compare

    comparison = compare(a, b)
    if output == "json":
        write_json(comparison.to_json())
    else:
        style = style_for(sys.stdout)
        write(text(comparison, style), style=style)
    return comparison.exit_status


def text(comparison: Comparison, style: Style) -> str:
    """Return the answer for a terminal: who is compared, what differs beside the steps, the timeline, the causes."""
    from auditor.findings.formats.text import escape, heading

    document = comparison.to_json()
    blocks = [
        [
            heading("A", style=style) + _run(document["runs"]["a"]),
            heading("B", style=style) + _run(document["runs"]["b"]),
        ],
        _beside(document, style),
        _program(document, style),
        _timeline(document, style),
        _first(document, style),
        _growth(document, style),
        _causes(document, style),
        [style.paint(f"note: {escape(note)}", _DIM) for note in document["notes"]],
        _closing(document, style),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _run(run: dict[str, Any]) -> str:
    from auditor.findings.formats.text import count, escape

    program = " ".join([str(run["program"] or "no file").replace("\\", "/").rpartition("/")[2], *run["arguments"]])
    seed = "no seed" if run["seed"] is None else f"seed {run['seed']}"
    return escape(f"  {run['path']}  {run['status']}, {count(run['steps'], 'step')}, {seed}  python {program}")


def _beside(document: dict[str, Any], style: Style) -> list[str]:
    """What differs beside the steps, three columns."""
    from auditor.compare.situation import told_pair
    from auditor.findings.formats.text import escape, heading

    rows = [row for row in document["beside"] if not _is_told_elsewhere(row, document)]
    if not rows:
        same = "numerics class, program, data, contract, census and hyper-parameters are the same"
        return [heading("beside the steps", style=style) + f": {same}"]
    cells = [(escape(row["group"]), escape(row["name"]), *map(_short, told_pair(row["a"], row["b"]))) for row in rows]
    shown = [("", "", "A", "B"), *cells[:_ROWS]]
    widths = [max(len(cell[column]) for cell in shown) for column in range(4)]
    lines = ["  " + "  ".join(map(str.ljust, cell, widths)).rstrip() for cell in shown]
    rest = (
        [style.paint(f"  {len(cells) - _ROWS} more; --format json lists them all", _DIM)] if len(cells) > _ROWS else []
    )
    return [heading("what differs beside the steps", style=style), style.paint(lines[0], _DIM), *lines[1:], *rest]


def _is_told_elsewhere(row: dict[str, Any], document: dict[str, Any]) -> bool:
    """Files stand below with their text; packages that compute nothing would fill the screen after every upgrade."""
    name = row["name"]
    if name.startswith("package "):
        return name not in ("package torch", "package numpy", "package torchvision")
    return row["group"] == "program" and bool(document["program"]) and (name == "sha256" or name.startswith("module "))


def _short(text: str) -> str:
    from auditor.findings.formats.text import escape

    text = escape(text)
    return text if len(text) <= 36 else f"{text[:33]}…"


def _program(document: dict[str, Any], style: Style) -> list[str]:
    """The program's own text."""
    from auditor.findings.formats.text import escape, heading

    lines: list[str] = []
    for file in document["program"][:_FILES]:
        lines.append(
            f"  {escape(file['path'])}: {file['change']}" + ("" if file["diff"] else ", its text was not kept")
        )
        diff = file["diff"] or []
        colours = {"+": (_GREEN,), "-": (_RED,), "@": (_DIM,)}
        lines += [f"    {style.paint(escape(line), *colours.get(line[:1], ()))}" for line in diff[:_LINES]]
        if len(diff) > _LINES:
            lines.append(style.paint(f"    {len(diff) - _LINES} lines more; --format json has them all", _DIM))
    if len(document["program"]) > _FILES:
        lines.append(style.paint(f"  {len(document['program']) - _FILES} files more", _DIM))
    return [heading("the programs", style=style), *lines] if lines else []


def _timeline(document: dict[str, Any], style: Style) -> list[str]:
    """The steps at which sources parted, in order."""
    from auditor.findings.formats.text import count, escape, heading

    if not document["parted"]:
        return []
    compared = document["compared"]
    lines = [heading("where they part", style=style)]
    if compared["equal"]:
        lines.append(f"  {_steps(1, compared['equal']):>12}  {style.paint('equal in every digest', _GREEN)}")
    by_step: dict[int, list[str]] = {}
    first = document["first"]["source"]
    for each in sorted(document["parted"], key=lambda each: (each["step"], each["source"] != first)):
        by_step.setdefault(each["step"], []).append(each["source"])
    for number, (step, names) in enumerate(by_step.items()):
        if number == _STEPS:
            later = sum(len(rest) for at, rest in by_step.items() if at >= step)
            lines.append(
                style.paint(f"  {'later':>12}  {count(later, 'source')} more, up to step {max(by_step)}", _DIM)
            )
            break
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        shown = ", ".join([style.paint(escape(n), _BOLD) if n == first else escape(n) for n in names[:_NAMES]])
        lines.append(f"  {'at the start' if step == 0 else f'step {step}':>12}  {shown}{more}")
    return lines


def _steps(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first}-{last}"


def _first(document: dict[str, Any], style: Style) -> list[str]:
    """The tensor, chunk and element that parted first, as far as anchors tell."""
    from auditor.compare.situation import told_pair
    from auditor.findings.formats.text import escape, heading

    first = document["first"]
    if first is None:
        return []
    head = heading("first difference", style=style) + f": {escape(first['source'])}"
    lines: list[str] = []
    if first["sample"] is not None:
        sample = first["sample"]
        a, b = ("the pass is over" if sample[side] is None else f"sample {sample[side]}" for side in ("a", "b"))
        lines.append(f"  pass {sample['pass']}, place {sample['position'] + 1}: {a} in A, {b} in B")
    detail = first["detail"]
    if detail is not None:
        seen = "" if detail["step"] == first["step"] else " (the next anchor that both have)"
        when = "before the first step" if detail["step"] == 0 else f"after step {detail['step']}"
        lines.append(f"  as the anchors hold it {when}{seen}")
        if first["tensor"] is not None:
            element = "" if detail["element"] is None else str(detail["element"])
            values = "" if detail["a"] is None else f": {_figure(detail['a'], 9)} in A, {_figure(detail['b'], 9)} in B"
            lines.append(f"  {escape(first['tensor'])}{element}, chunk {first['chunk']}{values}")
        if detail["elements"]:
            size = f"  {detail['differing']} of {detail['elements']} elements differ"
            if detail["relative"] is not None:
                size += f", by {_figure(detail['relative'], 2)} of its size"
            if detail["largest"] is not None:
                size += f", {_figure(detail['largest'], 2)} at most"
            if detail["ulps"] is not None:
                size += f" ({detail['ulps']:,} units in the last place)"
            lines.append(size)
        for value in detail["values"][:4]:
            place = f"{escape(value['place'])}: " if value["place"] else ""
            a, b = map(_short, told_pair(value["a"], value["b"]))
            lines.append(f"  {place}{a} in A, {b} in B")
    elif first["tensor"] is not None:
        lines.append(f"  {escape(first['tensor'])}")
    return [head, *lines] if lines else []


def _figure(value: float | str, digits: int) -> str:
    """Return a number with some digits; one that is not finite is a text already."""
    return value if isinstance(value, str) else f"{value:.{digits}g}"


def _growth(document: dict[str, Any], style: Style) -> list[str]:
    """How far apart the state is at the anchors after the parting: bars on a logarithmic scale."""
    from math import log10

    from auditor.findings.formats.text import escape, heading

    points = document["growth"]["sources"]
    kinds = {each["source"]: each["kind"] for each in document["parted"]}
    names = [each["source"] for each in points if kinds.get(each["source"]) == "params"] or [
        each["source"] for each in points
    ]
    rows = [
        (each["step"], each["relative"])
        for each in points
        if names and each["source"] == names[0] and isinstance(each["relative"], float) and each["relative"] > 0
    ]
    if len(rows) < 2:
        return []
    high = max(log10(value) for _, value in rows)
    low = min(high - 2, *(log10(value) for _, value in rows))
    lines = [heading(f"how far {escape(names[0])} are apart", style=style) + " (share of their size)"]
    for step, value in rows:
        filled = 1 + round((_BAR - 1) * (log10(value) - low) / (high - low))
        lines.append(f"  {f'step {step}':>12}  {'#' * filled:<{_BAR}}  {value:.2g}")
    return lines


def _causes(document: dict[str, Any], style: Style) -> list[str]:
    """The classes of cause that fit, the surest first."""
    from auditor.compare.cause_classes import CLASSES
    from auditor.findings.formats.text import escape, heading

    if not document["causes"]:
        return []
    lines = [heading("why", style=style)]
    for cause in document["causes"][:_CAUSES]:
        words = style.paint(CLASSES[cause["class"]], _BOLD)
        where = f", {escape(cause['source'])}" if cause["source"] is not None else ""
        lines.append(f"  {cause['confidence']:<9} {words} [{cause['class']}]{where}")
        lines += [f"            {escape(each)}" for each in cause["evidence"]]
    return lines


def _closing(document: dict[str, Any], style: Style) -> list[str]:
    from auditor.findings.formats.text import escape

    verdict = style.paint(document["verdict"], _BOLD, _VERDICT_COLOUR[document["verdict"]])
    lines = [f"{verdict}: {escape(document['sentence'])}"]
    if document["verdict"] == "inconclusive" or any(cause["class"] == "corruption" for cause in document["causes"]):
        run = document["runs"]["a" if document["runs"]["a"]["status"] != "completed" else "b"]["path"]
        lines.append(f"next: memaudit verify {escape(run)}")
    return lines
