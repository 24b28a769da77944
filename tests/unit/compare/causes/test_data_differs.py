"""Other data as a cause."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from auditor.compare.causes import data
from tests.support.build_pair import Act, Script, told

EPOCHS = ([0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4])


def shuffles(passes: int) -> tuple[list[int], ...]:
    draw = random.Random(0)
    return tuple(draw.sample(range(6), 6) for _ in range(passes))


def passes(
    changed: Iterable[int] = (),
    *,
    epochs: Iterable[list[int]] = EPOCHS,
    length: int = 6,
    known: bool = True,
    noise: Iterable[int] = (),
    **more: Any,
) -> Act:
    """Passes of three batches; the samples in ``changed`` and the passes in ``noise`` hold something else."""

    def act(run: Script) -> None:
        for number, ids in enumerate(epochs, 1):
            policy = {"batch_size": 2 if known else None}
            run.begin(number, length=length, **policy)
            for at in range(3):
                batch = ids[2 * at : 2 * at + 2]
                content = f"{batch}{'!' if set(batch) & set(changed) or number in noise else ''}"
                run.go(**({"ids": batch, "batch": content, "main": number, "position": at + 1} | more))
            run.finish(number, ids, batches=3, first=3 * number - 2, length=length, **policy)

    return act


def test_equal_data_are_no_cause(tmp_path: Path) -> None:
    assert told(data, tmp_path, passes(), passes()) == []


def test_a_label_that_was_changed_is_named(tmp_path: Path) -> None:
    epochs = shuffles(9)
    ((class_, confidence, evidence, source, _),) = told(
        data, tmp_path, passes(epochs=epochs), passes([3], epochs=epochs)
    )
    assert (class_, confidence, source) == ("data", "certain", "batch")
    assert evidence == (
        "9 of 27 batches with equal sample ids differ in content; "
        "all that differ hold one of these samples, and no equal batch does: 3; "
        "by chance 0.0003 samples would look like that"
    )


@pytest.mark.parametrize(
    ("number", "by_chance", "expected"),
    # 6 samples, a third of which lie in the differing batch of each pass: 6 / 3^number.
    [(2, "0.67", "possible"), (3, "0.22", "likely"), (7, "0.0027", "likely"), (8, "0.00091", "certain")],
)
def test_the_more_passes_the_surer_it_is_the_sample(tmp_path: Path, number: int, by_chance: str, expected: str) -> None:
    """Any sample that only differing batches held was certain, after one pass too."""
    epochs = shuffles(number)
    ((_, confidence, evidence, *_),) = told(data, tmp_path, passes(epochs=epochs), passes([3], epochs=epochs))
    assert (confidence, evidence.rpartition("; ")[2]) == (
        expected,
        f"by chance {by_chance} samples would look like that",
    )


def test_of_one_pass_every_sample_of_a_differing_batch_looks_alike(tmp_path: Path) -> None:
    ids = list(range(24))

    def act(word: str) -> Act:
        def go(run: Script) -> None:
            run.begin(1, length=24, batch_size=12)
            run.go(ids=ids[:12], batch=word, main=1, position=1)
            run.go(ids=ids[12:], batch="equal", main=1, position=2)
            run.finish(1, ids, batches=2, length=24, batch_size=12)

        return go

    ((_, confidence, evidence, *_),) = told(data, tmp_path, act("x"), act("y"))
    assert confidence == "possible"
    assert "no equal batch does: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more; by chance 12 samples" in evidence


def test_content_that_no_sample_explains_is_no_other_data(tmp_path: Path) -> None:
    assert told(data, tmp_path, passes(), passes(noise=[2])) == []


def test_where_all_batches_differ_other_data_are_possible(tmp_path: Path) -> None:
    """Other data in every sample were held to be an augmentation for sure."""
    assert told(data, tmp_path, passes(), passes(noise=[1, 2])) == [
        (
            "data",
            "possible",
            "all 6 batches with equal sample ids differ in content: samples or what is made of them",
            "batch",
            1,
        )
    ]


def test_another_length_is_a_cause_where_order_or_batches_part(tmp_path: Path) -> None:
    ((_, confidence, evidence, source, step),) = told(
        data, tmp_path / "both", passes(), passes(length=7, ids=[9], batch="x")
    )
    assert (confidence, evidence, source, step) == ("certain", "loader length: 6 in A, 7 in B", "ids", 1)
    assert told(data, tmp_path / "neither", passes(), passes(length=7)) == []


def test_where_samples_cannot_be_told_other_data_are_possible(tmp_path: Path) -> None:
    for name, both, more in (
        ("size", {}, {"known": False}),
        ("hash", {"order": "hash"}, {}),
        ("none", {}, {"ids": None}),
    ):
        ((class_, confidence, evidence, *_),) = told(
            data, tmp_path / name, passes(**more), passes([3], **more), both=both
        )
        assert (class_, confidence) == ("data", "possible")
        assert evidence == "batches differ in content, and which samples they hold is not known"


def test_content_that_only_one_run_recorded_is_no_other_data(tmp_path: Path) -> None:
    """Whether it was A or B that recorded none decided whether there was a cause."""
    for name, a, b in (("a", None, "x"), ("b", "x", None)):
        assert told(data, tmp_path / name, passes(batch=a, ids=None), passes(batch=b, ids=None)) == []


def test_other_samples_are_told_by_the_order_and_not_here(tmp_path: Path) -> None:
    assert told(data, tmp_path, passes(ids=[1]), passes(ids=[2], batch="x")) == []


def test_content_that_parts_after_training_did_is_no_cause(tmp_path: Path) -> None:
    def after(run: Script) -> None:
        run.go({"params": 1.5}, ids=[1], batch="b")
        run.go({"params": 2.5}, ids=[2], batch="other")

    def before(run: Script) -> None:
        run.go({"params": 1}, ids=[1], batch="b")
        run.go({"params": 2}, ids=[2], batch="b")

    assert told(data, tmp_path, before, after) == []
