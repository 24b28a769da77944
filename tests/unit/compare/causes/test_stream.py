"""A random stream as a cause, with the states of real generators."""

import random
from pathlib import Path
from typing import Any

import pytest

from auditor.compare.causes import stream
from tests.support.build_pair import Act, Script, python_state, situation_of, steps, told

BOTH: dict[str, Any] = {"sources": {"params": "params"}, "streams": ("python",)}
STREAM = "stream.python"


def drawing(
    *draws: int, seed: int = 0, anchors: tuple[int, ...] = (0,), pass_at: int = 0, first: int = 0, again: int = 0
) -> Act:
    """A run that draws so many words in each step; ``pass_at`` a pass begins, with ``first`` draws before it begins.

    In step ``again`` the generator is seeded as in the beginning, before its draws.
    """

    def act(run: Script) -> None:
        generator = random.Random(seed)
        run.put(STREAM, python_state(generator))
        if 0 in anchors:
            run.anchor_now("start")
        for step, count in enumerate(draws, 1):
            if step == again:
                generator.seed(seed)
            if step == pass_at:
                for _ in range(first):
                    generator.getrandbits(32)
                run.put(STREAM, python_state(generator))
                run.begin(step)
            for _ in range(count):
                generator.getrandbits(32)
            run.go({STREAM: python_state(generator), "params": step}, main=1 if pass_at else None, position=step)
            if step in anchors:
                run.anchor_now()

    return act


def found(folder: Path, a: Act, b: Act, **options: Any) -> tuple[str, str, str]:
    ((class_, confidence, evidence, source, _),) = told(stream, folder, a, b, both=BOTH, **options)
    assert source == STREAM
    return class_, confidence, evidence


def test_equal_streams_are_no_cause(tmp_path: Path) -> None:
    assert told(stream, tmp_path, drawing(1, 2, 3), drawing(1, 2, 3), both=BOTH) == []


@pytest.mark.parametrize(("more", "says"), [(1, "1 draw ahead"), (700, "700 draws ahead"), (-2, "2 draws behind")])
def test_draws_are_counted_from_the_last_anchor_of_both(tmp_path: Path, more: int, says: str) -> None:
    class_, confidence, evidence = found(tmp_path, drawing(3, 3, 3, 3), drawing(3, 3, 3 + more, 3))
    assert (class_, confidence) == ("stream-shifted", "certain")
    assert evidence == f"since the anchor after step 0, A made 9 draws and B {9 + more}: B is {says}"


def test_draws_are_counted_in_the_next_anchors_where_none_stands_before(tmp_path: Path) -> None:
    class_, confidence, evidence = found(tmp_path, drawing(3, 3, 3, 3, anchors=(4,)), drawing(3, 3, 5, 3, anchors=(4,)))
    assert (class_, confidence, evidence) == (
        "stream-shifted",
        "certain",
        "in the anchors after step 4, B is 2 draws ahead",
    )


def test_without_anchors_a_shift_is_possible(tmp_path: Path) -> None:
    class_, confidence, evidence = found(tmp_path, drawing(3, 3, 3, anchors=()), drawing(3, 3, 4, anchors=()))
    assert (class_, confidence) == ("stream-shifted", "possible")
    assert "no anchor of both holds its state" in evidence


def test_a_state_of_another_kind_cannot_be_counted(tmp_path: Path) -> None:
    """Whose draws nobody can count."""
    ((class_, confidence, evidence, *_),) = told(
        stream, tmp_path, steps(anchors=(0, 5)), steps(at=3, anchors=(0, 5), stream__torch=0.5)
    )
    assert (class_, confidence) == ("stream-shifted", "possible")
    assert "cannot be counted" in evidence


def test_a_stream_that_only_one_run_draws_from(tmp_path: Path) -> None:
    class_, confidence, evidence = found(tmp_path / "B", drawing(0, 0, 0), drawing(0, 0, 4))
    assert (class_, confidence) == ("stream-consumed", "certain")
    assert evidence.startswith("during step 3, B drew from it and A did not")
    _, _, evidence = found(tmp_path / "A", drawing(0, 0, 4), drawing(0, 0, 0))
    assert evidence.startswith("during step 3, A drew from it and B did not")


def test_a_stream_that_was_seeded_again_is_back_where_it_stood(tmp_path: Path) -> None:
    class_, confidence, evidence = found(tmp_path, drawing(3, 3, 3, 3), drawing(3, 3, 0, 3, again=3))
    assert (class_, confidence) == ("stream-reseeded", "certain")
    assert evidence == "before step 3, in B it is back where it stood before the first step; in A it went on"


def test_a_stream_that_is_back_where_a_pass_began(tmp_path: Path) -> None:
    def act(again: bool) -> Act:
        def go(run: Script) -> None:
            generator = random.Random(0)
            for number in range(1, 4):
                if again and number == 3:
                    generator = random.Random(0)
                run.put(STREAM, python_state(generator))
                run.begin(number)
                generator.getrandbits(32)
                run.go({STREAM: python_state(generator), "params": number}, main=number, position=1)

        return go

    ((class_, confidence, evidence, _, step),) = told(stream, tmp_path, act(False), act(True), both=BOTH)
    assert (class_, confidence, step) == ("stream-reseeded", "certain", 3)
    assert evidence == "before step 3, in B it is back where it stood before step 1; in A it went on"


def test_a_stream_that_differs_where_a_pass_begins(tmp_path: Path) -> None:
    a, b = drawing(1, 1, 1, pass_at=2), drawing(1, 1, 1, pass_at=2, first=5)
    ((class_, confidence, evidence, _, step),) = told(stream, tmp_path, a, b, both=BOTH)
    assert (class_, confidence, step) == ("stream-consumed", "certain", 2)
    assert evidence.startswith("where the pass of step 2 began, B drew from it and A did not; ")
    assert evidence.endswith("B is 5 draws ahead")


def test_another_seed_is_certain_where_it_is_told(tmp_path: Path) -> None:
    def act(value: int) -> Act:
        def go(run: Script) -> None:
            run.put("params", value)
            drawing(1, 1, seed=value)(run)

        return go

    class_, confidence, evidence = found(tmp_path / "seed", act(1), act(2), seed="9")
    assert (class_, confidence, evidence) == ("stream-reseeded", "certain", "seed: 0 in A, 9 in B")
    class_, confidence, evidence = found(tmp_path / "untold", act(1), act(2))
    assert (class_, confidence) == ("stream-reseeded", "likely")
    assert evidence.startswith(
        "it differs before the first step; in the anchors after step 0, no number of draws up to "
    )


def test_streams_that_part_after_training_did_are_no_cause(tmp_path: Path) -> None:
    found_ = told(stream, tmp_path, steps(), steps(at=5, stream__torch=1, given={"loss": 1.0}, params=0))
    assert [each[4] for each in found_] == [5]

    def late(run: Script) -> None:
        for step in range(1, 9):
            run.go({"params": step + (step > 2), "stream.torch": step + (step > 4)}, ids=[step])

    def early(run: Script) -> None:
        for step in range(1, 9):
            run.go({"params": step, "stream.torch": step}, ids=[step])

    assert told(stream, tmp_path / "late", early, late) == []


def test_streams_that_part_alike_are_told_together(tmp_path: Path) -> None:
    both = {"sources": {"params": "params"}, "streams": ("one", "two", "three", "four")}
    names = ("one", "two", "three", "four")

    def act(more: int) -> Act:
        def go(run: Script) -> None:
            generators = {f"stream.{name}": random.Random(k) for k, name in enumerate(names)}
            run.puts({name: python_state(each) for name, each in generators.items()})
            run.anchor_now("start")
            for step in range(1, 5):
                for k, each in enumerate(generators.values()):
                    for _ in range(1 + (k + more if more and step == 3 else 0)):
                        each.getrandbits(32)
                run.go({name: python_state(each) for name, each in generators.items()} | {"params": step})

        return go

    ((class_, confidence, evidence, source, _),) = told(stream, tmp_path, act(0), act(1), both=both)
    assert (class_, confidence, source) == ("stream-shifted", "certain", "stream.four")
    lines = evidence.split("; ")
    assert lines[0].endswith("B is 4 draws ahead")
    assert [line.partition(":")[0] for line in lines[1:]] == ["stream.one", "stream.three"]


class Unread(Script):
    """A run whose contract names nobody who draws from its streams."""

    def name_streams(self, names: Any, seeded_by: str = "the test, 0") -> None:
        super().name_streams(names, seeded_by)
        self.streams = [{**each, "consumers": []} for each in self.streams]


def test_a_stream_that_nobody_is_known_to_draw_from_is_only_possible(tmp_path: Path) -> None:
    """A draw of NumPy's beside another loss function was the certain cause of another loss."""
    act = drawing(0, 0, 0), drawing(0, 0, 4)

    def late(run: Script) -> None:
        act[1](run)
        run.go({"params": 99})

    def early(run: Script) -> None:
        act[0](run)
        run.go({"params": 98})

    says = "nothing that was consumed by then differs, and the contract names nobody who draws from it"
    for name, kind, expected in (("unread", Unread, "possible"), ("read", Script, "certain")):
        a, b = (kind(tmp_path / name / x, go, **BOTH).build() for x, go in (("a", early), ("b", late)))
        (cause,) = stream.find(situation_of(a, b))
        assert (cause.class_, cause.confidence) == ("stream-consumed", expected)
        assert (says in cause.evidence) is (expected == "possible")


def test_a_worker_that_gives_no_batch_is_not_back_where_it_stood(tmp_path: Path) -> None:
    """What stands for a worker that is not running is the same whenever it stands."""

    def act(*held: Any) -> Act:
        def go(run: Script) -> None:
            for number, each in enumerate(held, 1):
                run.begin(number)
                run.go({STREAM: ({}, None) if each is None else each, "params": number}, ids=[number])

        return go

    found_ = told(stream, tmp_path, act(None, 1, 2, 3), act(None, 1, None, 4), both=BOTH)
    assert not any("back where it stood" in each[2] for each in found_)
    found_ = told(stream, tmp_path / "real", act(7, 1, 2, 3), act(7, 1, 7, 4), both=BOTH)
    assert any("back where it stood" in each[2] for each in found_)


def test_another_seed_of_a_stream_that_is_first_seen_where_it_parts_is_certain(tmp_path: Path) -> None:
    """A generator made late was told as shifted, though the contract has both its seeds."""

    def act(seed: int) -> Act:
        def go(run: Script) -> None:
            run.go({"params": 1})
            run.name_streams(("python",), f"seed {seed}")
            run.put(STREAM, python_state(random.Random(seed)))
            run.census()
            run.go({"params": 2})

        return go

    both = {"sources": {"params": "params"}, "streams": ()}
    found_ = told(stream, tmp_path, act(1), act(2), both=both)
    assert [each[:3] for each in found_] == [
        ("stream-reseeded", "certain", "stream.python seeded_by: seed 1 in A, seed 2 in B")
    ]
