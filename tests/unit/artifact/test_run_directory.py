import hashlib
import os
from pathlib import Path

import pytest

from auditor.artifact.run_directory import DirectoryError, Irregular, is_inside, scan


def test_every_entry_is_seen_and_no_link_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_bytes(b"hello")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    inventory = scan(tmp_path)
    assert inventory.files == {".git/x": 0, "a/b.txt": 5}
    assert inventory.irregular == (
        Irregular("empty", "empty directory"),
        Irregular("link", "symbolic link"),
        Irregular("pipe", "fifo"),
    )


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 1])
def test_a_file_is_read_once(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    inventory = scan(tmp_path)
    first = inventory.open("f")
    assert first.sha256 == hashlib.sha256(b"x" * size).hexdigest()
    (tmp_path / "f").unlink()
    assert inventory.open("f") is first


def test_a_file_that_became_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"y")
    inventory = scan(tmp_path)
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to(tmp_path / "secret")
    with pytest.raises(DirectoryError):
        inventory.open("f")


def test_a_file_that_became_a_fifo_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    inventory = scan(tmp_path)
    (tmp_path / "f").unlink()
    os.mkfifo(tmp_path / "f")
    with pytest.raises(DirectoryError, match="no longer"):
        inventory.open("f")


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a/.", "C:/a", "a\\b", "a\0"])
def test_paths_that_leave_the_directory(path: str) -> None:
    assert not is_inside(path)


def test_paths_inside() -> None:
    assert all(is_inside(path) for path in ("a", "a/b.c", ".git/x", "a..b"))
