"""What of the program is read, hashed and kept. The main module and its imports are made up here, on a real disk."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest

from auditor.artifact.run_directory import MAX_SOURCE_BYTES, MAX_SOURCE_FILE_BYTES
from auditor.recorder import program_files
from auditor.recorder.program_files import read_program


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``train.py`` in a folder of its own, as the main module; imports are added by ``imported``."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('training')\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "train.py"), raising=False)
    return folder


def imported(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    module = types.ModuleType(f"made_up_{name}")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, f"made_up_{name}", module)
    return hashlib.sha256(data).hexdigest()


def test_program_and_modules_are_hashed_and_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = imported(monkeypatch, project, "parts/model.py", b"model")
    files = read_program()
    assert files.described["modules"] == {"parts/model.py": sha256}
    assert files.described["kept"] == ["parts/model.py", "train.py"]
    assert files.kept == {"train.py": (project / "train.py").read_bytes(), "parts/model.py": b"model"}
    assert files.described["sha256"] == hashlib.sha256(files.kept["train.py"]).hexdigest()


def test_what_is_not_kept_is_still_hashed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(monkeypatch, project, "model.py", b"model")
    kept, dropped = read_program().described, read_program(keep=False)
    assert dropped.kept == {}
    assert dropped.described == {**kept, "kept": []}


def test_a_session_without_a_file_has_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    files = read_program()
    assert (files.identity["path"], files.identity["sha256"], files.described["modules"]) == (None, None, {})
    assert (files.kept, files.described["kept"]) == ({}, [])
    assert files.write(tmp_path / "source") == (files.described, [])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_exactly_the_limit_is_kept_and_one_byte_more_is_not(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(monkeypatch, project, "at.py", b"#" * MAX_SOURCE_FILE_BYTES)
    sha256 = imported(monkeypatch, project, "over.py", b"#" * (MAX_SOURCE_FILE_BYTES + 1))
    files = read_program()
    assert files.described["kept"] == ["at.py", "train.py"]
    assert files.described["modules"]["over.py"] == sha256


def test_the_whole_stays_below_its_limit_and_smaller_files_still_fit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in reversed(range(17)):
        imported(monkeypatch, project, f"m{number:02d}.py", b"#" * MAX_SOURCE_FILE_BYTES)
    imported(monkeypatch, project, "small.py", b"pass\n")
    files = read_program()
    assert sum(map(len, files.kept.values())) <= MAX_SOURCE_BYTES
    assert files.described["kept"] == [*(f"m{number:02d}.py" for number in range(15)), "small.py", "train.py"]
    assert len(files.described["modules"]) == 18


def test_no_more_files_than_the_limit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_files, "MAX_SOURCE_FILES", 3)
    for name in "dcba":
        imported(monkeypatch, project, f"{name}.py", b"")
    assert read_program().described["kept"] == ["a.py", "b.py", "train.py"]


@pytest.mark.parametrize("name", ["a\\b.py", "c:x.py", ".x.7.tmp/y.py", "/".join(["d"] * 32) + "/z.py"], ids=ascii)
def test_a_path_that_a_run_cannot_hold_is_hashed_only(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    imported(monkeypatch, project, name, b"x")
    described = read_program().described
    assert name in described["modules"]
    assert described["kept"] == ["train.py"]


def test_packages_of_the_users_own_site_are_no_part_of_a_program_in_his_home(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site.getusersitepackages", lambda: str(project / ".local/lib/site-packages"))
    imported(monkeypatch, project, ".local/lib/site-packages/numbers.py", b"installed")
    imported(monkeypatch, project, "own.py", b"own")
    assert list(read_program().described["modules"]) == ["own.py"]


def test_the_bytes_written_are_those_that_were_hashed(project: Path, tmp_path: Path) -> None:
    files = read_program()
    (project / "train.py").write_text("changed since\n")
    files.write(tmp_path / "run" / "source")
    written = (tmp_path / "run" / "source" / "train.py").read_bytes()
    assert hashlib.sha256(written).hexdigest() == files.described["sha256"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["source"], "nothing temporary is left"


def test_what_a_killed_process_of_the_same_number_left_is_written_over(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / ".source.7.tmp").mkdir()
    (tmp_path / ".source.7.tmp" / "train.py").write_bytes(b"half")
    read_program().write(tmp_path / "source")
    assert (tmp_path / "source" / "train.py").read_bytes() == (project / "train.py").read_bytes()


def test_a_disk_that_refuses_the_text_stops_no_recording_and_nothing_is_left(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    files = read_program()
    member, told = files.write(run / "source")
    assert member == {**files.described, "kept": []}
    assert told == ["the program's text is not kept, only its hashes: [Errno 28] No space left on device"]
    assert list(run.iterdir()) == []
