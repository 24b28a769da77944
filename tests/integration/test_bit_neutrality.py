"""The recorder never changes a bit of the training it watches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import train

CASES = {
    "shuffled": [],
    "own generator, last batch dropped": ["--own-generator", "--drop-last"],
    "with replacement, anchors inside passes": ["--order", "replacement", "--anchor-every", "3"],
    "weighted, adam": ["--order", "weighted", "--optimizer", "adam"],
    "two workers": ["--workers", "2"],
    "persistent workers, with replacement": ["--workers", "2", "--persistent", "--order", "replacement"],
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES.keys())
def test_every_step_is_bit_identical_with_and_without_recording(tmp_path: Path, words: list[str]) -> None:
    off = train("--witness", "off", *words, cwd=tmp_path, MEMAUDIT="off")
    on = train("--witness", "on", *words, cwd=tmp_path)
    assert off.returncode == on.returncode == 0, off.stderr + on.stderr
    witnessed = (tmp_path / "off").read_text().splitlines()
    assert len(set(witnessed)) == len(witnessed) >= 15
    assert (tmp_path / "on").read_text().splitlines() == witnessed
    assert not (tmp_path / "off-run").exists()
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_off_records_nothing(tmp_path: Path) -> None:
    assert train(cwd=tmp_path, MEMAUDIT="off").returncode == 0
    assert list(tmp_path.iterdir()) == []
