"""Two traces walked side by side: where each source parts, what led up to it, and what is no difference."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.compare.causal_order import BATCH, END, IDS, LOSS
from auditor.compare.walk import REMEMBERED
from tests.support.build_pair import Act, Script, word
from tests.support.mirrored import assert_mirrored, both

MIRRORED = {"A": "B", "B": "A"}


def plain(steps: int = 6, at: int = 0, **changes: Any) -> Act:
    """A run of some steps; ``at`` a step and from there on, ``changes`` are added to what is held or given."""

    def act(run: Script) -> None:
        run.anchor_now("start")
        for number in range(1, steps + 1):
            more = changes if at and number >= at else {}
            held = {"params": number, "optimizer.momentum_buffer": number, "stream.torch": number}
            held |= {name: number + extra for name, extra in more.items() if name in held}
            given = {"ids": [number], "batch": f"b{number}", "loss": 1.0 / number}
            given |= {name: value for name, value in more.items() if name in given}
            run.go(held, main=1, position=number, **given)

    return act


def test_equal_runs_do_not_part(tmp_path: Path) -> None:
    one, two = both(tmp_path, plain(), plain())
    assert (one.partings, one.equal, one.compared, one.idle, list(one.losses)) == ({}, 6, 6, [], [])
    assert one.first is None
    assert bytes(one.same_ids) == bytes(one.same_batch) == b"\1" * 6
    assert [list(each) for each in one.places] == [[1] * 6, [1, 2, 3, 4, 5, 6]]
    assert one.shared == {"params", "optimizer.momentum_buffer", "stream.torch"}
    assert_mirrored(one, two)


def test_runs_of_no_step_do_not_part(tmp_path: Path) -> None:
    one, _ = both(tmp_path, plain(0), plain(0))
    assert (one.partings, one.equal, one.compared) == ({}, 0, 0)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"params": 0.5}, ["params"]),
        ({"params": 0.5, "optimizer.momentum_buffer": 0.5}, ["optimizer.momentum_buffer", "params"]),
        ({"stream.torch": 0.5, "params": 0.5}, ["stream.torch", "params"]),
        ({"ids": [99]}, [IDS]),
        ({"batch": "other"}, [BATCH]),
        ({"loss": "NaN"}, [LOSS]),
        ({"loss": 9.0, "batch": "x", "ids": [5, 5], "stream.torch": 9}, ["stream.torch", IDS, BATCH, LOSS]),
    ],
    ids=str,
)
def test_what_differs_when_a_step_closes_parts_there(tmp_path: Path, changes: dict[str, Any], names: list[str]) -> None:
    one, two = both(tmp_path, plain(), plain(at=4, **changes))
    assert [(each.name, each.step, each.at) for each in one.sorted()] == [(name, 4, "step") for name in names]
    assert one.first is one.sorted()[0]
    assert (one.equal, one.compared) == (3, 6)
    assert [each[0] for each in one.losses] == [4, 5, 6]
    assert all((each.differs, each.last) == (3, 6) for each in one.sorted())
    assert_mirrored(one, two)


@pytest.mark.parametrize("name", [IDS, BATCH, LOSS])
def test_what_only_one_run_recorded_does_not_part(tmp_path: Path, name: str) -> None:
    """Batches that only one run named, and a loss that only one gave, were the first difference."""
    one, two = both(tmp_path, plain(), plain(at=4, **{name: None}))
    assert (one.partings, one.one_sided, one.equal, one.compared) == ({}, {name}, 6, 6)
    known = {IDS: one.same_ids, BATCH: one.same_batch}
    for each, flags in known.items():
        assert bytes(flags) == (b"\1\1\1\2\2\2" if each == name else b"\1" * 6)
    assert_mirrored(one, two)


def test_what_only_one_run_recorded_for_a_time_parts_where_both_did(tmp_path: Path) -> None:
    def act(*words: str | None) -> Act:
        def go(run: Script) -> None:
            for each in words:
                run.go(ids=None if each is None else [ord(each)], batch=each, loss=None if each is None else ord(each))

        return go

    one, two = both(tmp_path, act("a", None, "c", "d"), act("a", "b", "c", "e"))
    assert [(each.name, each.step) for each in one.sorted()] == [(IDS, 4), (BATCH, 4), (LOSS, 4)]
    assert one.one_sided == {IDS, BATCH, LOSS}
    assert bytes(one.same_ids) == bytes(one.same_batch) == b"\1\2\1\0"
    assert_mirrored(one, two)


def test_a_parting_that_heals_is_counted_by_its_steps(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 9):
                run.go({"params": number + (extra if number in (3, 4, 7) else 0.0)})

        return steps

    one, two = both(tmp_path, act(0.0), act(0.5))
    parted = one.partings["params"]
    assert (parted.step, parted.differs, parted.last, one.equal) == (3, 3, 7, 2)
    assert_mirrored(one, two)


def test_unknown_ids_and_content_are_told_from_equal_ones(tmp_path: Path) -> None:
    def act(ids: list[int] | None, batch: str | None) -> Act:
        return lambda run: run.go(ids=ids, batch=batch)

    one, _ = both(tmp_path / "neither", act(None, None), act(None, None))
    assert (bytes(one.same_ids), bytes(one.same_batch), one.partings) == (b"\2", b"\2", {})
    two, _ = both(tmp_path / "one", act([1], "x"), act(None, None))
    assert (bytes(two.same_ids), bytes(two.same_batch), two.partings) == (b"\2", b"\2", {})
    assert (one.one_sided, two.one_sided) == (set(), {IDS, BATCH})
    three, _ = both(tmp_path / "other", act([1], "x"), act([2], "y"))
    assert (bytes(three.same_ids), bytes(three.same_batch)) == (b"\0", b"\0")


def test_what_differs_in_the_anchors_before_the_first_step_parts_at_the_start(tmp_path: Path) -> None:
    def act(first: float) -> Act:
        def steps(run: Script) -> None:
            run.put("params", first)
            run.anchor_now("start")
            for number in range(1, 4):
                run.go({"params": first + number})

        return steps

    one, two = both(tmp_path, act(1), act(2))
    parted = one.partings["params"]
    assert (parted.step, parted.at, parted.before, parted.moved) == (0, "start", [], (True, True))
    assert (parted.differs, parted.last, one.equal) == (4, 3, 0)
    assert len(parted.digests) == 4, "at the start and after each step"
    assert_mirrored(one, two)


def test_the_end_parts_where_one_run_has_no_such_step(tmp_path: Path) -> None:
    one, two = both(tmp_path, plain(4), plain(6))
    assert [(each.name, each.kind, each.step, each.at) for each in one.sorted()] == [(END, "end", 5, "end")]
    assert (one.equal, one.compared) == (4, 4)
    assert (one.a.steps, one.b.steps) == (4, 6)
    assert_mirrored(one, two)


def test_steps_that_are_numbered_otherwise_end_the_walk(tmp_path: Path) -> None:
    """Where both go on with other numbers the walk named A's, whichever run was A."""

    def act(numbers: list[int]) -> Act:
        def steps(run: Script) -> None:
            for number in numbers:
                run.go(number=number)

        return steps

    one, two = both(tmp_path, act([1, 2, 3]), act([1, 2, 9, 10]))
    assert [(each.name, each.step) for each in one.sorted()] == [(END, 3)]
    assert (one.compared, one.a.steps, one.b.steps) == (2, 3, 4)
    assert_mirrored(one, two)


# Censuses.


def test_sources_that_only_one_run_has_are_no_parting(tmp_path: Path) -> None:
    def act(extra: bool) -> Act:
        def steps(run: Script) -> None:
            names = {"params": "params"} | ({"ema": "ema"} if extra else {})
            run.put("ema", 7)
            run.name_sources(names)
            run.census()
            run.anchor_now("start")
            for number in range(1, 4):
                run.go({"params": number, "ema": number})

        return steps

    one, two = both(tmp_path, act(True), act(False), both={"sources": {"params": "params"}})
    assert (one.partings, one.equal) == ({}, 3)
    assert one.shared == {"params", "stream.torch"}
    assert_mirrored(one, two)


def test_a_source_that_comes_later_in_one_run_parts_where_only_one_has_it(tmp_path: Path) -> None:
    def act(at: int) -> Act:
        def steps(run: Script) -> None:
            run.put("queue", 0)
            for number in range(1, 6):
                if number == at:
                    run.name_sources({"params": "params", "queue": "queue"})
                    run.census()
                run.go({"params": number, "queue": number})

        return steps

    one, two = both(tmp_path, act(2), act(4), both={"sources": {"params": "params"}})
    parted = one.partings["queue"]
    assert (parted.step, parted.kind, parted.differs, parted.last) == (2, "queue", 2, 3)
    assert parted.digests[0][1] is None
    assert_mirrored(one, two)


def test_censuses_in_another_order_are_compared_by_name(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def steps(run: Script) -> None:
            run.anchor_now("start")
            for number in range(1, 4):
                run.go({"params": number, "ema": number + (extra if number == 3 else 0), "stream.torch": number})

        return steps

    kinds = {"params": "params", "ema": "ema"}
    turned = {"sources": dict(reversed(kinds.items())), "streams": ("torch", "numpy")}
    one, two = both(
        tmp_path / "equal", act(0), act(0), both={"sources": kinds, "streams": ("numpy", "torch")}, **turned
    )
    assert (one.partings, one.equal) == ({}, 3)
    assert_mirrored(one, two)
    one, two = both(
        tmp_path / "other", act(0), act(1), both={"sources": kinds, "streams": ("numpy", "torch")}, **turned
    )
    assert [(each.name, each.step) for each in one.sorted()] == [("ema", 3)]
    assert_mirrored(one, two)


# Anchors, leaves, passes over and outcomes beside the steps.


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(1, 8)), st.sets(st.integers(1, 8)), st.integers(0, 8))
def test_other_anchors_and_leaves_are_no_difference(
    tmp_path_factory: pytest.TempPathFactory, one_has: set[int], two_has: set[int], at: int
) -> None:
    def act(anchors: set[int], extra: float) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 9):
                value = number // 3 + (extra if at and number >= at else 0.0)
                leaves = {"leaves": {"params": {"w": word(str(value))}}} if number in anchors else {}
                run.go({"params": value, "stream.torch": number // 2}, **leaves)
                if number in anchors:
                    run.anchor_now()

        return steps

    folder = tmp_path_factory.mktemp("pair")
    one, two = both(folder, act(one_has, 0.0), act(two_has, 0.5))
    assert [(each.name, each.step) for each in one.sorted()] == ([("params", at)] if at else [])
    assert one.equal == (at - 1 if at else 8)
    assert_mirrored(one, two)


def test_the_first_tensor_is_named_by_the_digests_in_both_lines(tmp_path: Path) -> None:
    def act(*differing: str, leaves: bool = True) -> Act:
        def steps(run: Script) -> None:
            tensors = {path: word(path + (" other" if path in differing else "")) for path in ("w10", "w2", "w1")}
            run.go({"params": len(differing)}, **({"leaves": {"params": tensors}} if leaves else {}))

        return steps

    one, two = both(tmp_path / "both", act(), act("w10", "w2"))
    assert one.partings["params"].leaf == two.partings["params"].leaf == "params/w2"
    one, two = both(tmp_path / "one", act(), act("w10", "w2", leaves=False))
    assert one.partings["params"].leaf is None
    assert two.partings["params"].leaf is None


def test_outcomes_part_at_the_step_they_were_measured_after(tmp_path: Path) -> None:
    def act(accuracy: float, predictions: str, last: float) -> Act:
        def steps(run: Script) -> None:
            run.go()
            run.outcome("probe", {"accuracy": 0.5})
            run.go()
            run.outcome("probe", {"accuracy": accuracy}, predictions)
            run.outcome("", {"own": 1.0})
            run.go()
            run.outcome("", {"own": last})

        return steps

    one, two = both(tmp_path / "values", act(0.5, "p", 1.0), act(0.6, "p", 1.0))
    assert [(each.name, each.kind, each.step) for each in one.sorted()] == [("outcome.probe", "outcome", 2)]
    assert_mirrored(one, two)
    one, two = both(tmp_path / "predictions", act(0.5, "p", 1.0), act(0.5, "q", 2.0))
    assert [(each.name, each.step) for each in one.sorted()] == [("outcome.probe", 2), ("outcome", 3)]
    assert_mirrored(one, two)


def test_an_outcome_that_parted_moved_in_both(tmp_path: Path) -> None:
    """With nothing to compare it stood still in both, and no cause was looked for."""

    def act(accuracy: float) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 4):
                run.go()
                run.outcome("probe", {"accuracy": accuracy if number == 3 else 0.5}, "p")

        return steps

    one, _ = both(tmp_path, act(0.5), act(0.6))
    assert one.partings["outcome.probe"].moved == (True, True)


# What is kept around a parting.


def test_so_many_steps_around_a_parting_are_kept(tmp_path: Path) -> None:
    one, two = both(tmp_path, plain(60), plain(60, at=30, params=0.5))
    parted = one.partings["params"]
    assert (len(parted.before), len(parted.digests)) == (REMEMBERED, REMEMBERED + 1)
    assert all(a == b for a, b in parted.before)
    assert all(a != b for a, b in parted.digests)
    assert parted.moved == (True, True)
    assert_mirrored(one, two)


def test_what_stands_still_in_one_run_moved_in_the_other(tmp_path: Path) -> None:
    def act(stuck: bool) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 6):
                run.go({"params": 2 if stuck and number > 2 else number})

        return steps

    one, two = both(tmp_path, act(False), act(True))
    assert one.partings["params"].moved == (True, False)
    assert_mirrored(one, two)


def test_a_schedule_that_changes_in_the_step_of_a_parting_is_named(tmp_path: Path) -> None:
    def act(at: int, extra: float, drop: int) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 8):
                lr = [{"lr": 0.1 if number < drop else 0.01}]
                run.go({"hyper.lr": lr, "params": number + (extra if number >= at else 0.0)})

        return steps

    kinds = {"params": "params", "hyper.lr": "hyper"}
    for drop, schedule in ((4, ("hyper.lr",)), (3, ()), (6, ())):
        one, two = both(tmp_path / str(drop), act(4, 0, drop), act(4, 1, drop), both={"sources": kinds})
        assert one.partings["params"].schedule == schedule
        assert_mirrored(one, two)


def test_losses_are_kept_from_the_parting_on(tmp_path: Path) -> None:
    def act(*losses: Any) -> Act:
        def steps(run: Script) -> None:
            for each in losses:
                run.go(loss=each)

        return steps

    one, two = both(tmp_path, act(1.0, 2.0, "NaN", None, 3), act(1.0, 2.5, "Infinity", "-Infinity", 3))
    assert [(step, str(a), str(b)) for step, a, b in one.losses] == [
        (2, "2.0", "2.5"),
        (3, "nan", "inf"),
        (4, "nan", "-inf"),
        (5, "3.0", "3.0"),
    ]
    assert one.partings["loss"].differs == 2, "in step 4 only one run gave a loss"
    assert one.one_sided == {LOSS}
    assert math.isnan(list(two.losses)[2][2])
    assert_mirrored(one, two)


# Cuts.


def cut_act(*, abandoned: int, path: bool = False, extra: float = 0.0) -> Act:
    """Six steps; with ``abandoned``, so many after the third are done again after a cut."""

    def steps(run: Script) -> None:
        run.anchor_now("start")
        anchor = None
        for number in range(1, 4):
            run.go({"params": number, "stream.torch": number})
        if path:
            anchor = run.anchor_now()
        for number in range(4, 4 + abandoned):
            run.go({"params": number + 100, "stream.torch": number})
        if abandoned:
            run.cut(3, path=anchor, abandoned=abandoned)
        for number in range(4, 7):
            run.go({"params": number + extra, "stream.torch": number})
            run.outcome("", {"x": number})

    return steps


@pytest.mark.parametrize("path", [True, False], ids=["anchor", "own checkpoint"])
@pytest.mark.parametrize(("a", "b"), [(0, 2), (1, 2), (2, 2)])
def test_what_a_cut_made_void_is_passed_over(tmp_path: Path, path: bool, a: int, b: int) -> None:
    one, two = both(tmp_path, cut_act(abandoned=a, path=path and a > 0), cut_act(abandoned=b, path=path))
    assert (one.partings, one.equal, one.compared) == ({}, 6, 6)
    assert (one.a.steps, one.b.steps) == (6, 6)
    assert [[step for step, _ in cuts] for cuts in one.cuts] == [[4] * (a > 0), [4]]
    assert_mirrored(one, two)


def test_what_differs_after_a_cut_parts_there(tmp_path: Path) -> None:
    one, two = both(tmp_path, cut_act(abandoned=0), cut_act(abandoned=2, extra=0.5))
    assert [(each.name, each.step) for each in one.sorted()] == [("params", 4)]
    assert_mirrored(one, two)


VALUES = st.integers(0, 2)
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "params": VALUES,
            "optimizer.momentum_buffer": VALUES,
            "stream.torch": VALUES,
            "ids": st.none() | VALUES,
            "batch": st.none() | VALUES,
            "loss": st.none() | VALUES,
            "anchor": st.booleans(),
            "begin": st.none() | VALUES,
            "outcome": st.none() | VALUES,
        }
    ),
    max_size=5,
)


def any_act(steps: list[dict[str, Any]]) -> Act:
    def act(run: Script) -> None:
        run.anchor_now("start")
        for number, each in enumerate(steps, 1):
            if each["begin"] is not None:
                run.put("stream.torch", each["begin"])
                run.begin(number)
            held = {name: each[name] for name in ("params", "optimizer.momentum_buffer", "stream.torch")}
            ids = None if each["ids"] is None else [each["ids"]]
            run.go(held, ids=ids, batch=None if each["batch"] is None else str(each["batch"]), loss=each["loss"])
            if each["outcome"] is not None:
                run.outcome("", {"x": each["outcome"]})
            if each["anchor"]:
                run.anchor_now()

    return act


@settings(max_examples=60, deadline=None)
@given(STEPS, STEPS, st.integers(0, 5))
def test_the_walk_of_two_runs_mirrors_that_of_them_turned_round(
    tmp_path_factory: pytest.TempPathFactory, a: list[dict[str, Any]], b: list[dict[str, Any]], common: int
) -> None:
    two = a[:common] + b
    one, other = both(tmp_path_factory.mktemp("pair"), any_act(a), any_act(two))
    assert_mirrored(one, other)
    # By the values themselves: the first step at which each differs.
    for name in ("params", "optimizer.momentum_buffer"):
        first = next((k for k, (x, y) in enumerate(zip(a, two, strict=False), 1) if x[name] != y[name]), None)
        assert first == (one.partings[name].step if name in one.partings else None)
        count = sum(x[name] != y[name] for x, y in zip(a, two, strict=False))
        assert count == (one.partings[name].differs if name in one.partings else 0)
    assert one.compared == min(len(a), len(two))
    assert (END in one.partings) == (len(a) != len(two))


def test_a_census_that_names_something_twice_is_walked(tmp_path: Path) -> None:
    def act(extra: float) -> Act:
        def steps(run: Script) -> None:
            run.sources = run.sources * 2
            run.streams = run.streams * 2
            run.census()
            run.anchor_now("start")
            for number in range(1, 4):
                run.go({"params": number + extra, "stream.torch": number + extra})
            run.anchor_now("end")

        return steps

    one, two = both(tmp_path, act(0.0), act(0.5))
    assert "params" in one.partings
    assert_mirrored(one, two)
