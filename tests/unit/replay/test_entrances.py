"""From where two runs go on, on small real recordings: three passes of 6 steps, an anchor at each pass's start."""

from collections.abc import Iterator

import pytest

from auditor.compare.divergence import Divergence
from auditor.errors import InconclusiveError
from auditor.evidence.run_view import RunView
from auditor.replay.parting import Place
from auditor.replay.refine import Reexecution, Refinement, entrances
from tests.support import magnified

RUNS = {"plain": [], "weight": ["--plant", "weight"], "seed": ["--seed", "1"], "bare": ["--no-epochs"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunView]]:
    home = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMAUDIT_HOME", str(home / "keys"))
        yield {name: RunView.open(magnified.record(home / name, *words)) for name, words in RUNS.items()}


@pytest.mark.parametrize(
    ("one", "two", "first_step", "found"),
    [
        ("plain", "plain", 18, [(12, True), (0, False)]),
        ("plain", "plain", 12, [(6, True), (0, False)]),
        ("plain", "plain", 6, [(0, True)]),
        ("plain", "weight", 9, [(6, True), (0, False)]),
        ("plain", "weight", 18, [(6, True), (0, False)]),
        ("plain", "seed", 1, [(0, False)]),
        ("plain", "seed", 18, [(0, False)]),
        ("plain", "bare", 9, [(0, True)]),
    ],
)
def test_the_last_anchor_at_which_both_are_equal_and_then_the_start(
    runs: dict[str, RunView], one: str, two: str, first_step: int, found: list[tuple[int, bool]]
) -> None:
    for pair in ((one, two), (two, one)):
        assert [(each.step, each.common) for each in entrances(runs[pair[0]], runs[pair[1]], first_step)] == found


def test_what_only_one_of_them_has_does_not_keep_anchors_apart(runs: dict[str, RunView]) -> None:
    other = RunView.open(runs["plain"].path)
    for anchor in other.anchors:
        anchor.event["sources"]["queue"] = "A" * 22
    assert entrances(runs["plain"], other, 9)[0].step == 6


def test_without_an_anchor_that_can_be_entered_the_answer_is_inconclusive(runs: dict[str, RunView]) -> None:
    other = RunView.open(runs["plain"].path)
    for anchor in other.anchors:
        anchor.event["enter"] = None
    with pytest.raises(InconclusiveError) as caught:
        entrances(runs["plain"], other, 9)
    assert caught.value.exit_status == 4
    assert str(other.path) in str(caught.value.where)
    assert "run.epochs" in str(caught.value.next_step)


def test_without_starts_an_equal_anchor_later_on_still_serves(runs: dict[str, RunView]) -> None:
    views = [RunView.open(runs["plain"].path) for _ in range(2)]
    for view in views:
        view.anchors[0].event["enter"] = None
    assert [(each.step, each.common) for each in entrances(*views, 9)] == [(6, True)]
    views[1].anchors[1].event["sources"]["params"] = "A" * 22
    with pytest.raises(InconclusiveError, match="cannot be entered together"):
        entrances(*views, 9)


def test_a_refinement_says_every_member_in_json() -> None:
    place = Place(9, "forward", module="model.block", call=2)
    parted = Reexecution(Divergence(7, "params"))
    assert Refinement(6, 11, Reexecution(None), parted, place, ("a note",)).to_json() == {
        "from": 6,
        "to": 11,
        "a": {"reproduced": True, "first": None},
        "b": {"reproduced": False, "first": {"step": 7, "source": "params"}},
        "first": {
            "step": 9,
            "phase": "forward",
            "module": "model.block",
            "call": 2,
            "tensor": None,
            "chunk": None,
            "source": None,
        },
        "notes": ["a note"],
    }
    assert Refinement(6, 11, parted, parted, None, ()).to_json()["first"] is None
