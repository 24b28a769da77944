"""Interventions on the data order, in real cells: what each step consumes is a permutation made here by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.artifact.digest import array_digest, digest_text
from auditor.artifact.resources import validator
from auditor.evidence.run_view import RunView, Step, resolve_steps
from auditor.evidence.trace_reader import read_trace
from auditor.recorder.cell import CellFinished
from auditor.recorder.recording import Recording
from auditor.recorder.settings import CELL, CELL_RUN
from auditor.replay.cells import Cell, CellStore, plan_cells
from auditor.replay.plan import PlanError, from_options
from auditor.replay.reach import reach
from auditor.state.census import Watched
from auditor.state.streams import Preserved, global_streams
from tests.support.ordered import BATCH, SIZE, accumulate, build, train
from tests.support.programs import ROOT, memaudit

Log = list[list[Any]]
"""By step: ``[epoch, ids, inputs]`` of each batch."""


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


@dataclass
class Rollout:
    """What one cell did."""

    log: Log
    """From the fork on."""
    result: dict[str, Any]
    steps: list[Step]

    @property
    def receipt(self) -> dict[str, Any]:
        receipt: dict[str, Any] = self.result["receipts"][0]
        return receipt

    @property
    def batches(self) -> list[list[int]]:
        """The ids of each batch."""
        return ids(self.log)


def ids(log: Log) -> list[list[int]]:
    return [batch[1] for step in log for batch in step]


@dataclass
class Recorded:
    """A run that this process recorded, and the switches of its training."""

    path: Path
    log: Log
    switches: dict[str, Any]

    def cells(self, *do: str, at: int, horizon: int) -> list[Cell]:
        """Return the control of the only unit, and the arms."""
        plan = from_options(str(self.path), [at], do, [horizon], 1)
        view = RunView.open(self.path)
        cells = plan_cells(plan, plan.forks[0], view, reach(view, at, horizon, "restore"))
        return [cells.carries[0], *(by_unit[0] for by_unit in cells.arms.values())]

    def rollouts(self, *do: str, at: int, horizon: int) -> list[Rollout]:
        """Run the control and each arm in this process, for one unit; the control comes first."""
        cells = self.cells(*do, at=at, horizon=horizon)
        return [self._roll(cell, at) for cell in cells]

    def _roll(self, cell: Cell, at: int) -> Rollout:
        store = CellStore(self.path.parent / "cells")
        working = store.begin(cell)
        validator("cell").validate(cell.description)
        log: Log = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CELL, str(working))
            patch.setenv(CELL_RUN, str(self.path))
            with pytest.raises((CellFinished, Exception)) as caught:
                train("run", log, **self.switches)
        result = json.loads((working / "result.json").read_text())
        validator("cell-result").validate(result)
        assert caught.type is CellFinished or result["status"] == "failed"
        steps = [*resolve_steps(read_trace((working / "trace.jsonl").read_bytes()).events)]
        return Rollout(log[len(log) - (len(steps) + cell.description["anchor"]["step"] - at) :], result, steps)


def record(folder: Path, **switches: Any) -> Recorded:
    log: Log = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "blocks", 0)  # as in a process of its own: only its first recording can be entered
        train(str(folder / "run"), log, **switches)
    return Recorded(folder / "run", log, switches)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    with Preserved(global_streams()):
        return record(tmp_path_factory.mktemp("shuffled"))


def joined(batches: list[list[int]]) -> list[int]:
    return [sample for batch in batches for sample in batch]


def ids_digest(batches: list[list[int]]) -> str:
    return digest_text(array_digest("ids", np.asarray(joined(batches), dtype=np.int64)))


def agrees(arm: Rollout, control: Rollout, expected: list[list[int]]) -> None:
    """Check that an arm consumed what is expected, says so in its trace, and left every stream as the control's."""
    assert arm.batches == expected
    assert sorted(map(sorted, arm.batches)) == sorted(map(sorted, control.batches))
    assert [step.streams for step in arm.steps] == [step.streams for step in control.steps]
    told = [step.ids for step in arm.steps][-len(arm.log) :]
    assert told == [ids_digest(ids([step])) for step in arm.log]


def params_after(log: Log) -> list[str]:
    """Train by hand on what was consumed; return the digest of the weights after each step."""
    model, optimizer = build()
    watched = Watched()
    watched.add("model", model)
    digests = []
    for step in log:
        for _, sample_ids, inputs in step:
            accumulate(model, torch.tensor(sample_ids), torch.tensor(inputs))
        optimizer.step()
        optimizer.zero_grad()
        (params,) = [source for source in watched.sources() if source.kind == "params"]
        digests.append(digest_text(params.read().digest()))
    return digests


# A pass has 6 batches: steps 1-6, 7-12, 13-18.

IN_A_PASS = {
    # arm: where the control's batches of steps 3 to 12 come instead, by hand
    "order=swap,first=3-4,second=5-6": [2, 3, 0, 1, 4, 5, 6, 7, 8, 9],
    "order=swap,first=6-6,second=3-4": [3, 2, 0, 1, 4, 5, 6, 7, 8, 9],
    "order=reverse,window=3-6": [3, 2, 1, 0, 4, 5, 6, 7, 8, 9],
    "order=swap,first=8-8,second=12-12": [0, 1, 2, 3, 4, 9, 6, 7, 8, 5],
    "order=reverse,window=7-12": [0, 1, 2, 3, 9, 8, 7, 6, 5, 4],
    "order=swap,first=3-3,second=4-4+order=reverse,window=3-5": [2, 0, 1, 3, 4, 5, 6, 7, 8, 9],
}


def test_the_steps_after_a_fork_inside_a_pass_consume_the_permutation_made_by_hand(shuffled: Recorded) -> None:
    control, *arms = shuffled.rollouts(*IN_A_PASS, at=2, horizon=10)
    assert len(control.batches) == 10
    for arm, order in zip(arms, IN_A_PASS.values(), strict=True):
        agrees(arm, control, [control.batches[place] for place in order])
        assert arm.receipt["applied"] is True


def test_the_weights_after_a_swap_are_those_of_a_training_whose_batches_were_swapped_by_hand(
    shuffled: Recorded,
) -> None:
    control, arm = shuffled.rollouts("order=swap,first=3-3,second=5-6", at=2, horizon=6)
    order = [2, 3, 1, 0, 4, 5]
    by_hand = params_after([*shuffled.log[:2], *(control.log[place] for place in order)])
    assert [step.sources["params"] for step in arm.steps[-6:]] == by_hand[2:]
    assert [step.sources["params"] for step in control.steps[-6:]] != by_hand[2:]


def test_the_receipt_holds_the_digests_of_the_ids_that_were_to_come_and_that_came(shuffled: Recorded) -> None:
    control, swap, policy = shuffled.rollouts(
        "order=swap,first=3-3,second=5-6", "order=policy,kind=sequential", at=2, horizon=9
    )
    planned = control.batches[:4]
    came = [planned[place] for place in (2, 3, 1, 0)]
    assert swap.receipt == {
        "source": "order",
        "do": "swap",
        "arguments": {"first": "3-3", "second": "5-6", "draws": "by position"},
        "at": 2,
        "applied": True,
        "reason": "what the data set draws for its samples, if anything, goes by position: "
        "auditor.KeyedDataset keys it",
        "tensors": None,
        "norm_before": None,
        "norm_after": None,
        "changed": float(np.mean(np.asarray(planned) != np.asarray(came))),
        "digest_before": {"order": ids_digest(planned)},
        "digest_after": {"order": ids_digest(came)},
        "steps_changed": None,
    }
    # Steps 7 to 11 lie in the pass that begins after the fork; the last of its batches is beyond the horizon.
    assert policy.receipt["digest_before"] == {"order": ids_digest(control.batches[4:])}
    assert policy.receipt["digest_after"] == {"order": ids_digest(policy.batches[4:])}


def test_a_shuffled_window_holds_the_same_batches_in_an_order_that_each_unit_draws_alike(shuffled: Recorded) -> None:
    text = "order=shuffle,window=7-12"
    control, arm = shuffled.rollouts(text, at=2, horizon=10)
    _, again = shuffled.rollouts(text, at=2, horizon=10)
    assert arm.batches != control.batches
    assert arm.batches == again.batches
    agrees(arm, control, arm.batches)
    assert arm.batches[:4] == control.batches[:4]


def test_a_fork_at_a_passes_start_reaches_its_first_batch(shuffled: Recorded) -> None:
    control, swap, policy = shuffled.rollouts(
        "order=swap,first=7-7,second=12-12", "order=policy,kind=sequential", at=6, horizon=6
    )
    agrees(swap, control, [control.batches[place] for place in (5, 1, 2, 3, 4, 0)])
    assert policy.batches == [list(range(first, first + BATCH)) for first in range(0, SIZE, BATCH)]


def test_a_fork_before_the_first_step_reaches_it(shuffled: Recorded) -> None:
    control, arm = shuffled.rollouts("order=swap,first=1-1,second=2-2", at=0, horizon=3)
    agrees(arm, control, [control.batches[place] for place in (1, 0, 2)])


LAZY = [("replacement", 2), ("own batches", 2)]
"""These draw as they go, from generators that stand in the trace; here for loaders whose workers are ahead."""


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *((kind, 0) for kind in ("own generator", "replacement", "weighted", "subset", "uneven", "own batches")),
        *LAZY,
    ],
)
def test_every_kind_of_sampler_gives_the_same_batches_and_streams(tmp_path: Path, kind: str, workers: int) -> None:
    recorded = record(tmp_path, kind=kind, workers=workers)
    passes = len(recorded.log) // 3
    a, b = passes + 2, passes + 3
    arms = (f"order=swap,first={a}-{a},second={b}-{b}", "order=swap,first=2-2,second=3-3")
    control, later, now = recorded.rollouts(*arms, at=1, horizon=passes + 3)
    agrees(now, control, [control.batches[place] for place in (1, 0, *range(2, passes + 3))])
    order = [*range(a - 2), b - 2, a - 2, *range(b - 1, passes + 3)]
    agrees(later, control, [control.batches[place] for place in order])


@pytest.mark.parametrize("workers", [0, 2])
def test_keyed_samples_keep_what_they_draw_and_unkeyed_draws_go_by_position(tmp_path: Path, workers: int) -> None:
    def contents(rollout: Rollout) -> dict[tuple[int, int], list[float]]:
        return {
            (epoch, sample): values
            for step in rollout.log
            for epoch, samples, inputs in step
            for sample, values in zip(samples, inputs, strict=True)
        }

    for keyed, word in ((True, "keyed"), (False, "by position")):
        folder = tmp_path / word.replace(" ", "-")
        folder.mkdir()
        recorded = record(folder, workers=workers, noisy=True, keyed=keyed)
        control, arm = recorded.rollouts("order=swap,first=3-4,second=5-6", at=2, horizon=6)
        agrees(arm, control, [control.batches[place] for place in (2, 3, 0, 1, 4, 5)])
        assert arm.receipt["arguments"]["draws"] == word
        assert (arm.receipt["reason"] is None) is keyed
        assert (contents(arm) == contents(control)) is keyed
        assert {sample for _, sample in contents(arm)} == {sample for _, sample in contents(control)}


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_are_steps_also_where_a_step_takes_several_batches(tmp_path: Path, workers: int) -> None:
    recorded = record(tmp_path, accumulates=2, workers=workers)
    control, inside, start = recorded.rollouts(
        "order=swap,first=2-2,second=3-3", "order=reverse,window=4-5", at=1, horizon=6
    )
    batches = control.batches
    agrees(inside, control, [batches[place] for place in (2, 3, 0, 1, *range(4, 12))])
    agrees(start, control, [batches[place] for place in (*range(4), 7, 6, 5, 4, *range(8, 12))])


def test_swapping_two_identical_batches_is_not_applied_and_changes_no_bit(tmp_path: Path) -> None:
    control, arm = record(tmp_path, kind="twins").rollouts("order=swap,first=3-3,second=4-4", at=1, horizon=6)
    assert arm.receipt["applied"] is False
    assert arm.receipt["reason"] == "the two windows hold equal ids in equal order"
    assert arm.receipt["digest_before"] == arm.receipt["digest_after"] != {}
    assert arm.receipt["changed"] == 0.0
    assert arm.steps == control.steps
    assert arm.result["horizons"] == control.result["horizons"]


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *((kind, 0) for kind in ("shuffled", "own generator", "replacement", "weighted", "subset", "sequential")),
        ("shuffled", 2),
        ("replacement", 2),
    ],
)
def test_a_policy_shows_in_later_passes_and_only_there(tmp_path: Path, kind: str, workers: int) -> None:
    kinds = ("reshuffling", "replacement", "fixed", "sequential")
    recorded = record(tmp_path, kind=kind, workers=workers, epochs=4)
    count = len(recorded.log) // 4
    control, *arms = recorded.rollouts(*(f"order=policy,kind={each}" for each in kinds), at=1, horizon=4 * count - 1)
    population = sorted({sample for batch in control.batches for sample in batch})
    already = {"replacement": ["replacement"], "weighted": [], "sequential": ["fixed", "sequential"]}
    for word, arm in zip(kinds, arms, strict=True):
        assert arm.batches[: count - 1] == control.batches[: count - 1]
        assert [step.streams for step in arm.steps] == [step.streams for step in control.steps]
        if word in already.get(kind, ["reshuffling"]):
            assert arm.receipt["reason"] == f"the order of loader 1 is {word} already"
            assert arm.steps == control.steps
            continue
        assert arm.receipt["applied"] is True
        assert arm.receipt["changed"] > 0.5
        flat = joined(arm.batches[count - 1 :])
        passes = [flat[first : first + len(flat) // 3] for first in range(0, len(flat), len(flat) // 3)]
        match word:
            case "reshuffling":
                each = len(passes[0]) // len(population)
                assert all(sorted(ids) == sorted(population * each) for ids in passes)
                assert len({tuple(ids) for ids in passes}) == 3
            case "replacement":
                assert any(len(set(ids)) < len(population) for ids in passes)
                assert set(flat) <= set(population)
            case "fixed":
                assert len({tuple(ids) for ids in passes}) == 1
                assert sorted(passes[0]) != passes[0]
                assert set(passes[0]) == set(population)
            case "sequential":
                assert all(ids == population * (len(ids) // len(population)) for ids in passes)


def test_a_policy_begins_after_the_step_it_is_given(shuffled: Recorded) -> None:
    control, arm = shuffled.rollouts("order=policy,kind=sequential,at=8", at=2, horizon=16)
    assert arm.batches[:10] == control.batches[:10]
    assert joined(arm.batches[10:]) == list(range(SIZE))
    assert arm.receipt["at"] == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_re_keyed_later_in_the_pass_leaves_what_was_arranged(tmp_path: Path, workers: int) -> None:
    rekey = "stream=rekey,at=8"
    names = ("order=policy,kind=sequential", "order=reverse,window=7-8", "order=reverse,window=10-11")
    recorded = record(tmp_path, workers=workers)
    control, sequential, before, after = recorded.rollouts(
        rekey, *(f"{name}+{rekey}" for name in names), at=2, horizon=12
    )[1:]
    assert joined(sequential.batches[4:10]) == list(range(SIZE))
    for arm, order in ((before, [5, 4, 6, 7, 8, 9]), (after, [4, 5, 6, 8, 7, 9])):
        assert arm.batches[:4] == control.batches[:4]
        assert arm.batches[4:10] == [control.batches[place] for place in order]


def test_a_window_that_is_drawn_anew_halfway_ends_the_cell_with_the_reason(shuffled: Recorded) -> None:
    _, arm = shuffled.rollouts("order=reverse,window=8-9+stream=rekey,at=8", at=2, horizon=12)
    assert arm.result["status"] == "failed"
    assert "pass 2 is drawn anew after batch 2, inside the window" in arm.result["error"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_order_that_a_redraw_keeps_is_arranged_once(tmp_path: Path, workers: int) -> None:
    recorded = record(tmp_path, kind="own batches", workers=workers)
    control, arm = recorded.rollouts(
        "stream=rekey,at=3", "order=reverse,window=4-6+stream=rekey,at=3", at=1, horizon=5
    )[1:]
    assert arm.batches == [control.batches[place] for place in (0, 1, 4, 3, 2)]


def test_a_rollout_that_ends_in_the_pass_in_progress_has_no_policy_to_show(shuffled: Recorded) -> None:
    control, arm = shuffled.rollouts("order=policy,kind=sequential", at=2, horizon=3)
    assert arm.receipt["applied"] is False
    assert "no pass of loader 1 begins before the last horizon" in arm.receipt["reason"]
    assert arm.steps == control.steps


def test_a_policy_does_not_guess_what_a_sampler_of_ones_own_draws_from(tmp_path: Path) -> None:
    control, arm = record(tmp_path, kind="own batches").rollouts("order=policy,kind=sequential", at=2, horizon=8)
    assert "loader 1 has a sampler of the program's own" in arm.receipt["reason"]
    assert arm.steps == control.steps


def test_one_of_two_loaders_is_named_by_its_number(tmp_path: Path) -> None:
    recorded = record(tmp_path, beside=True)
    control, bare, first, second = recorded.rollouts(
        *(f"order{name}=swap,first=3-3,second=4-4" for name in ("", "[1]", "[2]")), at=2, horizon=4
    )
    assert bare.log == first.log
    for arm, moved in ((first, 0), (second, 1)):
        for loader in (0, 1):
            batches = [step[loader][1] for step in control.log]
            if loader == moved:
                batches[:2] = batches[1::-1]
            assert [step[loader][1] for step in arm.log] == batches
        assert [step.streams for step in arm.steps] == [step.streams for step in control.steps]
    assert second.receipt["digest_after"].keys() == {"order[2]"}


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        ({"kind": "iterable"}, "have no sample ids: an iterable data set"),
        ({"kind": "list"}, "took its batches from an iterable that is no DataLoader"),
        ({"by_hand": True}, "the program draws its batches by hand"),
    ],
    ids=["iterable", "list", "by hand"],
)
def test_what_has_no_order_to_change_is_not_applied_and_says_why(
    tmp_path: Path, switches: dict[str, Any], reason: str
) -> None:
    texts = ("order=reverse,window=3-4", "order=policy,kind=sequential")
    control, *arms = record(tmp_path, **switches).rollouts(*texts, at=2, horizon=6)
    for arm in arms:
        assert arm.receipt["applied"] is False
        assert reason in arm.receipt["reason"]
        assert arm.receipt["digest_before"] == {}
        assert arm.steps == control.steps


def test_a_sampler_that_draws_as_it_goes_from_a_shared_stream_ends_the_cell_with_the_reason(tmp_path: Path) -> None:
    _, arm = record(tmp_path, kind="own batches, torch").rollouts("order=reverse,window=3-4", at=2, horizon=4)
    assert arm.result["status"] == "failed"
    assert "draws as it goes from torch, and so does something else" in arm.result["error"]
    assert "give the sampler a generator of its own" in arm.result["error"]


def test_steps_that_take_other_batches_than_recorded_end_the_cell_with_the_reason(tmp_path: Path) -> None:
    recorded = record(tmp_path, accumulates=3, ragged=True)
    control, arm = recorded.rollouts("order=reverse,window=2-3", at=1, horizon=4)
    assert [len(step) for step in recorded.log[1:3]] != [len(step) for step in control.log[:2]]
    assert arm.result["status"] == "failed"
    assert "of pass 1, in the recorded run at 3" in arm.result["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order=swap,first=2-3,second=4-5", "steps 2-3 are not all in the rollout"),
        ("order=swap,first=3-3,second=12-13", "steps 12-13 are not all in the rollout"),
        ("order=swap,first=3-4,second=4-5", "the two windows overlap"),
        ("order=swap,first=3-3,second=8-8", "the steps take batches from passes 1, 2"),
        ("order=reverse,window=5-8", "the steps take batches from passes 1, 2"),
        ("order=reverse,window=4-5,at=4", "steps 4-5 are not all in the rollout"),
        (f"order=reverse,window=3-{10**18}", "are not all in the rollout"),
        (f"order=reverse,window=3-{'9' * 5000}", "it is a range of steps"),
        ("order[2]=reverse,window=3-4", r"order\[2\] names no loader of the run"),
        ("order[model]=policy,kind=fixed", r"order\[model\] names no loader"),
        ("order.first=reverse,window=3-4", "names no loader"),
        ("order=reverse,window=4-3", "it is a range of steps"),
        ("order=policy,kind=curriculum", "it is one of reshuffling, replacement, fixed, sequential"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_any_cell_runs(shuffled: Recorded, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        shuffled.cells(text, at=2, horizon=10)
    assert caught.value.next_step


def test_a_refusal_names_the_steps_that_lie_in_one_pass(shuffled: Recorded) -> None:
    with pytest.raises(PlanError) as caught:
        shuffled.cells("order=reverse,window=5-8", at=2, horizon=10)
    assert caught.value.next_step == "name steps of one pass: steps 3-6 (pass 1) or steps 7-12 (pass 2)"


def test_the_command_replays_a_swap_with_workers_and_the_gate_passes(tmp_path: Path) -> None:
    program = ROOT / "tests" / "support" / "ordered.py"
    paths = {"PYTHONPATH": str(ROOT)}
    options = ("--workers", 2, "--keyed", "--noisy")
    answer = memaudit("record", "--", sys.executable, program, *options, cwd=tmp_path, **paths)
    assert answer.returncode == 0, answer.stderr
    words = ("--at", 2, "--do", "order=swap,first=3-4,second=5-6", "--horizon", 6, "--seeds", 2, "--trust-code")
    answer = memaudit("replay", "run", *words, "--out", "study", "--json", cwd=tmp_path, **paths)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    estimate = json.loads(answer.stdout)
    assert estimate["forks"][0]["gate"]["verdict"] == "passed"
    (arm,) = estimate["forks"][0]["arms"]
    assert (arm["receipts"]["applied"], arm["desynchronised"]) == (2, [])
    logs = {}
    for path in (tmp_path / "study" / "cells").iterdir():
        cell = json.loads((path / "cell.json").read_text())
        logs[cell["arm"], cell["unit"]] = [json.loads(line) for line in (path / "log.txt").read_text().splitlines()]
    for unit in (0, 1):
        control, treated = (ids(logs[name, unit][-6:]) for name in ("carry", arm["name"]))
        assert treated == [control[place] for place in (2, 3, 0, 1, 4, 5)]
    assert logs["carry", 0] != logs["carry", 1]
    words = ("--at", 2, "--do", "order=swap,first=1-1,second=5-6", "--horizon", 6, "--seeds", 2, "--trust-code")
    answer = memaudit("replay", "run", *words, "--out", "other", cwd=tmp_path, **paths)
    assert answer.returncode == 2
    assert "steps 1-1 are not all in the rollout" in answer.stderr
    assert not (tmp_path / "other").exists()
