"""What a forked process writes lands in its scratch folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from auditor.recorder import scratch as module
from auditor.recorder.forkable import open_files
from auditor.recorder.scratch import Scratch, ScratchError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="live processes are forked on Linux only")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with an older and a newer file."""
    folder = tmp_path / "home" / "project"
    (folder / "data" / "deep" / "deeper" / "deepest").mkdir(parents=True)
    for name in ("old.txt", "new.txt", "data/old.bin", "data/deep/deeper/deepest/x.txt", "../beside.txt"):
        (folder / name).write_text(name)
    (folder / "link").symlink_to("data")
    (folder / "nowhere").symlink_to("gone")
    monkeypatch.chdir(folder)
    return folder


def survey(
    here: Path, *, since: float | None = None, whole: Collection[Path] = (), own: Collection[int] = ()
) -> Scratch:
    """Survey with what this test process itself has open left out; ``new.txt`` alone changes after ``since``."""
    if since is None:
        since = time.time() + 60
        os.utime(here / "new.txt", (since + 60, since + 60))
    return Scratch(here.parents[1] / "scratch", since=since, whole=whole, own=own)


def in_a_fork(act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            answer = json.dumps(act())
            os.write(writing, answer.encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(answer)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_written_by_relative_paths_leave_the_originals_as_they_are(here: Path) -> None:
    before = contents(here)
    surveyed = survey(here, own=open_files())

    def act() -> Any:
        surveyed.enter("a")
        found = [Path(name).read_text() for name in ("old.txt", "new.txt", "data/old.bin", "link/old.bin")]
        Path("new.txt").write_text("overwritten")
        with Path("new.txt").open("a") as file:
            file.write("!")
        Path("made.txt").write_text("made")
        Path("data/made.txt").write_text("made")
        with Path("old.txt").open("a") as file:
            file.write("an arm alone writes this one")
        with Path("link/old.bin").open("a") as file:
            file.write("and this one")
        return [
            found,
            Path("new.txt").read_text(),
            sorted(path.name for path in Path("data").iterdir()),
            os.environ.get("PWD") in (None, str(Path.cwd())),
        ]

    assert in_a_fork(act) == [
        ["old.txt", "new.txt", "data/old.bin", "data/old.bin"],
        "overwritten!",
        ["deep", "made.txt", "old.bin"],
        True,
    ]
    assert contents(here) == before
    surveyed.remove("a")
    assert not [path for path in (here.parents[1] / "scratch").rglob("*") if path.name.endswith(".a")]
    assert contents(here) == before, "what is removed is links, not what they lead to"


def test_paths_that_lead_out_of_the_working_directory_can_be_read(here: Path) -> None:
    surveyed = survey(here, own=open_files())

    def act() -> Any:
        surveyed.enter("a")
        return [Path(name).read_text() for name in ("../beside.txt", "../project/old.txt", "../../home/beside.txt")]

    assert in_a_fork(act) == ["../beside.txt", "old.txt", "../beside.txt"]


def test_an_open_file_goes_on_in_a_copy_of_each_child(here: Path) -> None:
    own = open_files()
    with Path("log.txt").open("a+") as log, Path("old.txt").open() as read:
        log.write("flushed\n")
        log.flush()
        log.write("held back\n")
        assert read.read(2) == "ol"
        surveyed = survey(here, own=own)

        def act(name: str) -> Any:
            surveyed.enter(name)
            log.write(f"of {name}\n")
            log.flush()
            os.lseek(read.fileno(), 4, os.SEEK_SET)
            log.seek(0)
            return [log.read(), os.read(read.fileno(), 3).decode(), Path("log.txt").read_text()]

        for name in ("a", "b"):
            text = f"flushed\nheld back\nof {name}\n"
            assert in_a_fork(lambda name=name: act(name)) == [text, "txt", text]
            assert (here / "log.txt").read_text() == "flushed\n"
            assert os.lseek(read.fileno(), 0, os.SEEK_CUR) == len("old.txt"), "read ahead by this process alone"
    assert (here / "log.txt").read_text() == "flushed\nheld back\n"


def test_an_open_file_without_a_name_is_copied_too(here: Path) -> None:
    own = open_files()
    descriptor = os.open(here / "gone.bin", os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, b"0123456789")
        (here / "gone.bin").unlink()
        os.lseek(descriptor, 3, os.SEEK_SET)
        surveyed = survey(here, own=own)

        def act() -> Any:
            surveyed.enter("a")
            os.write(descriptor, b"x")
            return os.pread(descriptor, 20, 0).decode()

        assert in_a_fork(act) == "012x456789"
        assert os.pread(descriptor, 20, 0) == b"0123456789"
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 3
    finally:
        os.close(descriptor)


def test_directories_that_are_to_be_whole_or_lie_deep_are_links(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "trace.jsonl").write_text("")
    surveyed = survey(here, whole=[here / "run"], own=open_files())

    def act() -> Any:
        surveyed.enter("a")
        return [Path(name).is_symlink() for name in ("run", "data", "data/deep", "data/deep/deeper")]

    assert in_a_fork(act) == [True, False, False, True]


def test_a_directory_with_too_many_entries_is_a_link_and_the_working_directory_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENTRIES", 20)
    (here / "many").mkdir()
    for number in range(20):
        (here / "many" / str(number)).touch()
    surveyed = survey(here, own=open_files())

    def act() -> Any:
        surveyed.enter("a")
        return [Path("many").is_symlink(), Path("data").is_symlink()]

    assert in_a_fork(act) == [True, False]
    for number in range(20):
        (here / str(number)).touch()
    with pytest.raises(ScratchError) as caught:
        Scratch(here.parents[1] / "again", since=0.0, whole=(), own=open_files())
    assert "entries" in (caught.value.why or "")


def test_more_than_can_be_copied_is_refused_with_the_size(here: Path) -> None:
    with (here / "large.bin").open("wb") as file:
        file.truncate(module.COPIED_BYTES + 2**20)
    with pytest.raises(ScratchError) as caught:
        survey(here, since=0.0, own=open_files())
    assert "257 MiB" in (caught.value.why or "")
    survey(here, own=open_files())  # older than the recording: it is linked


def test_older_files_that_are_large_are_links(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDER_FILE_BYTES", len("old.txt"))
    surveyed = survey(here, own=open_files())

    def act() -> Any:
        surveyed.enter("a")
        return [Path(name).is_symlink() for name in ("old.txt", "data/old.bin", "new.txt")]

    assert in_a_fork(act) == [False, True, False]
