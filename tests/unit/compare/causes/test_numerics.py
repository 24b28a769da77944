"""Other arithmetic as a cause."""

from pathlib import Path
from typing import Any

import pytest

from auditor.compare.causes import numerics
from auditor.compare.causes.numerics import is_kernel_choice
from tests.support.build_pair import Script, steps, told

ROUNDING: dict[str, Any] = {"given": {"loss": 1.0 / 3 + 1e-9}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hyper.fused", True),
        ("hyper[1].foreach", True),
        ("hyper.capturable", True),
        ("hyper.differentiable", True),
        ("hyper.lr", False),
        ("fused", False),
        ("optimizer.fused", False),
    ],
)
def test_some_hyper_parameters_only_choose_a_kernel(name: str, expected: bool) -> None:
    assert is_kernel_choice(name) is expected


def test_equal_arithmetic_is_no_cause(tmp_path: Path) -> None:
    assert told(numerics, tmp_path, steps(), steps(at=3, params=1)) == []


def test_runs_that_do_not_part_have_none(tmp_path: Path) -> None:
    assert told(numerics, tmp_path / "equal", steps(), steps(), numerics={"threads": 2}) == []
    assert told(numerics, tmp_path / "end", steps(4), steps(5), numerics={"threads": 2}) == []


def test_rounding_makes_it_likely_and_a_large_difference_possible(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(
        numerics, tmp_path / "small", steps(), steps(at=3, params=1e-6, **ROUNDING), numerics={"threads": 2}
    )
    assert (class_, confidence, source, step) == ("numerics", "likely", "params", 3)
    assert evidence == "threads: 1 in A, 2 in B; loss differs by 3e-09 of its size after step 3"
    ((_, confidence, *_),) = told(
        numerics, tmp_path / "large", steps(), steps(at=3, params=1, given={"loss": 9.0}), numerics={"threads": 2}
    )
    assert confidence == "possible"


def test_other_libraries_may_draw_otherwise_and_other_threads_not(tmp_path: Path) -> None:
    parted = steps(at=3, params=1, stream__torch=1)
    ((_, confidence, *_),) = told(numerics, tmp_path / "torch", steps(), parted, packages={"torch": "3"})
    assert confidence == "possible"
    assert told(numerics, tmp_path / "threads", steps(), parted, numerics={"threads": 2}) == []


def test_packages_that_compute_nothing_are_no_cause(tmp_path: Path) -> None:
    assert told(numerics, tmp_path, steps(), steps(at=3, params=1), packages={"rich": "1"}) == []


def test_another_kernel_is_a_cause_whether_both_have_the_setting_or_one(tmp_path: Path) -> None:
    kinds = {"params": "params", "hyper.fused": "hyper"}
    ((_, confidence, evidence, *_),) = told(
        numerics,
        tmp_path / "both",
        steps(),
        steps(at=3, params=1e-6, hyper__fused=1, **ROUNDING),
        both={"sources": kinds},
    )
    assert confidence == "likely"
    assert evidence.startswith("hyper.fused differs; ")

    def with_fused(run: Script) -> None:
        run.name_sources(kinds)
        run.put("hyper.fused", 1)
        run.census()
        steps(at=3, params=1)(run)

    ((_, confidence, evidence, *_),) = told(
        numerics, tmp_path / "one", steps(), with_fused, both={"sources": {"params": "params"}}
    )
    assert "hyper.fused: only in B" in evidence
