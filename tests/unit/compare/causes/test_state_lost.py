"""State that was lost, edited, not restored or not updated as a cause."""

from pathlib import Path
from typing import Any

import numpy as np

from auditor.compare.causes import state
from tests.support.build_pair import Act, Script, steps, told


def cut_after(
    number: int,
    *,
    path: bool = False,
    extra: float = 0.0,
    label: str = "params",
    threads: int | None = None,
    restored: float | None = None,
) -> Act:
    """Eight steps with a cut after step ``number``, after which ``label`` holds ``extra`` more; ``restored`` is what an
    anchor shows right after the cut."""

    def act(run: Script) -> None:
        run.anchor_now("start")
        anchor = None
        for step in range(1, 9):
            if step == number + 1:
                anchor = run.anchor_now() if path else None
                run.go({"params": 99})
                run.cut(number, path=anchor, abandoned=1, numerics=None if threads is None else {"threads": threads})
                if restored is not None:
                    run.put(label, restored)
                    run.anchor_now()
            values: dict[str, Any] = {"params": step, "optimizer.momentum_buffer": step, "stream.torch": step}
            values[label] += extra if step > number else 0.0
            run.go(values, ids=[step], batch=f"b{step}", loss=1.0 / step)

    return act


def test_equal_runs_have_none(tmp_path: Path) -> None:
    assert told(state, tmp_path, steps(), steps()) == []


def test_a_cut_right_before_the_parting(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(
        state, tmp_path / "own", steps(), cut_after(3, path=False, extra=1)
    )
    assert (class_, confidence, source, step) == ("state", "likely", "params", 4)
    assert evidence.startswith("B was cut and went on from the program's own checkpoint right before step 4; ")
    ((_, _, evidence, *_),) = told(state, tmp_path / "anchor", cut_after(3, path=True, extra=1), steps())
    assert evidence.startswith("A was cut and went on from anchors/step-000003 right before step 4; ")


def test_a_cut_is_certain_only_if_something_shows_what_did_not_come_back(tmp_path: Path) -> None:
    """Whatever parted after a cut was lost state for certain, rounding of other threads as well."""
    momentum = "optimizer.momentum_buffer"
    lost = cut_after(3, extra=-4, label=momentum)
    ((_, confidence, _, source, step),) = told(state, tmp_path / "returned", steps(), lost)
    assert (confidence, source, step) == ("certain", momentum, 4), "it is what it was before the first step"
    for name, value, expected in (("shown", 3.5, "certain"), ("equal", 3, "likely")):
        b = cut_after(3, extra=0.5, restored=value)
        ((_, confidence, *_),) = told(state, tmp_path / name, steps(anchors=(0, 3)), b)
        assert confidence == expected, name


def test_a_cut_after_which_another_numerics_class_was_there_is_possible(tmp_path: Path) -> None:
    ((_, confidence, evidence, *_),) = told(state, tmp_path, steps(), cut_after(3, extra=1, threads=2))
    assert confidence == "possible"
    assert evidence.startswith("B was cut and went on from the program's own checkpoint right before step 4; ")
    ((_, confidence, *_),) = told(state, tmp_path / "same", steps(), cut_after(3, extra=1, threads=1))
    assert confidence == "likely"


def test_a_cut_elsewhere_is_no_cause(tmp_path: Path) -> None:
    def act(run: Script) -> None:
        cut_after(3, path=False)(run)
        run.go({"params": 99.5})

    def longer(run: Script) -> None:
        cut_after(3, path=False)(run)
        run.go({"params": 99})

    found = told(state, tmp_path, longer, act)
    assert [each[1] for each in found] == ["likely"]
    assert "cut" not in found[0][2]


def test_what_something_given_explains_is_none(tmp_path: Path) -> None:
    for name in ("stream__torch",):
        assert told(state, tmp_path / name, steps(), steps(at=3, params=1, **{name: 1})) == []
    assert told(state, tmp_path / "ids", steps(), steps(at=3, params=1, given={"ids": [77]})) == []
    assert told(state, tmp_path / "batch", steps(), steps(at=3, params=1, given={"batch": "x"})) == []


def test_an_edit_between_steps_is_seen_in_the_anchors_there(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def go(run: Script) -> None:
            run.anchor_now("start")
            for step in range(1, 6):
                run.go({"params": step + (extra if step > 3 else 0.0)})
                if step == 3:
                    run.put("params", step + extra)
                    run.anchor_now()

        return go

    ((_, confidence, evidence, _, step),) = told(state, tmp_path, act(0.0), act(0.5))
    assert (confidence, step) == ("certain", 4)
    assert evidence == "params agrees when step 3 closes and differs before step 4 begins"


def test_a_count_of_updates_that_differs_is_certain(tmp_path: Path) -> None:
    kinds = {"params": "params", "optimizer.exp_avg": "optimizer", "optimizer.step": "optimizer"}

    def act(extra: int) -> Act:
        def go(run: Script) -> None:
            for step in range(1, 6):
                late = extra if step > 2 else 0
                count = np.array(1234567 + step - late, np.int64)
                run.go({"params": step + late, "optimizer.exp_avg": step + late, "optimizer.step": count})
                run.anchor_now()

        return go

    ((_, confidence, evidence, _, step),) = told(state, tmp_path, act(0), act(1), both={"sources": kinds})
    assert (confidence, step) == ("certain", 3)
    assert "optimizer.step, the count of updates, differs: after step 3, 1234570 in A and 1234569 in B" in evidence


def test_what_came_back_to_the_start_is_certain(tmp_path: Path) -> None:
    def act(lost: bool) -> Act:
        def go(run: Script) -> None:
            run.anchor_now("start")
            for step in range(1, 6):
                momentum = 0 if lost and step == 4 else step
                run.go({"optimizer.momentum_buffer": momentum, "params": step + lost * (step > 4)})

        return go

    ((_, confidence, evidence, source, step),) = told(state, tmp_path, act(False), act(True))
    assert (confidence, source, step) == ("certain", "optimizer.momentum_buffer", 4)
    assert evidence == "in B, optimizer.momentum_buffer is after step 4 what it was before the first step"


def test_what_stands_still_in_one_run_is_likely(tmp_path: Path) -> None:
    for name, a, b, says in (
        ("B", steps(3), steps(3, at=3, params=-1), "at step 3, params changed in A and not in B"),
        ("A", steps(3, at=3, params=-1), steps(3), "at step 3, params changed in B and not in A"),
    ):
        ((_, confidence, evidence, *_),) = told(state, tmp_path / name, a, b)
        assert (confidence, evidence) == ("likely", says)


def test_what_differs_before_the_first_step_is_possible(tmp_path: Path) -> None:
    ((_, confidence, evidence, source, step),) = told(state, tmp_path, steps(), steps(first={"params": 7}))
    assert (confidence, evidence, source, step) == ("possible", "it differs before the first step", "params", 0)


def test_weights_that_part_without_the_optimizer(tmp_path: Path) -> None:
    anchored = {"anchors": [0, 3]}
    ((_, confidence, evidence, *_),) = told(
        state, tmp_path / "alone", steps(**anchored), steps(at=3, params=1, **anchored)
    )
    assert confidence == "likely"
    assert evidence.endswith("; in 1 of 1 elements, first in params/w, by 4194304 units in the last place at most")
    ((_, confidence, *_),) = told(state, tmp_path / "numerics", steps(), steps(at=3, params=1), numerics={"threads": 2})
    assert confidence == "possible"
    both = steps(at=3, params=1, optimizer__momentum_buffer=1)
    found = told(state, tmp_path / "both", steps(), both)
    assert not any("something else changed them" in each[2] for each in found)
    stateless = {"sources": {"params": "params"}}
    assert told(state, tmp_path / "stateless", steps(), steps(at=3, params=1), both=stateless) == []


def test_a_queue_that_parts_alone_is_likely_and_its_pointers_are_told(tmp_path: Path) -> None:
    kinds = {"params": "params", "queue": "queue"}

    def act(pointer: int) -> Act:
        def go(run: Script) -> None:
            for step in range(1, 5):
                at = pointer + step if step > 2 else step
                held = {"pointer": np.array(at, np.int64), "data": np.array([float(at)])}, None
                run.go({"params": step, "queue": held})
                run.anchor_now()

        return go

    ((_, confidence, evidence, source, step),) = told(
        state, tmp_path, act(10_000_000), act(10_000_001), both={"sources": kinds}
    )
    assert (confidence, source, step) == ("likely", "queue", 3)
    assert evidence == (
        "queue parts at step 3, and all that it is computed from agrees; "
        "queue/pointer, after step 3: 10000003 in A, 10000004 in B"
    )


def test_counts_of_updates_that_differ_from_the_first_step_on_are_no_lost_state(tmp_path: Path) -> None:
    """A fused AdamW, which counts otherwise, was told to have lost state for certain."""
    kinds = {"params": "params", "optimizer.exp_avg": "optimizer", "optimizer.step": "optimizer"}

    def act(extra: int) -> Act:
        def go(run: Script) -> None:
            for step in range(1, 5):
                count = np.array(step + extra, np.int64)
                run.go({"params": step + extra, "optimizer.exp_avg": step + extra, "optimizer.step": count})
                run.anchor_now()

        return go

    assert told(state, tmp_path, act(0), act(1), both={"sources": kinds}) == []


def buffer_lost_after(number: int, *, lost: bool, sign: float = 1.0) -> Act:
    """A momentum buffer of eight elements, kept in anchors; after step ``number`` one run goes on without it."""

    def act(run: Script) -> None:
        run.anchor_now("start")
        earlier = np.zeros(8)
        for step in range(1, 6):
            late = lost and step > number
            held = earlier * 0.9 ** (step - number) if step > number else np.arange(1.0, 9.0) * step
            earlier = held if step == number else earlier
            gradient = np.ones(8) * step
            value = gradient + (np.zeros(8) if late else sign * held) if step > number else held
            run.go({"optimizer.momentum_buffer": value, "params": step + late}, ids=[step], loss=1.0 + 4.0 * late)
            run.anchor_now()

    return act


def test_a_buffer_that_lacks_what_both_had_before_is_likely_to_have_been_lost(tmp_path: Path) -> None:
    kept, lost = (buffer_lost_after(3, lost=each) for each in (False, True))
    for name, pair, label in (("B", (kept, lost), "B"), ("A", (lost, kept), "A")):
        ((_, confidence, evidence, source, step),) = told(state, tmp_path / name, *pair)
        assert (confidence, source, step) == ("likely", "optimizer.momentum_buffer", 4)
        assert evidence.endswith(
            f"; what {label} lacks of optimizer.momentum_buffer after step 4 points along what both had after step 3 "
            "(cosine 1.00)"
        )


def test_an_optimizer_that_parts_by_more_than_rounding_is_possible(tmp_path: Path) -> None:
    """Anything that makes an update another one after some equal steps was likely a loss of state."""
    more = {"params": 1, "optimizer__momentum_buffer": 1}
    ((_, confidence, evidence, *_),) = told(
        state, tmp_path / "large", steps(), steps(at=3, given={"loss": 5.0}, **more)
    )
    assert confidence == "possible"
    assert evidence.startswith("optimizer.momentum_buffer parts at step 3, after 2 equal steps; loss differs by ")
    small = steps(at=3, given={"loss": 1 / 3 + 1e-9}, **more)
    assert told(state, tmp_path / "small", steps(), small) == []
    first = steps(at=1, given={"loss": 5.0}, **more)
    assert told(state, tmp_path / "first", steps(), first) == [], "in the first step nothing was there to be lost"
