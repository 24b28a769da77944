from __future__ import annotations

import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

import pytest

from auditor.cli.progress import MAX_ROWS, LiveProgress
from auditor.replay.cells import Cell

ROOT = Path(__file__).resolve().parents[3]
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

# What a study tells, in a process of its own that thinks it has a terminal.
SCRIPT = """
import sys
from auditor.cli.progress import LiveProgress
from tests.unit.cli.test_progress import study
arms = [*sys.argv[2:], "lr=0.5"]
cells = study(arms, units=3)
moments = iter(range(0, 10000, 2))
with LiveProgress(clock=lambda: next(moments) if sys.argv[1] == "ticking" else 60.0) as progress:
    progress.planned(cells, cells[:2])
    for cell in cells[2:]:
        progress.started(cell)
        if cell is cells[4]:
            progress.retried(cell, "its process was killed by signal 9 (SIGKILL)")
            progress.started(cell)
        if cell is cells[5]:
            progress.failed(cell, "ValueError: [red]planted[/red] \\x1b]0;title\\x07")
        else:
            progress.finished(cell)
"""


def study(arms: Sequence[str], units: int) -> list[Cell]:
    """The gate, and each arm for each unit."""
    names = ["gate", *(name for name in ("carry", *arms) for _ in range(units))]
    return [
        Cell(name, None if name == "gate" else (number - 1) % units, 0, {"arm": name, "number": number})
        for number, name in enumerate(names)
    ]


def on_a_terminal(*words: str, columns: int = 100, rows: int = 40, **environment: str) -> str:
    """Run the script on a terminal of its own; return what it wrote there."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    sizes_and_colours = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")  # pytest's workers set sizes of their own
    plain = {name: value for name, value in os.environ.items() if name not in sizes_and_colours}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=ROOT,
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**plain, "TERM": "xterm-256color", **environment},
    )
    os.close(follower)
    seen = b""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # Linux: the other side is closed
                break
    process.wait()
    os.close(leader)
    assert process.returncode == 0, seen.decode(errors="replace")
    return seen.decode()


def in_lines(arms: Sequence[str], units: int, *, ended: int | None = None) -> list[str]:
    stream = io.StringIO()
    cells = study(arms, units)
    with LiveProgress(stream) as progress:
        progress.planned(cells, [])
        for cell in cells[:ended]:
            progress.started(cell)
            progress.finished(cell)
    return stream.getvalue().splitlines()


def test_on_a_terminal_a_table_of_arms_is_redrawn_and_left_once_at_the_end() -> None:
    seen = on_a_terminal("still")
    assert "\x1b[" in seen
    # Whatever was redrawn, the last drawing is whole and nothing follows it.
    last = CODES.sub("", seen[seen.rindex("arm") :]).replace("\r", "")
    lines = [line.split() for line in last.splitlines() if line.strip()]
    assert lines[0] == ["arm", "done", "running"]
    assert lines[1] == ["gate", "1/1"]
    assert lines[2] == ["carry", "3/3"]
    assert lines[3] == ["lr=0.5", "2/3"]
    assert lines[4][0] == "6/7"
    assert len(lines) == 5


def test_retries_and_failures_are_told_in_lines_above_the_table() -> None:
    seen = CODES.sub("", on_a_terminal("still"))
    assert "again: lr=0.5, unit 0: its process was killed by signal 9 (SIGKILL)" in seen
    assert "failed: lr=0.5, unit 1: ValueError: [red]planted[/red] \\x1b]0;title\\x07" in seen
    assert seen.rindex("failed:") < seen.rindex("arm ")


def test_rate_and_remaining_time_follow_from_the_cells_of_this_session() -> None:
    seen = CODES.sub("", on_a_terminal("ticking"))
    assert re.search(r"\d/7 cells · [\d.]+ a minute · \d:\d\d so far · about \d:\d\d to go", seen)


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "[/]", "a\x1b]0;title\x07b", "line\nbreak", "\u202eback", ":warning:"]
)
def test_hostile_names_are_shown_as_text(name: str) -> None:
    seen = on_a_terminal("still", name)
    shown = CODES.sub("", seen)
    assert "\x1b]0;" not in seen
    assert "\u202e" not in seen
    assert "line\nbreak" not in shown
    assert name.encode("unicode_escape").decode() in shown


def test_arms_beyond_those_with_rows_are_summed_up() -> None:
    seen = CODES.sub("", on_a_terminal("still", *(f"arm-{number:02}" for number in range(30))))
    last = seen[seen.rindex("arm  ") :]
    # The gate, carry and eighteen arms have their rows.
    assert "arm-17" in last
    assert "arm-18" not in last
    assert re.search(r"and 13 more arms\s+39/39|and 13 more arms\s+38/39", last)
    assert MAX_ROWS == 20


def test_a_low_terminal_still_shows_the_summary() -> None:
    seen = CODES.sub("", on_a_terminal("ticking", *(f"arm-{number:02}" for number in range(12)), rows=10))
    assert "more arms" in seen
    assert "a minute" in seen


def test_no_color_is_kept_to() -> None:
    assert "\x1b[1m" in on_a_terminal("still") or "\x1b[1;" in on_a_terminal("still")
    colours = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[\d;]+)m", on_a_terminal("still", NO_COLOR="1"))
    assert colours == []


def test_a_dumb_terminal_gets_lines() -> None:
    seen = on_a_terminal("still", TERM="dumb")
    assert "\x1b" not in seen
    assert "cells 4/7  carry, unit 2" in seen
    assert "failed: lr=0.5, unit 1" in seen


def test_without_a_terminal_each_tenth_is_told_in_a_line() -> None:
    lines = in_lines(["a", "b"], units=33)
    assert len(lines) == 10
    assert lines[0].startswith("cells 10/100  ")
    assert lines[-1].startswith("cells 100/100  ")


def test_a_study_that_goes_on_tells_nothing_of_what_was_done_before() -> None:
    stream = io.StringIO()
    cells = study(["a"], units=10)
    with LiveProgress(stream) as progress:
        progress.planned(cells, cells[:20])
        assert stream.getvalue() == ""
        progress.started(cells[20])
        progress.finished(cells[20])
    assert stream.getvalue() == f"cells 21/21  {cells[20].title}\n"


def test_long_lines_are_not_broken_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    cells = study(["a"], units=1)
    with LiveProgress(stream) as progress:
        progress.planned(cells, [])
        progress.failed(cells[1], "word " * 100)
    assert len(stream.getvalue().splitlines()) == 1


def test_closing_twice_is_no_error_and_nothing_planned_shows_nothing() -> None:
    stream = io.StringIO()
    progress = LiveProgress(stream, live=True)
    progress.close()
    progress.close()
    assert stream.getvalue() == ""


def test_progress_reaches_its_place_while_descriptor_2_is_a_cells_log(tmp_path: Path) -> None:
    # Cells in this process turn the descriptors 1 and 2 to their logs.
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom auditor.cli.progress import LiveProgress\n"
        "from tests.unit.cli.test_progress import study\n"
        "cells = study(['a'], units=1)\nprogress = LiveProgress()\nprogress.planned(cells, [])\n"
        f"os.dup2(os.open({str(tmp_path / 'log.txt')!r}, os.O_WRONLY | os.O_CREAT), 2)\n"
        "progress.failed(cells[1], 'planted')\nprogress.close()\n"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "failed: carry, unit 0: planted" in answer.stderr
    assert (tmp_path / "log.txt").read_text() == ""
