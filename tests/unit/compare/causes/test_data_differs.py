"""Other data as a cause."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from auditor.compare.causes import data
from tests.support.build_pair import Act, Script, told

EPOCHS = ([0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4])


def passes(
    changed: Iterable[int] = (), *, length: int = 6, known: bool = True, noise: bool = False, **more: Any
) -> Act:
    def act(run: Script) -> None:
        for number, ids in enumerate(EPOCHS, 1):
            policy = {"batch_size": 2 if known else None}
            run.begin(number, length=length, **policy)
            for at in range(3):
                batch = ids[2 * at : 2 * at + 2]
                content = f"{batch}{'!' if set(batch) & set(changed) or noise else ''}"
                run.go(**({"ids": batch, "batch": content, "main": number, "position": at + 1} | more))
            run.finish(number, ids, batches=3, first=3 * number - 2, length=length, **policy)

    return act


def test_equal_data_are_no_cause(tmp_path: Path) -> None:
    assert told(data, tmp_path, passes(), passes()) == []


def test_a_label_that_was_changed_is_named(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(data, tmp_path, passes(), passes([3]))
    assert (class_, confidence, source, step) == ("data", "certain", "batch", 2)
    assert evidence == (
        "2 of 6 batches with equal sample ids differ in content; "
        "all that differ hold one of these samples, and no equal batch does: 3"
    )


def test_content_that_no_sample_explains_is_no_other_data(tmp_path: Path) -> None:
    assert told(data, tmp_path, passes(), passes(noise=True)) == []


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
