"""Another augmentation as a cause."""

from pathlib import Path
from typing import Any

from auditor.compare.causes import augmentation
from tests.support.build_pair import Act, Script, told


def passes(noise: str = "", *, workers: int = 0, known: bool = True, **more: Any) -> Act:
    def act(run: Script) -> None:
        run.anchor_now("start")
        for number, ids in enumerate(([0, 1, 2, 3], [3, 1, 0, 2]), 1):
            set_up = None if not workers else {"count": workers, "persistent": False, "init": None}
            policy = {"batch_size": 2 if known else None}
            run.begin(number, length=4, workers=set_up, **policy)
            for at in range(2):
                batch = ids[2 * at : 2 * at + 2]
                run.go({"params": at, **more}, ids=batch, batch=f"{batch}{noise}", main=number, position=at + 1)
            run.finish(number, ids, batches=2, length=4, **policy)

    return act


def test_equal_content_is_no_cause(tmp_path: Path) -> None:
    assert told(augmentation, tmp_path, passes(), passes()) == []


def test_content_that_no_sample_explains(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(augmentation, tmp_path, passes(), passes("!"))
    assert (class_, confidence, source, step) == ("augmentation", "likely", "batch", 1)
    assert evidence == (
        "4 of 4 batches with equal sample ids differ in content, from step 1 on; "
        "no single sample explains it, and every stream agrees until then"
    )


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
