"""The parts of the page: numbers, series, drawings, and contrast of the colours."""

from __future__ import annotations

import re

import pytest

from auditor.artifact.resources import template_directory
from auditor.compare.series import decimate
from auditor.report import charts
from auditor.report.marks import CONFIDENCES, EVIDENCE, LEVELS, ROWS, VERDICTS, Mark, evidence_mark
from auditor.report.text import as_number, duration, figure, plain, size, visible


def test_a_long_series_keeps_its_ends_and_its_spikes() -> None:
    points = [(step, 1.0) for step in range(50_000)]
    points[31_415] = (31_415, 99.0)
    points[27_182] = (27_182, -99.0)
    kept = decimate(points, 600)
    assert len(kept) <= 600
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert {(31_415, 99.0), (27_182, -99.0)} <= set(kept)
    assert kept == sorted(kept)
    assert decimate(points[:600], 600) == points[:600]


def test_numbers_are_written_for_people() -> None:
    assert figure(-0.00123456) == "\N{MINUS SIGN}0.001235"
    assert figure("NaN") == "not a number"
    assert figure(None) == "\N{EN DASH}"
    assert figure(10**400) == "1" + "0" * 400
    assert as_number("12") is None
    assert as_number(True) is None
    assert size(3_200_000) == "3.2 MB"
    assert duration(3725) == "1 h 2 min"
    assert duration(59.94) == "59.9 s"
    assert plain({"b": [1, None], "a": True}) == "a yes, b 1, \N{EN DASH}"


def test_control_and_direction_characters_are_shown() -> None:
    assert visible("a\u202eb\x00c\nd\u200b") == "a\\u{202e}b\\u{0}c d\\u{200b}"
    assert len(visible("x" * 10_000)) == 601


def test_a_drawing_has_no_style_no_id_and_equal_bytes() -> None:
    values = [
        {"arm": "<script>", "when": "20 steps later", "estimate": 0.1, "low": 0.0, "high": 0.2, "verdict": "effect"}
    ]
    first = charts.forest(values, 'a "label" <b>', "difference")
    assert first == charts.forest(values, 'a "label" <b>', "difference")
    assert not re.search(r"<script|\sstyle=|\sid=|\sclass=|href|url\(", first)
    assert "&lt;script&gt;" in first
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in first
    assert len(first) < 10_000


def test_a_drawing_leaves_out_elements_nobody_expects() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>x</script><g onclick="x"><text id="a" style="x">t</text></g>'
    assert charts.clean(f"{svg}</svg>", "l") == '<svg role="img" aria-label="l"><g><text>t</text></g></svg>'


def test_every_colour_of_the_charts_is_known_to_the_style_sheet() -> None:
    style = (template_directory() / "report.css").read_text()
    for file in sorted((template_directory() / "charts").iterdir()):
        for colour in set(re.findall(r"#[0-9a-f]{6}", file.read_text())):
            assert f'[fill="{colour}"]' in style or f'[stroke="{colour}"]' in style, (file.name, colour)


def test_only_what_was_proved_or_passed_is_good() -> None:
    tables: list[dict[str, Mark]] = [
        VERDICTS,
        ROWS,
        LEVELS,
        CONFIDENCES,
        {word: each for word, (each, _) in EVIDENCE.items()},
    ]
    good = {word for table in tables for word, each in table.items() if each.tone == "good"}
    assert good == {"proved", "passed", "complete"}
    assert evidence_mark("nobody knows").tone == "open"
    for table in tables:
        assert len({(each.shape, each.tone) for each in table.values()}) >= len({each.tone for each in table.values()})


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_colours_have_the_contrast_of_wcag_aa(theme: int) -> None:
    style = (template_directory() / "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))

    def ratio(one: str, other: str) -> float:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    for name in ("ink", "muted", "link"):
        assert ratio(name, "page") >= 4.5, name
        assert ratio(name, "raised") >= 4.5, name
    for name in ("good", "signed", "plain", "open", "bad", "same"):
        assert ratio(name, f"{name}-bg") >= 4.5, name
        assert ratio(name, "page") >= 4.5, name
    for name in ("c-effect", "c-same", "c-open", "c-plain"):
        assert ratio(name, "page") >= 3.0, name
