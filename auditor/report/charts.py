"""From data to SVG: a Vega-Lite specification of templates/charts/, drawn by vl-convert and cleaned for the page.

The page's policy forbids script and style attributes and it has one name space for ids, so that only known elements
and attributes are copied, and no id at all. Colours are those of `templates/charts/theme.json`; the style sheet maps
each to a variable, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any
from xml.etree import ElementTree as ET

from auditor.artifact.resources import template_directory
from auditor.report.text import visible

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_ELEMENTS = frozenset({"svg", "g", "path", "line", "rect", "circle", "text", "tspan"})
_ATTRIBUTES = frozenset(
    "d transform fill stroke stroke-width stroke-dasharray stroke-linecap stroke-linejoin stroke-opacity fill-opacity "  # noqa: SIM905 - a list of 27 strings reads worse
    "opacity x y x1 y1 x2 y2 cx cy r rx ry dx dy width height text-anchor font-size font-weight viewBox".split()
)


@cache
def _document(name: str) -> str:
    return (template_directory() / "charts" / name).read_text(encoding="utf-8")


def draw(specification: str, values: Sequence[Mapping[str, object]], label: str, **changes: Any) -> str:
    """Clean SVG of `specification` (a file name below templates/charts/) over `values`, one object a mark.

    `label` is what a screen reader says in the drawing's place; strings in `values` are made visible first. Each of
    `changes` replaces a top-level member of the specification. Equal arguments give equal bytes.
    """
    import vl_convert  # its engine takes a moment to start, and only drawing needs it

    chart = json.loads(_document(specification))
    chart.update(changes)
    chart["config"] = json.loads(_document("theme.json"))
    chart["data"] = {"values": [{key: _safe(value) for key, value in row.items()} for row in values]}
    # No base URL is allowed: a chart is drawn from its values and fetches nothing.
    svg = vl_convert.vegalite_to_svg(chart, allowed_base_urls=[])
    return clean(svg, label)


def _safe(value: object) -> object:
    return visible(value, 60) if isinstance(value, str) else value


def clean(svg: str, label: str) -> str:
    """`svg` with only known elements and attributes, no ids, and `label` for screen readers."""
    root = ET.fromstring(svg)  # noqa: S314 - made by vl-convert a moment ago, from values and never from markup
    return _write(root, f' role="img" aria-label="{escape(visible(label))}"')


def _write(element: ET.Element, extra: str = "") -> str:
    tag = element.tag.removeprefix(_NAMESPACE)
    hidden = element.get("display") == "none" or element.get("opacity") == "0"
    if tag not in _ELEMENTS or hidden or (tag == "path" and not (element.get("stroke") or element.get("fill"))):
        return ""
    kept = "".join(
        f' {name}="{escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and not (name.endswith("opacity") and value == "1")
    )
    inner = escape(element.text or "") if tag in ("text", "tspan") else ""
    inner += "".join(_write(child) for child in element)
    if not inner and tag in ("g", "text", "tspan"):
        return ""
    return f"<{tag}{kept}{extra}>{inner}</{tag}>"


def curve(points: Sequence[tuple[int, float]], label: str, name: str) -> str:
    """A line over steps of (step, value) points; `name` is the vertical axis' title."""
    chart = json.loads(_document("curve.vl.json"))
    chart["encoding"]["y"]["title"] = visible(name, 60)
    values = [{"step": step, "value": value} for step, value in points]
    return draw("curve.vl.json", values, label, encoding=chart["encoding"])


def outcomes(values: Sequence[Mapping[str, object]], label: str) -> str:
    """Small multiples over steps; each value has `series`, `step` and `value`."""
    return draw("outcomes.vl.json", values, label)


def divergence(values: Sequence[Mapping[str, Any]], label: str) -> str:
    """How far two runs are apart over steps, on logarithmic scales: the loss above, one small panel a source below.

    Every value has `panel`, `step` and `value`, which lies in `LOGARITHMIC`. Those of the panel `loss` have `segment`,
    for lines are drawn within one segment only, and `alone`, which asks for a point; those of the panel `state` have
    `source`. A panel without values is left out. All share the steps' range.
    """
    chart = json.loads(_document("divergence.vl.json"))
    loss, state = chart["vconcat"]
    steps = [value["step"] for value in values]
    parts = []
    for name, part, encoding in (("loss", loss, loss["encoding"]), ("state", state, state["spec"]["encoding"])):
        heights = [value["value"] for value in values if value["panel"] == name]
        if heights:
            ticks, bounds = _logarithmic(min(heights), max(heights))
            encoding["x"]["scale"]["domain"] = [min(steps), max(steps)]
            encoding["y"]["scale"]["domain"] = bounds
            encoding["y"]["axis"]["values"] = ticks
            parts.append(part)
    # By number: a list of names would become an expression, in which a source called `if` is none.
    places = {
        source: number for number, source in enumerate(dict.fromkeys(v["source"] for v in values if "source" in v))
    }
    placed = [{**value, "place": places[value["source"]]} if "source" in value else value for value in values]
    return draw("divergence.vl.json", placed, label, vconcat=parts)


#: What a logarithmic axis here can hold; a double has room to spare on both sides.
LOGARITHMIC = (1e-300, 1e300)
_MOST_TICKS = 5


def _logarithmic(low: float, high: float) -> tuple[list[float], list[float]]:
    """Ticks and bounds of a logarithmic axis: powers of ten, or 1, 2 and 5 of each where there are few of them."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    steps = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    # The nearest round number outside of the values on both sides, so that none lies on the frame's edge.
    bounds = [max(step for step in steps if step < low), min(step for step in steps if step > high)]
    inside = [step for step in steps if bounds[0] <= step <= bounds[1]]
    decades = [step for step in inside if f"{step:e}".startswith("1.0")]
    if len(decades) < 2 or len(inside) <= _MOST_TICKS:
        return inside, bounds
    return decades[:: math.ceil(len(decades) / _MOST_TICKS)], bounds


def forest(values: Sequence[Mapping[str, object]], label: str, axis: str) -> str:
    """A forest plot; values have `arm`, `when`, `estimate`, `verdict`, and `low` and `high` if there is an interval."""
    chart = json.loads(_document("forest.vl.json"))
    for layer in chart["spec"]["layer"][1:]:
        layer["encoding"]["x"]["title"] = visible(axis, 60)
    # A row without an interval has no line, rather than one to the edge of the drawing.
    chart["spec"]["layer"][1]["transform"] = [{"filter": "isValid(datum.low)"}]
    return draw("forest.vl.json", values, label, spec=chart["spec"])
