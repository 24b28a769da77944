"""From which anchor a step is come back to, on small real recordings: passes of 3 steps, anchors every 2."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import auditor
from auditor.errors import InconclusiveError, MemauditError
from auditor.evidence.history import Cut
from auditor.evidence.run_view import RunView
from auditor.recorder.recording import Recording
from auditor.replay.reach import reach
from auditor.state.streams import Preserved, global_streams

KINDS = ("epochs", "passes", "steps", "epochs, evaluated", "steps, evaluated")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunView]]:
    """Epochs over a loader, a loader without run.epochs, a loop without a loader; with evaluations inside."""
    home = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, Preserved(global_streams()):
        patch.setenv("MEMAUDIT_HOME", str(home / "keys"))
        for name in KINDS:
            record(home / name, name)
        yield {name: RunView.open(home / name) for name in KINDS}


def record(path: Path, kind: str) -> None:
    Recording.blocks = 0  # each stands for a program of its own
    with auditor.record(path, seed=0, anchor_every=2) as run:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(TensorDataset(torch.arange(6.0).reshape(6, 1)), batch_size=2, shuffle=True)
        run.watch(model=model, optimizer=optimizer)

        def step(batch: torch.Tensor) -> None:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            run.step()

        def evaluate() -> None:
            for (batch,) in run.batches(held_out):
                model(batch)

        held_out = DataLoader(TensorDataset(torch.arange(4.0).reshape(4, 1)), batch_size=2)
        if kind in ("steps", "steps, evaluated"):
            for index in run.steps(9):
                step(torch.rand(2, 1))
                if kind == "steps, evaluated" and index % 3 == 0:
                    evaluate()
            return
        if kind == "epochs, evaluated":
            for _ in run.epochs(3):
                for index, (batch,) in enumerate(run.batches(loader)):
                    step(batch)
                    if index == 0:
                        evaluate()
                evaluate()
            return
        for _ in run.epochs(3) if kind == "epochs" else range(3):
            for (batch,) in run.batches(loader):
                step(batch)


@pytest.mark.parametrize(
    ("at", "where", "step", "kind"),
    [
        (0, "pass", 0, "start"),
        (1, "step", 0, "start"),
        (2, "step", 2, "step"),
        (3, "pass", 3, "pass"),
        (4, "step", 4, "step"),
        (5, "step", 4, "step"),
        (6, "pass", 6, "pass"),
        (8, "step", 8, "step"),
    ],
)
def test_the_latest_anchor_not_after_the_fork(
    recordings: dict[str, RunView], at: int, where: str, step: int, kind: str
) -> None:
    found = reach(recordings["epochs"], at, 1)
    assert (found.where, found.anchor["step"], found.anchor["at"]) == (where, step, kind)
    assert found.last_step == 9


def test_at_a_passes_end_the_fork_lies_at_the_next_passes_start(recordings: dict[str, RunView]) -> None:
    paths = [anchor.path for anchor in recordings["epochs"].anchors if anchor.step == 6]
    assert paths == ["anchors/step-000006", "anchors/step-000006-pass"], "one inside the pass, and one at the next"
    assert reach(recordings["epochs"], 6, 1).anchor["path"] == paths[1]


@pytest.mark.parametrize(("at", "step"), [(1, 0), (2, 2), (5, 4), (8, 8)])
def test_a_loop_without_a_loader(recordings: dict[str, RunView], at: int, step: int) -> None:
    found = reach(recordings["steps"], at, 1)
    assert (found.where, found.anchor["step"]) == ("step", step)


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("kind", ["epochs", "steps"])
def test_an_evaluation_inside_changes_nothing(recordings: dict[str, RunView], kind: str, at: int) -> None:
    plain, evaluated = (reach(recordings[name], at, 1) for name in (kind, f"{kind}, evaluated"))
    assert plain.where == evaluated.where
    if kind == "epochs":
        assert evaluated.anchor["step"] == plain.anchor["step"]
    else:  # a pass that begins inside an iteration has an anchor taken where the next one begins
        assert plain.anchor["step"] <= evaluated.anchor["step"] <= at
    assert set(evaluated.anchor["files"]) == {"tensors.safetensors", "values.json"}


def test_passes_outside_run_epochs_are_reached_from_the_start(recordings: dict[str, RunView]) -> None:
    assert {reach(recordings["passes"], at, 1).anchor["at"] for at in range(9)} == {"start"}


def test_a_horizon_past_the_end_says_what_would_fit(recordings: dict[str, RunView]) -> None:
    reach(recordings["epochs"], 5, 4)
    with pytest.raises(MemauditError, match="last step, 9") as caught:
        reach(recordings["epochs"], 5, 5)
    assert "at most 4" in caught.value.next_step
    assert caught.value.exit_status == 2


def without_entrances(run: RunView) -> RunView:
    opened = RunView.open(run.path)
    for event in opened.trace.of("anchor"):
        event["enter"] = None
    return opened


def test_without_an_anchor_that_can_be_entered_the_program_runs_from_its_start(recordings: dict[str, RunView]) -> None:
    run = without_entrances(recordings["passes"])
    found = reach(run, 4, 1, without=[("fork", "not today")])
    assert (found.way, found.anchor, found.begins) == ("rerun", None, 0)
    assert [way for way, _ in found.refused] == ["restore", "fork"]
    with pytest.raises(InconclusiveError, match="by restore") as caught:
        reach(run, 4, 1, "restore")
    assert caught.value.exit_status == 4
    assert "run.epochs()" in (caught.value.why or "")
    assert (caught.value.next_step or "").startswith("use --reach ")


def test_without_any_way_the_answer_is_inconclusive_and_says_why_of_each(recordings: dict[str, RunView]) -> None:
    run = without_entrances(recordings["passes"])
    run.census["streams"][1]["seeded_by"] = "the operating system"
    name = run.census["streams"][1]["name"]
    with pytest.raises(InconclusiveError, match="cannot be come back to") as caught:
        reach(run, 4, 1)
    told = caught.value.why or ""
    assert f"rerun: nobody seeded {name}" in told
    assert "restore: no anchor" in told
    assert "fork: " in told
    assert "--seed" in (caught.value.next_step or "")


@pytest.mark.parametrize(
    ("at", "way"), [(0, "restore"), (3, "restore"), (4, "restore"), (5, "fork"), (7, "fork"), (8, "restore")]
)
def test_forking_is_chosen_where_it_saves_steps(
    recordings: dict[str, RunView], at: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunView.open(recordings["epochs"].path)
    numerics = {**run.environment["numerics"], "threads": 1, "devices": []}
    monkeypatch.setattr(run, "environment_at", lambda step: {**run.environment, "numerics": numerics})
    if sys.platform != "linux":
        way = "restore"
    found = reach(run, at, 1)
    assert found.way == way
    assert found.anchor is not None


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"threads": 4}, "torch used 4 threads"), ({"devices": ["NVIDIA H100"]}, "devices other than the CPU")],
)
@pytest.mark.skipif(sys.platform != "linux", reason="refused for another reason")
def test_what_the_record_says_against_forking(
    recordings: dict[str, RunView], changes: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunView.open(recordings["epochs"].path)
    numerics = {**run.environment["numerics"], "threads": 1, "devices": [], **changes}
    monkeypatch.setattr(run, "environment_at", lambda step: {**run.environment, "numerics": numerics})
    assert why in dict(reach(run, 5, 1).refused)["fork"]
    assert reach(run, 5, 1).way == "restore"
    with pytest.raises(InconclusiveError) as caught:
        reach(run, 5, 1, "fork")
    assert why in (caught.value.why or "")


def test_elsewhere_than_on_linux_nothing_is_forked(
    recordings: dict[str, RunView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in dict(reach(recordings["epochs"], 5, 1).refused)["fork"]


def test_a_way_that_is_none_is_refused(recordings: dict[str, RunView]) -> None:
    with pytest.raises(MemauditError, match="no way called 'jump'") as caught:
        reach(recordings["epochs"], 5, 1, "jump")
    assert caught.value.exit_status == 2
    assert "auto, restore, rerun, fork" in (caught.value.next_step or "")


def test_the_fork_between_passes_is_named_by_the_pass_that_takes_the_next_step(
    recordings: dict[str, RunView],
) -> None:
    """Found as a defect: after an evaluation's pass the fork lay before or behind it, as the anchor had it."""
    assert [reach(recordings["epochs"], at, 1).before for at in (0, 3, 4, 6)] == [1, 2, None, 3]
    # Passes: 1 trains, 2 evaluates inside it, 3 evaluates after it; 4 trains.
    found = reach(recordings["epochs, evaluated"], 3, 1)
    assert (found.where, found.before) == ("pass", 4)
    assert found.anchor is not None
    assert (found.anchor["step"], found.anchor["pass"]) == (3, 4)


def test_a_run_that_went_on_from_a_checkpoint_of_its_own_is_not_rerun_past_the_cut(
    recordings: dict[str, RunView],
) -> None:
    run = RunView.open(recordings["epochs"].path)
    own = {"event": "resume", "step": 4, "from": None, "environment": None}
    run.history.cuts.append(Cut(own, (), None))
    assert "rerun" not in dict(reach(run, 2, 2).refused)
    assert "checkpoint of its own" in dict(reach(run, 2, 3).refused)["rerun"]
    own["from"] = "anchors/step-000004"
    assert "rerun" not in dict(reach(run, 2, 3).refused)
