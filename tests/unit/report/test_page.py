"""The page as a whole: what it says, what it escapes, what it may load, and that equal inputs give equal bytes."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from auditor.errors import MemauditError, NothingToAuditError
from auditor.report.model import build_report, find_directories
from auditor.report.render import MAX_BYTES, environment, render_within
from tests.support.build_study import run_for_report, study_for_report, verification

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\u202egnp\x00"


def page(*directories: Path, **choices: Any) -> str:
    verifications = [verification("run" if (d / "trace.jsonl").exists() else "study", **choices) for d in directories]
    return render_within(lambda limits: build_report(list(directories), verifications, limits)).decode()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("report")
    return run_for_report(folder / "digits"), study_for_report(folder / "digits-study")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and whether what is opened is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_it_opens_with_the_verdict_and_what_was_and_was_not_proved(both: tuple[Path, Path]) -> None:
    text = page(both[0])
    first = text[text.index("<h1>") : text.index("Claims, by how well")]
    places = [text.index(words) for words in ("a key you trust signed it", "What was proved", "What was not proved")]
    assert places == sorted(places)
    assert "That training was honest." in text
    assert "passed" in first


def test_every_part_is_there_in_order(both: tuple[Path, Path]) -> None:
    text = page(*both)
    keys = re.findall(r'<h3 id="s1-(\w+)"', text)
    assert keys[2:] == (
        [
            "claims",
            "contract",
            "order",
            "census",
            "anchors",
            "measurements",
            "findings",
            "environment",
            "commands",
            "inputs",
        ]
    )
    assert re.findall(r'<h3 id="s2-(\w+)"', text)[2:] == (
        ["claims", "plan", "effects", "controls", "receipts", "findings", "environment", "commands", "inputs"]
    )


def test_equal_inputs_give_equal_bytes_wherever_they_lie(both: tuple[Path, Path], tmp_path: Path) -> None:
    first = page(*both)
    assert first == page(*both)
    shutil.copytree(both[0].parent, tmp_path / "elsewhere")
    assert first == page(*(tmp_path / "elsewhere" / path.name for path in both))


def test_hostile_strings_are_text(tmp_path: Path) -> None:
    names = dict.fromkeys(("source", "stream", "probe", "program", "arm"), HOSTILE.replace("\x00", ""))
    run = run_for_report(tmp_path / "a <b>&'\" run", names=names)
    study = study_for_report(tmp_path / "b<script>", names=names)
    text = page(run, study, verdict="failed", text=HOSTILE)
    elements = Elements(text)
    assert elements.all("script", "img", "iframe", "object", "embed", "link", "base") == []
    assert not any(name.startswith("on") or name == "style" for _, found in elements.found for name in found)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7*7 }}" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "\\u{1b}[31m\\u{202e}gnp" in text


def test_the_policy_lets_in_one_style_sheet_and_nothing_else(both: tuple[Path, Path]) -> None:
    text = page(*both)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [m["content"] for m in Elements(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [f"default-src 'none'; style-src 'sha256-{expected}'; base-uri 'none'; form-action 'none'"]
    assert "url(" not in style
    assert "@import" not in style


def test_nothing_is_fetched_and_ids_are_unique(both: tuple[Path, Path]) -> None:
    elements = Elements(page(*both))
    assert not any(name in found for _, found in elements.found for name in ("src", "srcset", "xlink:href", "data"))
    links = [str(found["href"]) for _, found in elements.found if "href" in found]
    ids = [found["id"] for _, found in elements.found if "id" in found]
    assert len(ids) == len(set(ids))
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    references = [str(found["aria-labelledby"]) for _, found in elements.found if "aria-labelledby" in found]
    assert set(references) <= set(ids)
    assert elements.open == []


def test_headings_go_down_one_level_at_a_time_and_tables_are_described(both: tuple[Path, Path]) -> None:
    elements = Elements(page(*both))
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(elements.all("table")) == len(elements.all("caption")) > 10
    assert all(found.get("scope") in ("col", "row") for found in elements.all("th"))
    assert len(elements.all("figure")) == len(elements.all("figcaption")) == 6
    assert elements.all("html")[0]["lang"] == "en"
    assert len(elements.all("main")) == len(elements.all("nav")) == 1


def test_the_page_names_the_hashes_of_its_inputs(both: tuple[Path, Path]) -> None:
    text = page(*both)
    for path in (both[0] / "trace.jsonl", both[0] / "environment.json", both[1] / "estimate.json"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_the_page_stays_small_whatever_it_shows(tmp_path: Path) -> None:
    runs = [run_for_report(tmp_path / f"run{number}", steps=1500) for number in range(8)]
    assert len(page(*runs, text="x" * 5000).encode()) <= MAX_BYTES
    with pytest.raises(MemauditError, match="more than"):
        render_within(lambda limits: build_report(runs[:1], [verification()], limits), max_bytes=1000)


def test_an_unfinished_run_is_said_to_be_one(tmp_path: Path) -> None:
    assert "unfinished: the trace has no end" in page(
        run_for_report(tmp_path / "cut", ended=False), verdict="inconclusive"
    )


def test_a_failed_verification_shows_what_was_recorded_and_found(both: tuple[Path, Path]) -> None:
    text = page(both[0], verdict="failed")
    assert "recorded <code>9f1c</code>, found <code>77a0</code>" in text
    assert text.index("MA302") < text.index("MA203")


@pytest.mark.parametrize(
    ("verdict", "words"), [("gate failed", "part at step 131, bn"), ("null failed", "carry/carry")]
)
def test_a_study_whose_gate_or_nulls_failed_reports_nothing_but_that(tmp_path: Path, verdict: str, words: str) -> None:
    text = page(study_for_report(tmp_path / "study", verdict=verdict))
    assert words in text
    assert "no effect is believed" in text
    assert "raised nll" not in text
    assert "<figure>" not in text


def test_files_that_cannot_be_read_are_named_and_never_a_crash(both: tuple[Path, Path], tmp_path: Path) -> None:
    run, study = tmp_path / "run", tmp_path / "study"
    shutil.copytree(both[0], run)
    shutil.copytree(both[1], study)
    (run / "environment.json").write_text('{"format": NaN}')
    (run / "manifest.json").write_text("[]")
    (run / "trace.jsonl").write_bytes((run / "trace.jsonl").read_bytes()[:5000] + b"\xff\n{}\n")
    (study / "estimate.json").write_text('{"format": "estimate-1"}')
    text = page(run, study, verdict="inconclusive")
    for name in ("environment.json", "manifest.json", "trace.jsonl", "estimate.json"):
        assert re.search(f"Could not be read: {name}[: ]", text)
    assert "There is no readable estimate.json." in text


def test_runs_and_studies_are_found_below_a_folder(both: tuple[Path, Path], tmp_path: Path) -> None:
    assert find_directories([both[0].parent]) == list(both)
    assert find_directories([both[1], both[0], both[1]]) == list(both)
    with pytest.raises(NothingToAuditError, match="no run and no study"):
        find_directories([tmp_path])


def test_a_verdict_nobody_knows_is_never_green(both: tuple[Path, Path]) -> None:
    text = page(both[0], verdict="splendid")
    assert '<span class="badge open large">' in text


def test_every_template_escapes_and_refuses_unknown_names() -> None:
    made = environment()
    assert made.autoescape is True
    assert made.from_string("{{ x }}").render(x="<b>\x07") == "&lt;b&gt;\\u{7}"
    with pytest.raises(Exception, match="undefined"):
        made.from_string("{{ nobody }}").render()
