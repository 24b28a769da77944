"""``memaudit inspect``: what a run remembers, its RNG contract, and a summary. It gives no verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.output import format_options, style_for, write, write_json

if TYPE_CHECKING:
    from auditor.artifact.safetensors_file import StoredTensor
    from auditor.evidence.run_view import RunView
    from auditor.findings.formats.text import Style

FORMAT = "census-1"


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
    write(_text(document, run, style), style=style)


def census(view: RunView) -> dict[str, Any]:
    """Return the ``census-1`` document of a run; sizes and tensors are those of its last anchor."""
    anchor = view.anchors[-1] if view.anchors else None
    tensors: dict[str, StoredTensor] = anchor.tensors() if anchor is not None else {}
    captured = set(anchor.event["sources"]) if anchor is not None else set()
    sources = []
    for entry in view.census["sources"]:
        name = entry["name"]
        own = {full.partition("/")[2]: tensor for full, tensor in tensors.items() if full.partition("/")[0] == name}
        held = name in captured
        reason = None if held else "the run has no anchor" if anchor is None else "the last anchor does not hold it"
        sources.append(
            {
                "name": name,
                "kind": entry["kind"],
                "half_life": entry["half_life"],
                "visibility": entry["visibility"],
                "bytes": sum(len(tensor.data) for tensor in own.values()) if held else None,
                "captured": held,
                "reason": reason,
                "tensors": sorted(own),
            }
        )
    return {"format": FORMAT, "run": _facts(view), "sources": sources, "streams": view.census["streams"]}


def _facts(view: RunView) -> dict[str, Any]:
    end = view.trace.end or {}
    return {
        "status": end.get("status", "unfinished"),
        "steps": len(view.trace.of("step")),
        "passes": len(view.trace.of("pass")),
        "anchors": [anchor.step for anchor in view.anchors],
        "seed": view.start["seed"],
    }


def _text(document: dict[str, Any], run: Path, style: Style) -> str:
    from auditor.findings.formats.text import escape, heading

    facts = document["run"]
    lines = [
        heading(f"run {run}", style=style),
        f"  {facts['status']}, {facts['steps']} steps, {facts['passes']} passes, seed {facts['seed'] or 'none given'}",
        f"  anchors after steps {', '.join(map(str, facts['anchors'])) or 'none'}",
        "",
        heading("memory sources", style=style),
    ]
    width = max((len(escape(source["name"])) for source in document["sources"]), default=0)
    for source in document["sources"]:
        half_life = f"half-life {source['half_life']:.3g} steps" if source["half_life"] is not None else ""
        size = (
            f"{source['bytes']} bytes in {len(source['tensors'])} tensors" if source["captured"] else source["reason"]
        )
        parts = [part for part in (escape(source["visibility"] or ""), half_life, size) if part]
        lines.append(f"  {escape(source['name']):<{width}}  {'; '.join(parts)}")
    lines += ["", heading("random streams", style=style)]
    for stream in document["streams"]:
        used = ", ".join(stream["consumers"]) or "no consumer known"
        lines.append(
            f"  {escape(stream['name'])}: seeded by {escape(stream['seeded_by'] or 'nobody known')}; {escape(used)}"
        )
        lines += [f"    warning: {escape(warning)}" for warning in stream["warnings"]]
    lines += ["", f"next: memaudit verify {escape(str(run))}"]
    return "\n".join(lines)
