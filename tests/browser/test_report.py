"""The page in a browser: it draws, and the browser has nothing to say about it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from auditor.report.files import read_comparison
from auditor.report.model import build_report
from auditor.report.render import render_within
from tests.support.build_comparison import comparison_for_report
from tests.support.build_study import run_for_report, study_for_report, verification

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --hide-scrollbars --enable-logging=stderr --log-level=0"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    directories = [run_for_report(folder / "digits"), study_for_report(folder / "digits-study")]
    verifications = [verification("run", text="<script>console.log('ran')</script>"), verification("study")]
    compared = [read_comparison(comparison_for_report(folder))]
    page = folder / "report.html"
    page.write_bytes(render_within(lambda limits: build_report(directories, verifications, limits, compared)))
    return page


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """Standard output, and what the page wrote to the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_browser_would_report_a_broken_page(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!DOCTYPE html><meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><p style='x:y'>"
    )
    assert "CONSOLE" in browse(broken, tmp_path / "profile", "--dump-dom")[1]


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [1280, 500])
def test_it_draws_without_a_console_message(report: Path, tmp_path: Path, scheme: int, width: int) -> None:
    image = tmp_path / "page.png"
    flags = (f"--screenshot={image}", f"--window-size={width},1600", f"--blink-settings=preferredColorScheme={scheme}")
    _, console = browse(report, tmp_path / "profile", *flags)
    assert console == ""
    header = image.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:24]) == (width, 1600)
    assert image.stat().st_size > 20_000


def test_the_browser_reads_it_as_it_was_written(report: Path, tmp_path: Path) -> None:
    tree, console = browse(report, tmp_path / "profile", "--dump-dom")
    assert console == ""
    assert "<script" not in tree
    text = report.read_text(encoding="utf-8")
    assert text.count("<ins>") == 1
    for tag in ("table", "svg", "section", "li", "h3", "figure", "pre", "ins"):
        assert len(re.findall(f"<{tag}[ >]", tree)) == len(re.findall(f"<{tag}[ >]", text)), tag
