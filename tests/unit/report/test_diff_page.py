"""A comparison on the page: what is read, what is refused, and what the page says of it."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.resources import schema, validator
from auditor.cli.report import command
from auditor.compare.beside import GROUPS
from auditor.compare.cause_classes import CLASSES
from auditor.compare.comparison import EXIT_STATUS
from auditor.compare.divergence import Divergence
from auditor.compare.situation import CONFIDENCES
from auditor.errors import NothingToAuditError
from auditor.replay.parting import Phase, Place
from auditor.replay.refine import Reexecution, Refinement
from auditor.report import charts, marks
from auditor.report.diff_curve import curve_section
from auditor.report.diff_page import run_names
from auditor.report.files import ComparisonFile, read_comparison
from auditor.report.model import build_report
from auditor.report.render import MAX_BYTES, render_within
from auditor.report.text import beside_each_other
from auditor.report.views import Limits
from tests.support.build_comparison import VERDICTS, comparison_document, comparison_for_report
from tests.support.build_study import verification
from tests.unit.report.test_page import HOSTILE, Elements

REFINED = Refinement(
    2,
    5,
    Reexecution(None),
    Reexecution(Divergence(4, "params")),
    Place(4, "forward", module="model.block.inner", call=2),
    ("run B does not repeat itself",),
).to_json()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {verdict: comparison_document(tmp_path_factory.mktemp("runs"), verdict) for verdict in VERDICTS}


@pytest.fixture
def different(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(documents["different"])


def file_of(document: dict[str, Any], name: str = "diff.json") -> ComparisonFile:
    validator("diff").validate(document)
    return ComparisonFile(name, document, "ab" * 32)


def page(*found: dict[str, Any], runs: tuple[Path, ...] = (), verdict: str = "passed") -> str:
    files = [file_of(document) for document in found]
    verifications = [verification(verdict=verdict) for _ in runs]
    return render_within(lambda limits: build_report(runs, verifications, limits, files)).decode()


def headline(text: str) -> tuple[str, str]:
    """Word and tone of the page's verdict."""
    found = re.search(r'<span class="badge (\w+) large"><svg.*?</svg>([\w ]+)</span>', text)
    assert found is not None
    return found[2], found[1]


# The form.


@pytest.mark.parametrize("verdict", list(VERDICTS))
def test_a_real_document_of_every_verdict_fits_the_schema(documents: dict[str, Any], verdict: str) -> None:
    assert documents[verdict]["verdict"] == verdict
    validator("diff").validate(documents[verdict])


def test_the_schema_knows_the_words_that_the_code_can_say() -> None:
    whole = schema("diff")
    members, cause = whole["properties"], whole["$defs"]["cause"]["properties"]
    assert set(members["verdict"]["enum"]) == EXIT_STATUS.keys() <= marks.VERDICTS.keys()
    assert set(cause["class"]["enum"]) == CLASSES.keys()
    assert set(cause["confidence"]["enum"]) == set(CONFIDENCES) == marks.CONFIDENCES.keys()
    assert members["beside"]["items"]["properties"]["group"]["enum"] == list(GROUPS)
    [place, _] = whole["$defs"]["refined"]["properties"]["first"]["anyOf"]
    assert place["properties"]["phase"]["enum"] == list(get_args(Phase))


def test_every_object_of_the_schema_is_closed_and_whole() -> None:
    def look(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("properties"), dict) and node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert node["required"] == sorted(node["properties"])
            for each in node.values():
                look(each)
        elif isinstance(node, list):
            for each in node:
                look(each)

    look(schema("diff"))


@pytest.mark.parametrize(
    "refined", [REFINED, Refinement(0, 1, Reexecution(None), Reexecution(None), None, ()).to_json()]
)
def test_what_a_re_execution_found_fits_the_schema(different: dict[str, Any], refined: dict[str, Any]) -> None:
    different["refined"] = refined
    validator("diff").validate(different)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "equal"},
        {"verdict": "not comparable"},
        {"verdict": "inconclusive"},
        {"verdict": "splendid"},
        {"first": None},
        {"parted": []},
        {"comparable": False},
        {"signed": True},
    ],
    ids=lambda change: str(*change.items()),
)
def test_a_document_that_contradicts_itself_is_refused(different: dict[str, Any], change: dict[str, Any]) -> None:
    assert not validator("diff").is_valid({**different, **change})


# The file.


def test_a_saved_comparison_is_read_with_its_hash(tmp_path: Path) -> None:
    path = comparison_for_report(tmp_path)
    found = read_comparison(path)
    assert found.name == "diff.json"
    assert found.document == json.loads(path.read_text())
    assert found.sha256 in page(found.document).replace("ab" * 32, found.sha256)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{", "not valid UTF-8"),
        (b"<html>", "not valid JSON"),
        (b"[1]", "names no format"),
        (b'{"format": 7}', "names no format"),
        (b'{"format": "verify-1"}', "its format is 'verify-1'"),
        (b'{"format": "diff-1", "format": "diff-1"}', "duplicate key"),
        (b'{"format": "diff-1"}', "it breaks the form of diff-1"),
        (b'{"format": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b" " * (17 << 20), "more than the limit"),
    ],
    ids=["empty", "utf-16", "html", "list", "number", "verification", "twice", "bare", "nan", "deep", "large"],
)
def test_any_other_file_is_refused_in_words(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(data)
    with pytest.raises(NothingToAuditError) as caught:
        read_comparison(path)
    assert caught.value.where == str(path)
    assert caught.value.why is not None
    assert why in caught.value.why
    assert "memaudit diff" in str(caught.value.next_step)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NothingToAuditError, match="no comparison"):
        read_comparison(tmp_path / "pipe")


def test_the_command_takes_runs_and_a_comparison_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAUDIT_HOME", str(tmp_path / "home"))
    saved = comparison_for_report(tmp_path)
    target = tmp_path / "report.html"
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), str(saved), str(saved), "-o", str(target)]
    found = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert found.exit_code == 0
    assert "from 2 directories and 1 comparison" in found.stderr
    text = target.read_text(encoding="utf-8")
    assert "<h1>2 runs and 1 comparison</h1>" in text
    assert "A is the run a of this page: diff.json names its manifest." in text
    assert "B is the run b of this page: diff.json names its manifest." in text
    alone = CliRunner().invoke(command, [str(saved), "-o", str(target)], catch_exceptions=False)
    assert alone.exit_code == 0
    assert "<h1>a and b</h1>" in target.read_text(encoding="utf-8")


# The page.


def test_it_tells_for_each_source_the_step_at_which_it_parted(different: dict[str, Any]) -> None:
    text = page(different)
    assert headline(text) == ("different", "signed")
    keys = re.findall(r'<h3 id="s1-(\w+)"', text)
    assert keys[2:] == ["runs", "timeline", "curve", "causes", "first", "beside", "program", "commands", "inputs"]
    table = text[text.index("For each source, the step at which it parted") :]
    table = table[: table.index("</table>")]
    cells = re.findall(r"<t[hd][^>]*>\s*([^<\s][^<]*?)\s*</t[hd]>", table)
    assert cells[:4] == ["source", "kind", "parted", "steps it differs"]
    assert cells[4:] == ["params", "params", "step 4", "3", "loss", "loss", "step 4", "3"]
    assert "steps 1 to 3" in text
    assert "params/layer.weight" in text
    assert "[0, 0]" in text
    assert "Measured in the anchors after step 6" in text
    for side in ("a", "b"):
        assert different["runs"][side]["manifest"] in text
        assert different["runs"][side]["head"] in text


def test_the_curve_is_drawn_and_stands_in_tables_too(different: dict[str, Any]) -> None:
    text = page(different)
    assert text.count("<figure>") == 1
    assert "loss, |A − B| at each step" in text
    assert "Loss of both, in a few numbers" in text
    assert "Distance after each anchor that both have, as a share of A&#39;s norm" in text
    assert "0.00045" in text


def test_lines_of_the_programs_keep_their_signs(different: dict[str, Any]) -> None:
    different["program"][0]["diff"].insert(1, "-\told = <b>")
    text = page(different)
    assert "<ins>+model.weight += 0.001</ins>" in text
    assert "<del>-   old = &lt;b&gt;</del>" in text
    assert '<span class="hunk">@@ -1 +1,2 @@</span>' in text


def test_a_program_whose_text_was_not_kept_is_said_to_be_one(different: dict[str, Any]) -> None:
    different["program"] = [{"path": "train.py", "change": "only in A", "diff": None}]
    text = page(different)
    assert "Its text was not kept." in text
    assert "<pre" not in text


@pytest.mark.parametrize(
    ("verdict", "looks", "words"),
    [
        ("equal", ("equal", "same"), "Nowhere: every digest of 6 steps is equal."),
        ("not comparable", ("not comparable", "plain"), "Why they cannot be compared"),
        ("inconclusive", ("inconclusive", "open"), "B is unfinished."),
    ],
)
def test_the_other_verdicts_have_words_of_their_own(
    documents: dict[str, Any], verdict: str, looks: tuple[str, str], words: str
) -> None:
    text = page(documents[verdict])
    assert headline(text) == looks
    assert words in text
    assert "<figure>" not in text


@pytest.mark.parametrize(
    ("verified", "compared", "looks"),
    [
        ("passed", "equal", ("passed", "good")),
        ("passed", "different", ("different", "signed")),
        ("passed", "not comparable", ("not comparable", "plain")),
        ("inconclusive", "different", ("inconclusive", "open")),
        ("failed", "equal", ("failed", "bad")),
        ("failed", "different", ("failed", "bad")),
    ],
)
def test_a_difference_is_no_failure_and_hides_none(
    documents: dict[str, Any], tmp_path: Path, verified: str, compared: str, looks: tuple[str, str]
) -> None:
    comparison_document(tmp_path)
    assert headline(page(documents[compared], runs=(tmp_path / "a",), verdict=verified)) == looks


def test_many_subjects_are_counted_and_differences_apart(documents: dict[str, Any]) -> None:
    text = page(*[documents["equal"]] * 5, *[documents["different"]] * 2, documents["inconclusive"])
    assert "5 of 6 hold; 2 comparisons found a difference; each is explained below." in text
    assert "<h1>8 comparisons</h1>" in text


def test_two_equal_comparisons_are_equal_and_not_passed(documents: dict[str, Any]) -> None:
    assert headline(page(documents["equal"], documents["equal"])) == ("equal", "same")


def test_nothing_is_called_proved_by_a_comparison_of_runs_that_are_not_there(different: dict[str, Any]) -> None:
    text = page(different)
    assert "<p>Nothing.</p>" in text
    assert "Which runs A and B are: none on this page has the manifest that diff.json names." in text
    assert "The comparison: it is what diff.json says, and was not made again for this page." in text


def test_what_a_re_execution_found_is_shown(different: dict[str, Any]) -> None:
    assert 'id="s1-refined"' not in page(different)
    assert "--refine" not in page(different)
    different["refined"] = REFINED
    text = page(different)
    assert "from the anchors after step 2 to step 5" in text
    assert "model.block.inner, call 2 in that step" in text
    assert "step 4, in params" in text
    assert "Run B does not repeat itself." in text
    assert "--refine" in text


def test_where_the_order_parted_the_samples_are_named(different: dict[str, Any]) -> None:
    different["first"] |= {"source": "ids", "kind": "ids", "tensor": None, "chunk": None, "detail": None}
    different["first"]["sample"] = {"pass": 2, "position": 0, "a": 17, "b": None}
    text = page(different)
    assert "pass 2, place 1" in text
    assert "none: its pass is over" in text


def test_numbers_that_are_not_finite_are_shown_as_such(different: dict[str, Any]) -> None:
    different["first"]["detail"] |= {"b": "NaN", "largest": "Infinity", "relative": None}
    rows = re.findall(r"<t[hd][^>]*>\s*([^<\s][^<]*?)\s*</t[hd]>", page(different))
    assert rows[rows.index("value in B") + 1] == "NaN"
    assert rows[rows.index("largest difference") + 1] == "∞"
    assert "distance" not in rows


def test_a_run_that_only_ends_earlier_has_neither_curve_nor_cause(different: dict[str, Any]) -> None:
    end = {"source": "(end)", "kind": "end", "step": 7, "at": "end"}
    different["parted"] = [{**end, "steps": 1}]
    different["first"] = {**end, "tensor": None, "chunk": None, "detail": None, "sample": None}
    different["growth"], different["causes"] = {"loss": [], "sources": []}, []
    text = page(different)
    assert "step 7, which only one run has" in text
    assert 'id="s1-curve"' not in text
    assert 'id="s1-causes"' not in text


def test_equal_comparisons_give_equal_bytes(different: dict[str, Any]) -> None:
    assert page(different) == page(copy.deepcopy(different))


def test_values_beside_each_other_are_shown_to_their_last_digit(different: dict[str, Any]) -> None:
    different["beside"] = [{"group": "hyper", "name": "hyper.lr", "a": 0.1, "b": 0.1 + 1e-12}]
    text = page(different)
    assert "0.1000000000009999" in text or "0.100000000001" in text


# Hostile documents.


def spoilt(value: Any, members: frozenset[str], text: str) -> Any:
    """`value` with every free text replaced."""
    if isinstance(value, dict):
        return {
            name: text if name in members and isinstance(each, str) else spoilt(each, members, text)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [text if isinstance(each, str) else spoilt(each, members, text) for each in value]
    return value


FREE = frozenset(
    {"sentence", "path", "seed", "program", "source", "kind", "tensor", "place", "name", "a", "b", "module"}
)


def test_hostile_text_is_inert(different: dict[str, Any]) -> None:
    different["refined"] = copy.deepcopy(REFINED)
    different["notes"] = different["reasons"] = ["x"]
    different["first"]["detail"]["values"] = [{"place": "x", "a": ["x", {"x": "x"}], "b": "x"}]
    different["causes"][0]["evidence"] = ["x"]
    numbers = {name: different["first"]["detail"][name] for name in ("a", "b")}
    document = spoilt(different, FREE, HOSTILE)
    document["first"]["detail"] |= numbers
    text = page(document)
    elements = Elements(text)
    assert elements.all("script", "img", "iframe", "object", "embed", "link", "base") == []
    assert not any(name.startswith("on") or name == "style" for _, found in elements.found for name in found)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    ids = [found["id"] for _, found in elements.found if "id" in found]
    assert len(ids) == len(set(ids))
    assert elements.open == []


def test_the_page_stays_small_whatever_the_document_holds(different: dict[str, Any]) -> None:
    long = "x" * 3000
    different["growth"]["loss"] = [{"step": n, "a": float(n % 7), "b": 0.5} for n in range(20_000)]
    different["growth"]["sources"] = [
        {"step": n, "source": f"{long}{m}", "relative": 0.1 + n, "largest": 1.0, "differing": 1, "elements": 1}
        for n in range(40)
        for m in range(60)
    ]
    different["parted"] *= 1000
    different["beside"] = [{"group": each, "name": long, "a": long, "b": f"{long}y"} for each in GROUPS] * 300
    different["program"] = [{"path": long, "change": "changed", "diff": [f"+{long}"] * 500}] * 50
    different["causes"] = [{**different["causes"][0], "evidence": [long] * 50}] * 300
    different["first"]["detail"]["values"] = [{"place": long, "a": long, "b": None}] * 900
    different["notes"] = [long] * 900
    text = page(different)
    assert len(text.encode()) <= MAX_BYTES
    assert "more row" in text
    assert "more line" in text


def test_a_screen_of_values_that_part_late_shows_where() -> None:
    one, two = beside_each_other("z" * 5000 + "one", "z" * 5000 + "two")
    assert one.endswith("zone")
    assert two.endswith("ztwo")
    assert one.startswith("…")


LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=300)


@given(LEAVES, LEAVES)
def test_values_that_differ_never_look_equal_beside_each_other(a: object, b: object) -> None:
    one, two = beside_each_other(a, b)
    assert (one == two) == (json.dumps(a) == json.dumps(b))


# The curve.


def growth(loss: list[tuple[Any, ...]], sources: list[tuple[Any, ...]]) -> dict[str, Any]:
    names = ("step", "source", "relative")
    return {
        "parted": [],
        "growth": {
            "loss": [dict(zip(("step", "a", "b"), each, strict=True)) for each in loss],
            "sources": [
                {**dict(zip(names, each, strict=True)), "largest": None, "differing": 1, "elements": 1}
                for each in sources
            ],
        },
    }


def test_equal_losses_break_the_line_and_values_that_are_not_finite_are_told() -> None:
    losses = [(1, 1.0, 0.9), (2, 1.0, 1.0), (3, 1.0, 0.8), (4, "NaN", 1.0), (5, "Infinity", 1.0), (6, 1.0, 0.7)]
    section = curve_section(growth(losses, [(1, "params", "Infinity"), (2, "params", None)]), Limits())
    [chart] = section.charts
    assert "1 step with equal losses" in chart.caption
    assert "4 values not finite and not drawn" in chart.caption
    rows = {row[0]: row for row in section.tables[0].rows}
    assert rows["first that is not finite"][1:3] == ("4", "not a number")
    assert rows["farthest apart"][1] == "6"
    assert section.tables[1].rows == (("params", "∞", "–"),)


@pytest.mark.parametrize(
    ("losses", "sources"),
    [
        ([(7, 1.0, 0.5)], []),
        ([], [(0, "params", 0.5)]),
        ([(10**20 - 1, 5e-324, 0.0)], [(3, "params", 1e-310)]),
        ([(1, 1.7e308, -1.7e308), (2, 1e299, 0.0)], [(1, "params", 1e-299), (2, "params", 1e299)]),
        ([(1, 1.0, 1.0)], []),
        ([(1, 2.0, 1.0), (1, 3.0, 1.0)], [(1, "params", 1.0), (1, "params", 2.0)]),
    ],
    ids=["one step", "one anchor", "tiny", "huge", "equal", "twice"],
)
def test_odd_curves_are_drawn_or_left_out(losses: list[Any], sources: list[Any]) -> None:
    section = curve_section(growth(losses, sources), Limits())
    for chart in section.charts:
        assert "NaN" not in chart.svg
        assert "Infinity" not in chart.svg


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_a_logarithmic_axis_encloses_its_values_and_has_few_ticks(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks, bounds = charts._logarithmic(low, high)
    assert bounds[0] < low <= high < bounds[1]
    assert ticks == sorted(set(ticks))
    assert all(bounds[0] <= tick <= bounds[1] for tick in ticks)
    assert 2 <= len(ticks) <= 9


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity", "-Infinity"])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), NUMBERS, NUMBERS), max_size=12),
    st.lists(st.tuples(st.integers(0, 40), st.text(max_size=4), st.none() | NUMBERS), max_size=12),
)
def test_every_curve_that_fits_the_schema_gives_a_section(losses: list[Any], sources: list[Any]) -> None:
    section = curve_section(growth(losses, sources), Limits())
    assert section.text
    assert section == curve_section(growth(losses, sources), Limits())


def test_of_many_sources_the_parameters_are_drawn_first() -> None:
    names = [f"buffers.{number}" for number in range(12)]
    document = growth([], [(4, name, 0.1) for name in [*names, "params"]])
    document["parted"] = [{"source": "params", "kind": "params"}]
    section = curve_section(document, Limits())
    assert section.tables[0].rows[0][0] == "params"
    assert len(section.tables[0].rows) == 13
    assert "5 more sources in the table only" in section.charts[0].caption
    assert section.charts[0].svg.count(">buffers.") == 7


def test_runs_are_named_by_what_tells_them_apart() -> None:
    def names(a: str, b: str) -> tuple[str, str]:
        return run_names({"a": {"path": a}, "b": {"path": b}})

    assert names("runs/monday", "runs/tuesday/") == ("monday", "tuesday")
    assert names("one/run", "two/run") == ("one/run", "two/run")
    assert names("same/run", "same/run") == ("run", "run")
    assert names("", "") == ("", "")
    assert names("C:\\x\\run", "C:\\y\\run") == ("x/run", "y/run")
