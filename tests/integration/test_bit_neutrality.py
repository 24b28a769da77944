"""The recorder never changes a bit of the training it watches."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from tests.support.continuation import record
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


MATRIX = {
    "workers": ["", "workers", "persistent"],
    "generator": ["", "own"],
    "precision": ["", "bf16"],
    "mode": ["", "compiled:aot_eager"],
    "optimizer": ["loop", "fused"],
}
PAIRWISE = [
    "plain-loop",
    "plain-own-bf16-compiled:aot_eager-fused",
    "plain-bf16-fused",
    "plain-own-compiled:aot_eager-loop",
    "plain-workers-own-loop",
    "plain-workers-bf16-compiled:aot_eager-loop",
    "plain-workers-compiled:aot_eager-fused",
    "plain-workers-own-bf16-fused",
    "plain-persistent-own-fused",
    "plain-persistent-bf16-loop",
    "plain-persistent-own-bf16-compiled:aot_eager-loop",
    "plain-persistent-compiled:aot_eager-fused",
]


def test_the_dozen_covers_every_pair_of_the_matrix() -> None:
    def chosen(case: str) -> dict[str, str]:
        words = case.split("-")
        return {factor: next((each for each in levels if each in words), "") for factor, levels in MATRIX.items()}

    covered = {frozenset(pair) for case in PAIRWISE for pair in combinations(chosen(case).items(), 2)}
    every = {
        frozenset(((one, a), (two, b)))
        for one, two in combinations(MATRIX, 2)
        for a in MATRIX[one]
        for b in MATRIX[two]
    }
    assert covered == every


@pytest.mark.parametrize("case", PAIRWISE)
def test_parameters_and_streams_are_equal_with_and_without_recording(tmp_path: Path, case: str) -> None:
    neutral(tmp_path, case)


def neutral(tmp_path: Path, case: str) -> None:
    """All state and every global stream, after every step, is the same with recording and without."""
    off = record(tmp_path, case, "--witness", "off", "--epochs", "2", MEMAUDIT="off")
    on = record(tmp_path, case, "--witness", "on", "--epochs", "2", "--anchor-every", "3")
    assert off.returncode == on.returncode == 0, off.stderr + on.stderr
    witnessed = (tmp_path / "off").read_text().splitlines()
    assert len(set(witnessed)) == len(witnessed) == 16
    assert (tmp_path / "on").read_text().splitlines() == witnessed
    assert (tmp_path / "run" / "manifest.json").is_file()
    assert "memaudit" not in on.stderr


def test_off_records_nothing(tmp_path: Path) -> None:
    assert train(cwd=tmp_path, MEMAUDIT="off").returncode == 0
    assert list(tmp_path.iterdir()) == []
