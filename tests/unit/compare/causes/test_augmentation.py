"""Another augmentation as a cause."""

from pathlib import Path
from typing import Any

from auditor.compare.causes import augmentation
from tests.support.build_pair import Act, Script, told


def passes(noise: str = "", *, since: int = 1, workers: int = 0, known: bool = True, **more: Any) -> Act:
    """Two passes; the content of those from ``since`` on has ``noise`` in it."""

    def act(run: Script) -> None:
        run.anchor_now("start")
        for number, ids in enumerate(([0, 1, 2, 3], [3, 1, 0, 2]), 1):
            set_up = None if not workers else {"count": workers, "persistent": False, "init": None}
            policy = {"batch_size": 2 if known else None}
            run.begin(number, length=4, workers=set_up, **policy)
            for at in range(2):
                batch = ids[2 * at : 2 * at + 2]
                run.go(
                    {"params": at, **more},
                    ids=batch,
                    batch=f"{batch}{noise if number >= since else ''}",
                    main=number,
                    position=at + 1,
                )
            run.finish(number, ids, batches=2, length=4, **policy)

    return act


def test_equal_content_is_no_cause(tmp_path: Path) -> None:
    assert told(augmentation, tmp_path, passes(), passes()) == []


def test_content_that_no_sample_explains(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(augmentation, tmp_path, passes(), passes("!", since=2))
    assert (class_, confidence, source, step) == ("augmentation", "likely", "batch", 3)
    assert evidence == (
        "2 of 4 batches with equal sample ids differ in content, from step 3 on; "
        "every stream agrees until then; no samples tell the batches that differ from the others"
    )


def test_where_all_batches_differ_it_may_be_the_samples_as_well(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(augmentation, tmp_path, passes(), passes("!"))
    assert (class_, confidence, source, step) == ("augmentation", "possible", "batch", 1)
    assert evidence == (
        "4 of 4 batches with equal sample ids differ in content, from step 1 on; every stream agrees until then"
    )


def test_where_samples_tell_the_batches_apart_it_is_only_possible(tmp_path: Path) -> None:
    def act(noise: str) -> Act:
        def go(run: Script) -> None:
            run.begin(1, length=4, batch_size=2)
            run.go(ids=[0, 1], batch=f"01{noise}", main=1, position=1)
            run.go(ids=[2, 3], batch="23", main=1, position=2)
            run.finish(1, [0, 1, 2, 3], batches=2, length=4, batch_size=2)

        return go

    ((_, confidence, evidence, *_),) = told(augmentation, tmp_path, act(""), act("!"))
    assert confidence == "possible"
    assert "no samples tell" not in evidence


def test_workers_of_another_loader_are_no_cause(tmp_path: Path) -> None:
    """Any loader's workers were made the cause, that of a validation set too."""

    def act(noise: str, workers: int) -> Act:
        def go(run: Script) -> None:
            run.begin(1, length=2, batch_size=2)
            run.begin(2, loader=2, length=4, workers={"count": workers, "persistent": False, "init": None})
            run.go(ids=[0, 1], batch=f"01{noise}", main=1, position=1)
            run.finish(1, [0, 1], batches=1, length=2, batch_size=2)

        return go

    found = told(augmentation, tmp_path, act("", 1), act("!", 2))
    assert [each[1] for each in found] == ["possible"]


def test_nothing_is_ruled_out_where_samples_cannot_be_told(tmp_path: Path) -> None:
    """That no single sample explains it was told of samples that nobody had looked at."""
    for name, both, known in (("size", {}, False), ("hash", {"order": "hash"}, True)):
        ((_, confidence, evidence, *_),) = told(
            augmentation, tmp_path / name, passes(known=known), passes("!", known=known), both=both
        )
        assert confidence == "possible"
        assert evidence == "batches differ in content, and which samples they hold is not known"


def test_content_that_only_one_run_recorded_is_no_cause(tmp_path: Path) -> None:
    def unknown(run: Script) -> None:
        run.go(ids=[0, 1])

    def known(run: Script) -> None:
        run.go(ids=[0, 1], batch="x")

    for name, pair in (("a", (unknown, known)), ("b", (known, unknown))):
        assert told(augmentation, tmp_path / name, *pair) == []


def test_content_that_follows_from_a_stream_is_told_there(tmp_path: Path) -> None:
    assert told(augmentation, tmp_path, passes(), passes("!", **{"stream.torch": 5})) == []


def test_other_workers_draw_from_other_streams(tmp_path: Path) -> None:
    ((_, confidence, evidence, source, step),) = told(
        augmentation, tmp_path / "batch", passes(), passes("!", workers=2)
    )
    assert (confidence, source, step) == ("certain", "batch", 1)
    assert evidence.startswith("loader workers count: 0 in A, 2 in B; ")
    found = told(augmentation, tmp_path / "stream", passes(), passes("!", workers=2, **{"stream.torch": 5}))
    assert [each[3] for each in found] == ["stream.torch"]
    assert told(augmentation, tmp_path / "equal", passes(), passes(workers=2)) == []


def test_a_watched_policy_that_parts_is_named(tmp_path: Path) -> None:
    kinds = {"params": "params", "augment.crop": "augment"}
    found = told(augmentation, tmp_path, passes(), passes("!", **{"augment.crop": 3}), both={"sources": kinds})
    assert found[0] == ("augmentation", "certain", "augment.crop differs", "augment.crop", 1)
