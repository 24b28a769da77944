"""A changed program as a cause."""

from pathlib import Path

from auditor.compare.causes import program
from tests.support.build_pair import steps, told
from tests.support.build_run import PROGRAM

CHANGED = {**PROGRAM, "train.py": b"train\nmore\n"}


def test_an_equal_program_is_no_cause(tmp_path: Path) -> None:
    assert told(program, tmp_path, steps(), steps(at=3, params=1)) == []


def test_a_changed_program_of_equal_runs_is_no_cause(tmp_path: Path) -> None:
    assert told(program, tmp_path, steps(), steps(), texts=CHANGED) == []


def test_another_seed_or_folder_is_no_other_program(tmp_path: Path) -> None:
    assert told(program, tmp_path, steps(), steps(at=3, params=1), seed="9") == []


def test_a_changed_program_is_likely_where_all_given_to_the_step_agrees(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(
        program, tmp_path, steps(), steps(at=3, params=1), texts=CHANGED
    )
    assert (class_, confidence, source, step) == ("program", "likely", "params", 3)
    assert evidence == "train.py changed, 1 line taken away or added"


def test_it_is_possible_where_something_nearer_parted_or_rounding_explains_it(tmp_path: Path) -> None:
    ((_, confidence, *_),) = told(
        program, tmp_path / "given", steps(), steps(at=3, params=1, stream__torch=1), texts=CHANGED
    )
    assert confidence == "possible"
    small = steps(at=3, params=1e-6, given={"loss": 1 / 3 + 1e-9})
    ((_, confidence, *_),) = told(program, tmp_path / "rounding", steps(), small, texts=CHANGED)
    assert confidence == "possible"


def test_arguments_and_modules_are_told(tmp_path: Path) -> None:
    ((_, _, evidence, *_),) = told(program, tmp_path / "argument", steps(), steps(at=3, params=1), argv=["--lr", "2"])
    assert evidence == "argument --lr: only in B"
    texts = {**PROGRAM, "parts/model.py": b"other", "new.py": b"1\n"}
    ((_, _, evidence, *_),) = told(program, tmp_path / "module", steps(), steps(at=3, params=1), texts=texts)
    assert (
        evidence == "parts/model.py changed, 2 lines taken away or added; new.py only in B, 1 line taken away or added"
    )
