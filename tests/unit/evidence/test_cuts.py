"""Runs that were cut and went on: what counts, what is void, and what verification says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.evidence.keys import SigningKey
from auditor.evidence.run_view import RunView
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import Verification, verify
from tests.support.build_run import Event, RunBuilder


class Cut(RunBuilder):
    """Cut in its second pass after step 5; goes on from the anchor inside that pass, after step 4."""

    torch: str | None = None
    drift = 0.0

    def train(self) -> None:
        self.anchor("start", 1)
        self.walk(1)
        self.anchor("pass", 2)
        self.begin_pass()
        self.consume(2)
        self.take_step(2)
        inside = self.anchor("step", 2)
        self.consume(2)
        self.take_step(2)
        self.resume(inside, torch=self.torch)
        self.weight = self.weight + np.float32(self.drift)
        for _ in range(2):
            self.consume(2)
            self.take_step(2)
        self.end_pass(2)
        self.anchor("end", 2)


class Restarted(RunBuilder):
    """Cut in its first pass after step 2; the program restores itself and begins its loader anew."""

    def train(self) -> None:
        self.anchor("start", 1)
        self.begin_pass()
        for _ in range(2):
            self.consume(1)
            self.take_step(1)
        members = {"step": 1, "pass": 1, "position": 1, "from": None, "abandoned": 1, "environment": None}
        self.append("resume", members)
        each = self.open[1]
        each.ids = [*each.ids[:4], *each.ids[2:]]
        each.used = each.before = 4
        each.position = each.resumed = 1
        each.lengths = [4]
        self.step, self.last = 1, {}
        self.census()
        for size in (4, 4, 2):
            self.consume(1, size)
            self.take_step(1)
        self.end_pass(1, policy={"length": 12})
        self.anchor("end", 1)


def by_code(verification: Verification) -> dict[str, Any]:
    return {finding.code: finding for finding in verification.findings}


@pytest.fixture
def cut(tmp_path: Path, key: SigningKey) -> Path:
    return Cut(tmp_path / "cut", key=key).build()


def test_a_run_that_went_on_from_an_anchor_passes_and_says_so(cut: Path, trusted: TrustStore) -> None:
    verification = verify(cut, trusted=trusted)
    assert verification.verdict == "passed", verification.findings
    assert [finding.code for finding in verification.findings] == ["MA823"]
    message = verification.findings[0].message
    assert "after step 4, from anchors/step-000004" in message
    assert "1 step taken before the cut was void" in message
    assert "in pass 2 0 samples were repeated and 0 samples were skipped" in message
    same = next(claim for claim in verification.claims if "done again" in claim.what)
    assert same.message.startswith("1 of 1 step abandoned")
    assert verification.summary["steps"] == 6
    assert verification.summary["cuts"] == 1


def test_readers_see_each_step_once_with_every_digest(cut: Path) -> None:
    view = RunView.open(cut)
    steps = list(view.steps())
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(None not in step.sources.values() and None not in step.streams.values() for step in steps)
    assert [event["pass"] for event in view.passes()] == [1, 2]
    assert sorted(view.order(2).tolist()) == list(range(12))
    assert [anchor.step for anchor in view.anchors] == [0, 3, 4, 6]


def test_a_training_that_does_not_repeat_itself_is_warned_of(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    class Drifting(Cut):
        drift = 1.0

    verification = verify(Drifting(tmp_path / "run", key=key).build(), trusted=trusted)
    assert verification.verdict == "passed"
    found = by_code(verification)["MA824"]
    assert (str(found.level), "the first one 5, in params" in found.message) == ("warning", True)


def test_on_another_machine_other_bits_are_only_noted(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Elsewhere(Cut):
        drift = 1.0
        torch = "2.14.0"

    run = Elsewhere(tmp_path / "run", key=key).build()
    verification = verify(run, trusted=trusted)
    found = by_code(verification)
    assert (verification.verdict, str(found["MA824"].level)) == ("passed", "note")
    assert "environment-2.json" in found["MA823"].message
    view = RunView.open(run)
    assert [view.environment_at(step)["numerics"]["torch"] for step in (4, 5)] == ["2.13.0", "2.14.0"]


def test_a_program_that_restored_itself_says_what_it_repeated_and_skipped(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    run = Restarted(tmp_path / "run", key=key).build()
    verification = verify(run, trusted=trusted)
    assert verification.verdict == "passed", verification.findings
    message = by_code(verification)["MA823"].message
    assert "a checkpoint of the program's own" in message
    assert "2 samples were repeated and 0 samples were skipped" in message
    assert [step.step for step in RunView.open(run).steps()] == [1, 2, 3, 4]


def lying(tmp_path: Path, key: SigningKey, event: str, change: Callable[[Event], None], kind: Any = Cut) -> Path:
    def edit(written: Event) -> None:
        if written["event"] == event:
            change(written)

    return kind(tmp_path / "lie", key=key, edit=edit).build()


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        ("resume", {"abandoned": 3}),
        ("resume", {"from": "anchors/step-000009"}),
        ("resume", {"step": 3}),
        ("resume", {"position": 2}),
        ("resume", {"from": None, "step": 9}),
        ("iter", {"pass": 9}),
        ("iter", {"streams": []}),
        ("iter", {"loader": 4}),
        ("stored", {"path": "anchors/elsewhere"}),
        ("pass", {"first": 2}),
        ("pass", {"epoch": 8}),
        ("pass", {"batches": 1}),
    ],
    ids=str,
)
def test_events_that_do_not_make_a_run(
    tmp_path: Path, key: SigningKey, trusted: TrustStore, event: str, changes: dict[str, Any]
) -> None:
    verification = verify(lying(tmp_path, key, event, lambda written: written.update(changes)), trusted=trusted)
    assert "MA815" in {finding.code for finding in verification.findings if finding.level == "error"}


def test_a_pass_that_hides_that_it_was_cut(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    run = lying(tmp_path, key, "pass", lambda written: written.pop("resumed", None))
    assert any("does not say so" in finding.message for finding in verify(run, trusted=trusted).findings)


@pytest.mark.parametrize("name", ["repeated", "skipped"])
def test_a_pass_that_hides_what_it_repeated(tmp_path: Path, key: SigningKey, trusted: TrustStore, name: str) -> None:
    def change(written: Event) -> None:
        if "resumed" in written:
            written["resumed"] = {**written["resumed"], name: 5}

    verification = verify(lying(tmp_path, key, "pass", change, Restarted), trusted=trusted)
    assert "MA203" in by_code(verification)


def test_a_window_of_other_samples(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    def change(written: Event) -> None:
        written["windows"] = {"batches": 16, "multisets": ["A" * 22]}

    verification = verify(lying(tmp_path, key, "pass", change, RunBuilder), trusted=trusted)
    assert {finding.code for finding in verification.findings} == {"MA203"}
    assert verification.findings[0].message == "window 1 of pass 2 names another multiset of ids"


class Retention(RunBuilder):
    """Keeps only its last two anchors."""

    def train(self) -> None:
        kept = [self.anchor("start", 1)]
        for number in (1, 2):
            self.walk(number)
            kept.append(self.anchor("pass" if number == 1 else "end", number))
            if len(kept) > 2:
                self.drop(kept.pop(0))


def test_dropped_anchors_need_not_be_there(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    run = Retention(tmp_path / "run", key=key).build()
    verification = verify(run, trusted=trusted)
    assert (verification.verdict, verification.findings) == ("passed", ())
    assert [anchor.step for anchor in RunView.open(run).anchors] == [3, 6]


def test_an_anchor_that_was_never_stored(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Lost(RunBuilder):
        def train(self) -> None:
            self.anchor("start", 1, store=False)
            self.walk(1)

    verification = verify(Lost(tmp_path / "ended", key=key).build(), trusted=trusted)
    assert [(finding.code, str(finding.level)) for finding in verification.findings] == [("MA304", "error")]
    cut_off = verify(Lost(tmp_path / "cut", key=key).build(finish=False), trusted=trusted)
    assert {(finding.code, str(finding.level)) for finding in cut_off.findings} == {
        ("MA304", "note"),
        ("MA808", "error"),
    }


class Nested(RunBuilder):
    """An evaluation inside the training pass, two loaders side by side, and a batch left over."""

    def train(self) -> None:
        self.anchor("start", 1)
        self.begin_pass()
        self.consume(1)
        self.take_step(1)
        self.begin_pass(loader=2, samples=8)
        for _ in range(2):
            self.consume(2)
        self.end_pass(2)
        self.consume(1)
        self.take_step(1)
        self.begin_pass(loader=3, samples=9)
        self.consume(1)
        self.consume(3)
        self.take_step(1)
        self.consume(3)
        self.end_pass(1)
        self.end_pass(3, complete=False)
        self.walk(4)


@pytest.mark.parametrize("kind", ["shuffled", "batches"])
def test_passes_inside_and_beside_one_another(tmp_path: Path, key: SigningKey, trusted: TrustStore, kind: str) -> None:
    def edit(event: Event) -> None:
        if event["event"] == "pass" and event["pass"] == 1:
            event["policy"]["kind"] = kind  # "batches": of unknown size, so that its ids are found by the digest

    run = Nested(tmp_path / "run", key=key, edit=edit).build()
    verification = verify(run, trusted=trusted)
    assert (verification.verdict, verification.findings) == ("passed", ())
    steps = list(RunView.open(run).steps())
    assert [step.also for step in steps] == [(), ((2, 2),), ((3, 1),), ((3, 2),), (), ()]
    claim = next(claim for claim in verification.claims if "sample ids kept" in claim.what)
    assert claim.message.startswith("6 steps of 6")


def test_another_order_of_an_evaluation_is_found(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Swapped(Nested):
        def end_pass(self, number: int, **more: Any) -> None:
            if number == 2:
                self.open[2].ids.reverse()
            super().end_pass(number, **more)

    verification = verify(Swapped(tmp_path / "run", key=key).build(), trusted=trusted)
    assert "MA201" in by_code(verification)
    assert "order/pass-000001.npy and order/pass-000002.npy" in by_code(verification)["MA201"].message


def test_ids_given_by_hand_are_not_held_against_the_loader(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    def edit(event: Event) -> None:
        if event["event"] == "step" and event["step"] == 2:
            event.update(by_hand=3, ids="A" * 22)

    verification = verify(RunBuilder(tmp_path / "run", key=key, edit=edit).build(), trusted=trusted)
    assert verification.verdict == "passed"
    claim = next(claim for claim in verification.claims if "sample ids kept" in claim.what)
    assert claim.message.startswith("5 steps of 6")
