"""``memaudit inspect``: what a run remembers, its RNG contract, and a summary. It gives no verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.evidence.run_view import RunView
    from auditor.findings.formats.text import Style

FORMAT = "census-1"
_NONE = "-"
_ANCHORS_SHOWN = 8
_DIM, _YELLOW = "2", "33"


@click.command("inspect")
@click.argument("run", type=click.Path(path_type=Path))
@format_options
def command(run: Path, output: str) -> None:
    """Show a run's census, its RNG contract and a summary. It verifies nothing: use memaudit verify for that.

    \b
    Examples:
      memaudit inspect runs/a
      memaudit inspect runs/a --format json
    """
    from auditor.evidence.run_view import RunView

    view = RunView.open(run)
    document = census(view)
    if output == "json":
        write_json(document)
        return
    style = style_for(sys.stdout)
    write(_text(document, _hyper_values(view), run, style), style=style)


def census(view: RunView) -> dict[str, Any]:
    """Return the ``census-1`` document of a run; sizes and tensors are those of its last anchor.

    ``bytes`` counts the tensors as they are stored and the other values as canonical JSON.
    """
    from auditor.artifact.canonical import canonical_bytes
    from auditor.evidence.orders import orders

    anchor = view.anchors[-1] if view.anchors else None
    tensors = anchor.tensors() if anchor is not None else {}
    values = anchor.values()["sources"] if anchor is not None else {}
    sources = []
    for entry in view.census["sources"]:
        name = entry["name"]
        own = {full.partition("/")[2]: tensor for full, tensor in tensors.items() if full.partition("/")[0] == name}
        held = name in values
        reason = entry.get("reason")
        if not held and reason is None:
            reason = "the run has no anchor" if anchor is None else f"it came after the last anchor, step {anchor.step}"
        size = sum(len(tensor.data) for tensor in own.values())
        if held and values[name] is not None:
            size += len(canonical_bytes(values[name]))
        sources.append(
            {
                "name": name,
                "kind": entry["kind"],
                "half_life": entry["half_life"],
                "visibility": entry["visibility"],
                "bytes": size if held else None,
                "captured": held,
                "reason": reason,
                "tensors": sorted(own),
            }
        )
    return {
        "format": FORMAT,
        "run": _facts(view),
        "sources": sources,
        "streams": view.census["streams"],
        "orders": orders(view),
    }


def _facts(view: RunView) -> dict[str, Any]:
    end = view.trace.end or {}
    return {
        "status": end.get("status", "unfinished"),
        "steps": view.history.step,
        "passes": len(view.passes()),
        "anchors": [anchor.step for anchor in view.anchors],
        "seed": view.start["seed"],
    }


def _hyper_values(view: RunView) -> dict[str, str]:
    """Return the hyper-parameters' values in the last anchor, in words."""
    values = view.anchors[-1].values()["sources"] if view.anchors else {}
    return {name: _words(value) for name, value in values.items() if name.startswith(("hyper.", "hyper["))}


def _words(value: Any) -> str:
    """Return an encoded value as a person would write it; groups or layers that agree are said once."""
    if isinstance(value, dict) and "$" not in value:
        value = list(value.values())
    if isinstance(value, dict):
        items = value.get("items")
        return f"({', '.join(map(_words, items))})" if items is not None else str(value.get("value", value["$"]))
    if isinstance(value, list):
        each = list(dict.fromkeys(map(_words, value)))
        return " / ".join(each)
    return "none" if value is None else str(value)


def _text(document: dict[str, Any], hyper: dict[str, str], run: Path, style: Style) -> str:
    from auditor.findings.formats.text import count, escape, heading

    facts = document["run"]
    anchors = facts["anchors"]
    captured = [source for source in document["sources"] if source["captured"]]
    missed = [source for source in document["sources"] if not source["captured"]]
    where = f" (as in the anchor after step {anchors[-1]})" if anchors else ""
    lines = [
        heading(f"run {run}", style=style),
        f"  {facts['status']}: {count(facts['steps'], 'step')} in {count(facts['passes'], 'pass', 'passes')}, "
        + (f"seed {facts['seed']}" if facts["seed"] is not None else "no seed given"),
        f"  {count(len(anchors), 'anchor')}" + (f", after steps {_listed(anchors)}" if anchors else ""),
    ]
    if captured:
        total = _size(sum(source["bytes"] for source in captured))
        lines += ["", heading("memory sources", style=style) + f"{where}: {total} in {count(len(captured), 'source')}"]
        rows = [_row(source) for source in captured if source["name"] not in hyper]
        lines += _table([("source", "size", "tensors", "half-life", "shows"), *rows], style)
    if hyper:
        lines += ["", heading("hyper-parameters", style=style) + where]
        lines += _table([(escape(name), escape(words)) for name, words in sorted(hyper.items())], style, head=False)
    if missed:
        lines += ["", heading("not captured", style=style) + ": a replay or a resumed training lacks it"]
        rows = [(escape(source["name"]), escape(source["reason"])) for source in missed]
        lines += _table(rows, style, head=False)
    lines += ["", heading("random streams", style=style)]
    if not document["streams"]:
        lines.append("  none recorded")
    for stream in document["streams"]:
        lines.append(f"  {escape(stream['name'])}: seeded by {escape(stream['seeded_by'] or 'nobody known')}")
        if stream["consumers"]:
            lines.append(f"    draws: {escape('; '.join(stream['consumers']))}")
        lines += [style.paint(f"    warning: {escape(warning)}", _YELLOW) for warning in stream["warnings"]]
    if document["orders"]:
        lines += ["", heading("data order", style=style)]
    for order in document["orders"]:
        name = "loader" if order["loader"] == 1 else f"loader[{order['loader']}]"
        passes = count(order["passes"], "pass", "passes")
        seen = f"{escape(order['seen'])}: {escape(order['why'])}" if order["seen"] else escape(order["why"])
        lines.append(f"  {name}, {passes} by {escape(order['sampler'] or 'a sampler nobody knows')}: {seen}")
        lines += [style.paint(f"    {escape(note)}", _YELLOW) for note in order["notes"]]
    lines += ["", f"next: memaudit verify {escape(str(run))}"]
    return "\n".join(lines)


def _row(source: dict[str, Any]) -> tuple[str, ...]:
    from auditor.findings.formats.text import escape

    half_life = source["half_life"]
    return (
        escape(source["name"]),
        _size(source["bytes"]),
        str(len(source["tensors"]) or _NONE),
        _NONE if half_life is None else f"{half_life:.3g} step{'' if half_life == 1 else 's'}",
        escape(source["visibility"] or _NONE),
    )


def _table(rows: Sequence[tuple[str, ...]], style: Style, *, head: bool = True) -> list[str]:
    """Return rows in columns; the first row, if it is the head, is dimmed."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [style.paint(lines[0], _DIM), *lines[1:]] if head else lines


def _listed(steps: list[int]) -> str:
    """Return steps as a list, its middle left out where it is long."""
    if len(steps) <= _ANCHORS_SHOWN:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:4]))}, …, {', '.join(map(str, steps[-2:]))}"


def _size(number: int) -> str:
    """Return a number of bytes with a unit: ``24 B``, ``1.5 kB``, ``20 MB``."""
    if number < 1000:
        return f"{number} B"
    power = 1
    while number >= 999.5 * 1000**power:
        power += 1
    return f"{number / 1000**power:.3g} {'kMGTP'[power - 1]}B"
