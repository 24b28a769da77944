"""In which order causes are told."""

from pathlib import Path
from typing import Any

from auditor.compare.cause_classes import CLASSES, causes_of
from auditor.compare.situation import CONFIDENCES
from tests.support.build_pair import Act, Script, situation_of, steps, write_pair


def classes(folder: Path, a: Act, b: Act, **options: Any) -> list[tuple[str, str]]:
    found = causes_of(situation_of(*write_pair(folder, a, b, **options)))
    assert all(each.class_ in CLASSES for each in found)
    order = [CONFIDENCES.index(each.confidence) for each in found]
    assert order == sorted(order)
    return [(each.class_, each.confidence) for each in found]


def test_equal_runs_have_no_cause(tmp_path: Path) -> None:
    assert classes(tmp_path, steps(), steps(), numerics={"threads": 2}, argv=["--lr", "2"]) == []


def test_the_cause_of_what_parted_first_is_told_first(tmp_path: Path) -> None:
    """The sentence named a parameter before the first step, and a stream that parted later as its cause."""
    kinds = {"params": "params", "hyper.dropout": "hyper"}

    def act(rate: float, extra: float) -> Act:
        def go(run: Script) -> None:
            run.put("hyper.dropout", [rate])
            run.anchor_now("start")
            for number in range(1, 4):
                run.go({"params": number, "stream.torch": 1 if extra else number})

        return go

    found = classes(tmp_path, act(0.1, 0), act(0.0, 1), both={"sources": kinds})
    assert found[:2] == [("hyper", "certain"), ("stream-consumed", "certain")]


def test_lost_state_is_told_first_among_equally_sure_causes(tmp_path: Path) -> None:
    def act(lost: bool) -> Act:
        def go(run: Script) -> None:
            for number in range(1, 7):
                if lost and number == 4:
                    run.cut(3)
                run.go({"params": number + (0.5 if lost and number >= 4 else 0.0)}, ids=[number], loss=float(number))

        return go

    both: dict[str, Any] = {"sources": {"params": "params"}}
    found = classes(tmp_path, act(False), act(True), both=both, argv=["--lr", "2"])
    assert next(each for each, sure in found if sure == "likely") == "state"


def test_causes_come_in_the_same_order_whichever_run_is_a(tmp_path: Path) -> None:
    a, b = write_pair(
        tmp_path, steps(), steps(at=3, params=1, stream__torch=1, given={"batch": "x"}), argv=["--lr", "2"]
    )
    one, two = (causes_of(situation_of(*pair)) for pair in ((a, b), (b, a)))
    told = [[(each.class_, each.confidence, each.source, each.step) for each in found] for found in (one, two)]
    assert told[0] == told[1]
    assert len(told[0]) > 1
