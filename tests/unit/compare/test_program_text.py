"""How the kept text of two programs differs."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.compare import program_text
from auditor.compare.program_text import FileDifference, ProgramTexts
from tests.support.build_pair import Script, sides, write_pair
from tests.support.build_run import PROGRAM

TEXT = b"".join(b"line %d\n" % k for k in range(12))


def texts(folder: Path, a: dict[str, bytes], b: dict[str, bytes]) -> tuple[FileDifference, ...]:
    def step(run: Script) -> None:
        run.go()

    pair = write_pair(folder, step, step, both={"texts": {"train.py": b"x\n", **a}}, texts={"train.py": b"x\n", **b})
    return ProgramTexts(*sides(*pair)).differences


def test_equal_programs_do_not_differ(tmp_path: Path) -> None:
    assert texts(tmp_path, {"m.py": TEXT}, {"m.py": TEXT}) == ()


def test_a_changed_file_is_a_unified_diff(tmp_path: Path) -> None:
    (found,) = texts(tmp_path, {"m.py": TEXT}, {"m.py": TEXT.replace(b"line 5", b"line five")})
    assert (found.path, found.change, found.changed_lines) == ("m.py", "changed", 2)
    assert found.lines == ("@@ -4,5 +4,5 @@", " line 3", " line 4", "-line 5", "+line five", " line 6", " line 7")


def test_the_program_comes_first_and_what_only_one_has_last(tmp_path: Path) -> None:
    a = {"train.py": b"1\n", "b.py": b"1\n", "c.py": b"1\n", "only_a.py": b"1\n"}
    b = {"train.py": b"2\n", "b.py": b"2\n", "c.py": b"2\n", "only_b.py": b"1\n2\n"}
    found = texts(tmp_path, a, b)
    assert [(each.path, each.change) for each in found] == [
        ("train.py", "changed"),
        ("b.py", "changed"),
        ("c.py", "changed"),
        ("only_a.py", "only in A"),
        ("only_b.py", "only in B"),
    ]
    assert found[3].lines == ("@@ -1 +0,0 @@", "-1")
    assert found[4].changed_lines == 2


def test_lines_that_look_like_a_header_are_counted(tmp_path: Path) -> None:
    (found,) = texts(tmp_path, {"m.py": b"-- a\n++ b\n"}, {"m.py": b""})
    assert found.lines == ("@@ -1,2 +0,0 @@", "--- a", "-++ b")
    assert found.changed_lines == 2


def test_a_file_that_differs_in_its_line_ends_alone_has_no_lines(tmp_path: Path) -> None:
    (found,) = texts(tmp_path, {"m.py": b"a\nb\n"}, {"m.py": b"a\r\nb"})
    assert (found.change, found.lines, found.changed_lines) == ("changed", (), 0)


def test_bytes_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    (found,) = texts(tmp_path, {"m.py": b"\xff\n"}, {"m.py": b"\xfe\n"})
    assert found.lines == ("@@ -1 +1 @@", "-\\xff", "+\\xfe")


class Named(Script):
    """A program under another name, of which only some texts are kept."""

    name = "train.py"
    kept_only: tuple[str, ...] | None = None

    def environment(self, torch: str = "2.13.0", texts: dict[str, bytes] | None = None) -> Any:
        found = super().environment(torch, texts)
        found["program"]["path"] = f"/home/{self.name}"
        if self.name != "train.py":
            found["program"]["kept"] = sorted(self.name if each == "train.py" else each for each in self.kept())
        return found

    def kept(self) -> list[str]:
        return super().kept() if self.kept_only is None else sorted(self.kept_only)

    def write(self, path: str, data: bytes) -> str:
        return super().write(path.replace("source/train.py", f"source/{self.name}"), data)


def test_the_programs_own_files_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    a = Named(tmp_path / "a", lambda run: run.go(), texts={"train.py": b"1\n"}).build()
    b = Named(tmp_path / "b", lambda run: run.go(), texts={"train.py": b"2\n"})
    b.name = "other.py"
    (found,) = ProgramTexts(*sides(a, b.build())).differences
    assert (found.path, found.change, found.changed_lines) == ("train.py", "changed", 2)


def test_a_text_that_was_not_kept_is_none(tmp_path: Path) -> None:
    a = Named(tmp_path / "a", lambda run: run.go(), texts=PROGRAM)
    a.kept_only = ("train.py",)
    b = Script(tmp_path / "b", lambda run: run.go(), texts={**PROGRAM, "parts/model.py": b"other"}).build()
    found = ProgramTexts(*sides(a.build(), b)).differences
    assert [(each.path, each.change, each.lines) for each in found] == [("parts/model.py", "changed", None)]


def test_damaged_texts_are_noted(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, lambda run: run.go(), lambda run: run.go(), texts={**PROGRAM, "train.py": b"new\n"})
    (b / "source" / "train.py").write_bytes(b"forged\n")
    one, two = sides(a, b)
    (found,) = ProgramTexts(one, two).differences
    assert (found.path, found.lines) == ("train.py", None)
    assert two.damage == {"source/train.py": "a kept file is not the one that was recorded"}
    assert one.damage == {}


def test_without_an_environment_nothing_is_compared(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, lambda run: run.go(), lambda run: run.go(), texts={**PROGRAM, "train.py": b"new\n"})
    (a / "environment.json").unlink()
    assert ProgramTexts(*sides(a, b)).differences == ()


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=9), st.lists(st.sampled_from(["a", "b", "c"]), max_size=9))
def test_one_hunk_turns_one_text_into_the_other(a: list[str], b: list[str]) -> None:
    """Texts with so many lines that difflib would take hours, made so by whoever submits them."""
    found = program_text._one_hunk(a, b)
    if a == b:
        assert found == ()
        return
    head, *lines = found
    begin, before, _, after = map(int, re.findall(r"[0-9]+", head))
    old = [line[1:] for line in lines if line[0] in " -"]
    new = [line[1:] for line in lines if line[0] in " +"]
    assert (len(old), len(new)) == (before, after)
    assert a[begin - 1 : begin - 1 + before] == old
    assert a[: begin - 1] + new + a[begin - 1 + before :] == b


def test_long_texts_are_compared_by_their_beginning_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_text, "MOST_LINES", 10)
    (found,) = texts(tmp_path, {"m.py": TEXT}, {"m.py": TEXT.replace(b"line 5", b"x").replace(b"line 7", b"y")})
    assert found.lines == (
        "@@ -4,7 +4,7 @@",
        *(" line 3", " line 4"),
        *("-line 5", "-line 6", "-line 7"),
        *("+x", "+line 6", "+y"),
        *(" line 8", " line 9"),
    )
