"""A hyper-parameter or a schedule as a cause."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.compare.causes import hyper
from auditor.compare.causes.hyper import lag
from tests.support.build_pair import Act, Script, steps, told

KINDS = {"params": "params", "optimizer.momentum_buffer": "optimizer", "scheduler": "scheduler", "hyper.lr": "hyper"}
BOTH = {"sources": KINDS}


def scheduled(*rates: float, start: float | None = None, late: int = 0) -> Act:
    """Step by step a rate, the scheduler's place beside it; ``late`` steps behind."""

    def act(run: Script) -> None:
        if start is not None:
            run.put("hyper.lr", [start])
            run.anchor_now("start")
        for number, rate in enumerate(rates, 1):
            place = max(number - late, 0)
            run.go({"hyper.lr": [rate], "scheduler": {"last_epoch": place}, "params": number}, ids=[number])
            run.anchor_now()

    return act


def test_equal_schedules_are_no_cause(tmp_path: Path) -> None:
    assert told(hyper, tmp_path, scheduled(0.1, 0.2), scheduled(0.1, 0.2), both=BOTH) == []


def test_a_rate_that_differs_before_the_first_step(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(
        hyper, tmp_path, scheduled(0.1, 0.1, start=0.1), scheduled(0.2, 0.2, start=0.2), both=BOTH
    )
    assert (class_, confidence, source, step) == ("hyper", "certain", "hyper.lr", 0)
    assert evidence == "hyper.lr differs before the first step ([0]: 0.1 and 0.2)"


def test_a_rate_that_differs_later(tmp_path: Path) -> None:
    a, b = scheduled(0.1, 0.2, 0.3, start=0.1), scheduled(0.1, 0.2, 0.4, start=0.1)
    ((_, confidence, evidence, source, step),) = told(hyper, tmp_path, a, b, both=BOTH)
    assert (confidence, source, step) == ("certain", "hyper.lr", 3)
    assert evidence == "hyper.lr differs from step 3 on (in the anchors after step 3: [0]: 0.3 and 0.4)"


def test_a_rate_that_changed_in_one_run_only(tmp_path: Path) -> None:
    a, b = scheduled(0.1, 0.1, 0.3, start=0.1), scheduled(0.1, 0.1, 0.1, start=0.1)
    ((_, _, evidence, *_),) = told(hyper, tmp_path, a, b, both=BOTH)
    assert evidence.startswith("at step 3, hyper.lr changed in A and not in B (in the anchors after step 3: ")


def test_a_schedule_that_lags_is_said_to(tmp_path: Path) -> None:
    rates = [0.1 * 0.9**k for k in range(10)]
    for name, a, b, says in (
        ("B", scheduled(*rates), scheduled(*rates[:1], *rates[:-1], late=1), "B is where A was 1 step before"),
        ("A", scheduled(*rates[:1], *rates[:-1], late=1), scheduled(*rates), "A is where B was 1 step before"),
    ):
        ((_, confidence, evidence, source, step),) = told(hyper, tmp_path / name, a, b, both=BOTH)
        assert (confidence, source, step) == ("certain", "scheduler", 1)
        assert f"hyper.lr: {says}, step after step" in evidence
        assert f"scheduler: {says}, step after step" in evidence


def test_numbers_that_differ_late_are_shown_as_far_as_they_differ(tmp_path: Path) -> None:
    a, b = scheduled(0.1, start=0.1), scheduled(0.10000001, start=0.1)
    ((_, _, evidence, *_),) = told(hyper, tmp_path, a, b, both=BOTH)
    assert "0.1 and 0.10000001" in evidence


def test_what_only_chooses_a_kernel_is_none(tmp_path: Path) -> None:
    kinds = {"params": "params", "hyper.fused": "hyper"}
    assert told(hyper, tmp_path, steps(), steps(at=3, hyper__fused=1), both={"sources": kinds}) == []


def test_a_rate_that_parts_after_training_did_is_no_cause(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def go(run: Script) -> None:
            for number in range(1, 6):
                rate = 0.1 + (extra if number > 3 else 0.0)
                run.go({"params": number + extra * (number > 1), "hyper.lr": [rate]})

        return go

    assert told(hyper, tmp_path, act(0.0), act(0.5), both={"sources": {"params": "params", "hyper.lr": "hyper"}}) == []


def test_another_half_life_is_certain(tmp_path: Path) -> None:
    def act(half_life: float, extra: float) -> Act:
        def go(run: Script) -> None:
            run.name_sources({"params": "params", "ema": "ema"}, ema=half_life)
            run.put("ema", 0)
            run.census()
            for number in range(1, 4):
                run.go({"params": number, "ema": number + extra})

        return go

    ((_, confidence, evidence, source, _),) = told(
        hyper, tmp_path, act(6.5, 0), act(3.1, 0.5), both={"sources": {"params": "params"}}
    )
    assert (confidence, evidence, source) == ("certain", "ema half-life: 6.5 in A, 3.1 in B", "ema")


def with_hyper(*names: str, extra: float = 0.0) -> Act:
    """A run that watches these hyper-parameters."""

    def act(run: Script) -> None:
        run.name_sources({"params": "params"} | dict.fromkeys(names, "hyper"))
        for name in names:
            run.put(name, [1])
        run.census()
        for number in range(1, 4):
            run.go({"params": number + extra})

    return act


def test_a_hyper_parameter_that_only_one_run_has_is_certain(tmp_path: Path) -> None:
    a, b = with_hyper("hyper.lr"), with_hyper("hyper.lr", "hyper.clip", extra=0.5)
    ((_, confidence, evidence, *_),) = told(hyper, tmp_path, a, b, both={"sources": {"params": "params"}})
    assert (confidence, evidence) == ("certain", "hyper.clip: only in B")


def test_hyper_parameters_that_one_run_does_not_watch_are_no_difference(tmp_path: Path) -> None:
    """An optimizer that only one run watches was a certain cause."""
    for name, a, b in (
        ("B", with_hyper(), with_hyper("hyper.lr", extra=0.5)),
        ("A", with_hyper("hyper.lr"), with_hyper(extra=0.5)),
    ):
        assert told(hyper, tmp_path / name, a, b, both={"sources": {"params": "params"}}) == []


def test_an_argument_with_a_number_does_not_act_before_the_first_step(tmp_path: Path) -> None:
    found = told(hyper, tmp_path, steps(), steps(first={"params": 5}), argv=["--clip", "1"])
    assert found == []


def test_a_loss_scale_that_parts_tells_of_the_update_that_was_skipped(tmp_path: Path) -> None:
    """A scale that was halved in one run was told as a schedule that lags."""
    kinds = {"params": "params", "optimizer.momentum_buffer": "optimizer", "scaler": "scaler"}

    def act(skipped: bool) -> Act:
        def go(run: Script) -> None:
            scale = 65536.0
            for number in range(1, 7):
                late = skipped and number >= 3
                scale = scale / 2 if late and number == 3 else scale
                held = number - 1 if late else number
                run.go({"scaler": [scale], "optimizer.momentum_buffer": held, "params": held}, ids=[number])

        return go

    for name, a, b, label in (("B", act(False), act(True), "B"), ("A", act(True), act(False), "A")):
        ((_, confidence, evidence, source, step),) = told(hyper, tmp_path / name, a, b, both={"sources": kinds})
        assert (confidence, source, step) == ("certain", "scaler", 3)
        assert evidence.endswith(f"; {label} skipped the update: its gradients were not finite")
        assert "step after step" not in evidence


def test_an_average_that_parts_alone_has_another_decay(tmp_path: Path) -> None:
    kinds = {"params": "params", "ema": "ema"}
    ((_, confidence, evidence, source, step),) = told(
        hyper, tmp_path / "both", steps(), steps(at=3, ema=0.5), both={"sources": kinds}
    )
    assert (confidence, source, step) == ("likely", "ema", 3)
    assert "so its decay or momentum does, or when it is updated" in evidence
    stuck = told(hyper, tmp_path / "stuck", steps(), steps(3, at=3, ema=-1), both={"sources": kinds})
    assert stuck == [], "one that stands still was not updated, which is another cause"


def test_an_argument_with_a_number_is_likely(tmp_path: Path) -> None:
    ((_, confidence, evidence, *_),) = told(
        hyper,
        tmp_path / "number",
        steps(),
        steps(at=3, params=1),
        both={"argv": ["--clip", "0.5"]},
        argv=["--clip", "1"],
    )
    assert confidence == "likely"
    assert evidence.startswith("argument --clip: 0.5 in A, 1 in B; params parts at step 3")
    small = steps(at=3, params=1e-6, given={"loss": 1 / 3 + 1e-9})
    ((_, confidence, *_),) = told(hyper, tmp_path / "small", steps(), small, argv=["--clip", "1"])
    assert confidence == "possible"


@pytest.mark.parametrize("argv", [["--name", "x"], ["7"], ["--flag"]], ids=" ".join)
def test_another_argument_is_none(tmp_path: Path, argv: list[str]) -> None:
    found = told(hyper, tmp_path, steps(), steps(at=3, params=1), argv=argv)
    assert found == []


def test_a_rate_that_changes_in_the_step_of_the_parting_is_likely(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def go(run: Script) -> None:
            for number in range(1, 7):
                rate = [0.1 if number < 4 else 0.01]
                run.go({"hyper.lr": rate, "params": number + (extra if number >= 4 else 0.0)})
                run.anchor_now()

        return go

    kinds = {"params": "params", "hyper.lr": "hyper"}
    ((_, confidence, evidence, source, step),) = told(
        hyper, tmp_path / "large", act(0.0), act(0.5), both={"sources": kinds}
    )
    assert (confidence, source, step) == ("likely", "params", 4)
    assert evidence.startswith("hyper.lr changed in step 4, in both alike and not shortly before; params differs; ")
    assert told(hyper, tmp_path / "small", act(0.0), act(1e-6), both={"sources": kinds}) == []


def test_an_update_that_is_only_longer_is_likely(tmp_path: Path) -> None:
    def act(factor: float, noise: float = 0.0) -> Act:
        def go(run: Script) -> None:
            for number in range(1, 5):
                times = factor if number >= 3 else 1.0
                momentum = np.arange(1.0, 9.0) * number * times
                momentum[0] += noise if number >= 3 else 0.0
                run.go({"optimizer.momentum_buffer": momentum, "params": number + (times - 1)})
                run.anchor_now()

        return go

    ((_, confidence, evidence, source, step),) = told(hyper, tmp_path / "longer", act(1.0), act(2.5))
    assert (confidence, source, step) == ("likely", "optimizer.momentum_buffer", 3)
    assert "points the same way in both, 2.5 times as long in B" in evidence
    assert told(hyper, tmp_path / "other", act(1.0), act(2.5, noise=3.0)) == []


# How far one trails the other.


def pairs(a: list[Any], b: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("a", "b", "first", "steps_"),
    [
        ("abcdefg", "aabcdef", 1, 1),
        ("aabcdef", "abcdefg", 1, -1),
        ("abcdefg", "aaabcde", 1, 2),
        ("abcdefg", "abcdefg", 0, 0),
        ("aaaaaaa", "aaaaaaa", 0, 0),
        ("abcdefg", "tuvwxyz", 0, 0),
        ("abab", "baba", 0, 1),
        ("abc", "aab", 1, 0),
    ],
)
def test_how_far_one_trails_the_other(a: str, b: str, first: int, steps_: int) -> None:
    assert lag(pairs(list(a), list(b)), first) == steps_
    if steps_ and a != "abab":
        assert lag(pairs(list(b), list(a)), first) == -steps_


@given(st.lists(st.integers(0, 10**9), min_size=12, max_size=20, unique=True), st.integers(1, 5))
def test_a_schedule_held_back_trails_by_so_many_steps(values: list[int], behind: int) -> None:
    late = [values[0]] * behind + values[:-behind]
    assert lag(pairs(values, late), 1) == behind
    assert lag(pairs(late, values), 1) == -behind
