"""A kernel that does not repeat itself as a cause."""

from pathlib import Path
from typing import Any

from auditor.compare.causes import nondeterminism
from tests.support.build_pair import Script, steps, told
from tests.support.build_run import PROGRAM

CHANGED: dict[str, Any] = {"texts": {**PROGRAM, "train.py": b"other"}}
SMALL = steps(at=3, params=1e-6, given={"loss": 1 / 3 + 1e-9})
LARGE = steps(at=3, params=1, given={"loss": 9.0})


def test_equal_inputs_program_and_class_with_other_outputs(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(nondeterminism, tmp_path, steps(), SMALL)
    assert (class_, confidence, source, step) == ("nondeterminism", "likely", "params", 3)
    assert evidence == (
        "up to step 3 all that goes into params agrees: streams, sample ids, batches, hyper-parameters, "
        "the state before; "
        "both began in the same numerics class; both ran the same program with the same arguments; "
        "not recorded are environment variables, files that are read, and the clock; "
        "loss differs by 3e-09 of its size after step 3: the size of rounding"
    )


def test_what_is_more_than_rounding_is_possible(tmp_path: Path) -> None:
    ((_, confidence, evidence, *_),) = told(nondeterminism, tmp_path, steps(), LARGE)
    assert confidence == "possible"
    assert "the size of rounding" not in evidence


def test_a_changed_program_leaves_it_possible_for_rounding_alone(tmp_path: Path) -> None:
    ((_, confidence, evidence, *_),) = told(nondeterminism, tmp_path / "small", steps(), SMALL, **CHANGED)
    assert confidence == "possible"
    assert "the same program" not in evidence
    assert told(nondeterminism, tmp_path / "large", steps(), LARGE, **CHANGED) == []


def test_what_speaks_against_it(tmp_path: Path) -> None:
    for name, act, options in (
        ("equal", steps(), {}),
        ("start", steps(first={"params": 5}), {}),
        ("given", steps(at=3, params=1e-6, stream__torch=1), {}),
        ("class", SMALL, {"numerics": {"threads": 2}}),
        ("end", steps(4), {}),
    ):
        assert told(nondeterminism, tmp_path / name, steps(), act, **options) == []


def test_another_numerics_class_after_a_cut_speaks_against_it(tmp_path: Path) -> None:
    """A run that went on with more threads was told to be in the same numerics class."""

    def act(extra: float, threads: int | None) -> Any:
        def go(run: Script) -> None:
            for number in range(1, 7):
                if number == 4:
                    run.cut(3, numerics=None if threads is None else {"threads": threads})
                run.go({"params": number + (extra if number > 3 else 0.0)}, ids=[number])

        return go

    for name, pair in (("B", (act(0.0, None), act(1e-6, 2))), ("A", (act(1e-6, 2), act(0.0, None)))):
        assert told(nondeterminism, tmp_path / name, *pair) == []
    assert len(told(nondeterminism, tmp_path / "same", act(0.0, None), act(1e-6, None))) == 1


def test_what_stands_still_in_one_run_was_not_computed_otherwise(tmp_path: Path) -> None:
    assert told(nondeterminism, tmp_path, steps(), steps(at=3, params=-1)) == []


def test_the_switch_that_was_off_is_told(tmp_path: Path) -> None:
    both = {"numerics": {"deterministic_algorithms": False}}
    ((_, _, evidence, *_),) = told(nondeterminism, tmp_path, steps(), SMALL, both=both)
    assert evidence.endswith("torch.use_deterministic_algorithms was off")


def test_an_outcome_alone_may_part_by_it(tmp_path: Path) -> None:
    """An outcome's digests were not looked at, so that it seemed to have stood still."""

    def measured(accuracy: float) -> Any:
        def act(run: Script) -> None:
            for number in range(1, 4):
                run.go({"params": number})
                run.outcome("probe", {"accuracy": 0.5 if number < 3 else accuracy}, str(number))

        return act

    ((class_, _, _, source, step),) = told(nondeterminism, tmp_path, measured(0.5), measured(0.6))
    assert (class_, source, step) == ("nondeterminism", "outcome.probe", 3)
