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
@click.option("--refine", is_flag=True, help="Run both programs again, magnified, to name the tensor and module.")
@click.option("--trust-code", is_flag=True, help="With --refine: run the recorded programs without asking.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --refine: keep what the re-executions write. [default: a temporary directory]",
)
@format_options
def command(a: Path, b: Path, refine: bool, trust_code: bool, out: Path | None, output: str) -> int:
    """Find the first step and memory source where two runs part, and the class of cause.

    \b
    Examples:
      memaudit diff runs/monday runs/tuesday
      memaudit diff runs/monday runs/tuesday --format json > diff.json
      memaudit diff runs/monday runs/tuesday --refine

    Both traces are read once; nothing of either run is executed, and torch is not needed. What anchors both runs have
    at the same step says which tensor parted and how far. Verify what you don't trust first: diff takes the traces at
    their word.

    --refine runs both programs again, from the last anchor before they part, and compares every module's output,
    gradient and tensor on the way. It shows what will run and asks first.
    """
    from auditor.compare.comparison import compare

    comparison = compare(a, b)
    if refine:
        comparison = _refined(comparison, out, trusted=trust_code)
    if output == "json":
        write_json(comparison.to_json())
    else:
        style = style_for(sys.stdout)
        write(text(comparison, style), style=style)
    return comparison.exit_status


def _refined(comparison: Comparison, out: Path | None, *, trusted: bool) -> Comparison:
    """Run both programs again, with consent, and return the comparison with what that showed."""
    import tempfile
    from dataclasses import replace

    from auditor.cli.consent import check_run, consent, refine_lines
    from auditor.evidence.run_view import RunView
    from auditor.replay.program import launch_of
    from auditor.replay.refine import refine

    first = comparison.first
    if first is None or first.parting.step == 0 or first.parting.kind == "end":
        click.echo("nothing to refine: no step that both took parts from equal state", err=True)
        return comparison
    a, b = (RunView.open(side.inventory.root) for side in (comparison.walk.a, comparison.walk.b))
    for run in (a, b):
        check_run(run)
    with tempfile.TemporaryDirectory(prefix="memaudit-refine-") as folder:
        launches = launch_of(a, Path(folder) / "text-a"), launch_of(b, Path(folder) / "text-b")
        for line in refine_lines(a, b, launches, first.parting.step):
            click.echo(line, err=True)
        consent("diff --refine", [launch.script for launch in launches], trusted=trusted)
        found = refine(
            a,
            b,
            launches=launches,
            first_step=first.parting.step,
            out=Path(folder) / "cells" if out is None else out,
            progress=lambda line: click.echo(line, err=True),
        )
    return replace(comparison, refined=found.to_json())


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
        _refinement(document, style),
        _causes(document, style),
        [style.paint(f"note: {escape(note)}", _DIM) for note in document["notes"]],
        _closing(comparison, document, style),
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
            f"  {escape(file['path'])}: {file['change']}"
            + ("" if file["diff"] is not None else ", its text was not kept")
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
        if detail["step"] < first["step"]:
            seen = ", so it changed between the steps"
        when = "before the first step" if detail["step"] == 0 else f"after step {detail['step']}"
        lines.append(f"  as the anchors hold it {when}{seen}")
        if first["tensor"] is not None:
            element = "" if detail["element"] is None else str(detail["element"])
            chunk = "" if first["chunk"] is None else f", chunk {first['chunk']}"
            a, b = _figures(detail["a"], detail["b"])
            values = "" if detail["a"] is None else f": {a} in A, {b} in B"
            lines.append(f"  {escape(first['tensor'])}{element}{chunk}{values}")
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


def _figures(a: float | str | None, b: float | str | None) -> tuple[str, str]:
    """Return two elements with the digits of 32 bits, or with as many as it takes to tell them apart."""
    one, two = (str(each) if each is None or isinstance(each, int) else _figure(each, 9) for each in (a, b))
    return (one, two) if one != two else (str(a), str(b))


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


def _refinement(document: dict[str, Any], style: Style) -> list[str]:
    """What running both programs again showed."""
    from auditor.findings.formats.text import escape, heading

    refined = document["refined"]
    if refined is None:
        return []
    lines = [heading("run again", style=style) + f": both, from step {refined['from'] + 1} to {refined['to']}"]
    for label in ("a", "b"):
        again = refined[label]
        how = "repeats its recording in every digest"
        if not again["reproduced"]:
            how = (
                f"parts from its own recording at step {again['first']['step']}, in {escape(again['first']['source'])}"
            )
        lines.append(f"  {label.upper()} {how}")
    place = refined["first"]
    if place is not None:
        call = f", call {place['call']}" if place["call"] is not None and place["call"] > 1 else ""
        names = [f"module {escape(place['module'])}{call}" if place["module"] is not None else None, place["tensor"]]
        named = ", ".join(escape(name) for name in names if name is not None) or escape(place["source"] or "")
        chunk = f", chunk {place['chunk']}" if place["chunk"] is not None else ""
        phase = style.paint(place["phase"], _BOLD)
        lines.append(f"  they part at step {place['step']}, {phase}: {named}{chunk}")
    return [*lines, *(style.paint(f"  note: {escape(note)}", _DIM) for note in refined["notes"])]


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


def _closing(comparison: Comparison, document: dict[str, Any], style: Style) -> list[str]:
    from auditor.findings.formats.text import escape

    verdict = style.paint(document["verdict"], _BOLD, _VERDICT_COLOUR[document["verdict"]])
    lines = [f"{verdict}: {escape(document['sentence'])}"]
    a, b = comparison.walk.a, comparison.walk.b
    corrupt = any(cause["class"] == "corruption" for cause in document["causes"])
    if document["verdict"] == "inconclusive" or corrupt or a.damage or b.damage:
        doubtful = a if a.damage or (a.status != "completed" and not b.damage) else b
        lines.append(f"next: memaudit verify {escape(str(doubtful.path))}")
    return lines
