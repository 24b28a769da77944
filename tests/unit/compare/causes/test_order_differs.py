"""Another data order as a cause."""

from pathlib import Path
from typing import Any

from auditor.compare.causes import order
from tests.support.build_pair import Act, Script, steps, told


def passes(*ids: int, size: int = 2, workers: Any = None, stream: int = 0, file: bool = True) -> Act:
    def act(run: Script) -> None:
        run.anchor_now("start")
        run.put("stream.torch", stream)
        run.begin(1, length=len(ids), batch_size=size, workers=workers)
        for at in range(0, len(ids), size):
            run.go({"params": at}, ids=ids[at : at + size], main=1, position=at // size + 1)
        if file:
            run.finish(1, ids, batches=-(-len(ids) // size), length=len(ids), batch_size=size)

    return act


def test_equal_orders_are_no_cause(tmp_path: Path) -> None:
    assert told(order, tmp_path, passes(1, 2, 3), passes(1, 2, 3)) == []


def test_another_order_of_the_same_samples(tmp_path: Path) -> None:
    ((class_, confidence, evidence, source, step),) = told(order, tmp_path, passes(1, 2, 3, 4), passes(1, 2, 4, 3))
    assert (class_, confidence, source, step) == ("order", "certain", "ids", 2)
    assert evidence == (
        "pass 1, place 3: sample 3 in A, sample 4 in B; pass 1 holds the same samples in both, in another order"
    )


def test_samples_that_come_more_often(tmp_path: Path) -> None:
    ((_, _, evidence, *_),) = told(order, tmp_path, passes(1, 2, 3, 4), passes(1, 2, 2, 4))
    assert evidence == (
        "pass 1, place 3: sample 3 in A, sample 2 in B; pass 1: more often in A: 3; pass 1: more often in B: 2"
    )


def test_another_batch_size(tmp_path: Path) -> None:
    ((_, _, evidence, _, step),) = told(order, tmp_path, passes(1, 2, 3, 4), passes(1, 2, 3, 4, size=3))
    assert (evidence, step) == ("loader batch_size: 2 in A, 3 in B", 1)


def test_the_end_of_a_pass(tmp_path: Path) -> None:
    ((_, _, evidence, *_),) = told(order, tmp_path, passes(1, 2, 3, size=3), passes(1, 2, size=3))
    assert "pass 1, place 3: sample 3 in A, the end of the pass in B" in evidence


def test_an_order_that_follows_from_a_stream_is_told_there(tmp_path: Path) -> None:
    assert told(order, tmp_path / "stream", passes(1, 2, 3, 4), passes(1, 2, 4, 3, stream=1)) == []
    found = told(order, tmp_path / "twice", passes(1, 2, 3, 4), passes(1, 2, 3, 3, stream=1))
    assert len(found) == 1, "a sample that comes twice does not follow from a shuffle"
    found = told(order, tmp_path / "size", passes(1, 2, 3, 4), passes(2, 1, 3, 4, size=4, stream=1))
    assert len(found) == 1, "nor do other batches"


def test_without_order_files_the_ids_differ_all_the_same(tmp_path: Path) -> None:
    ((_, confidence, evidence, *_),) = told(order, tmp_path, passes(1, 2, file=False), passes(2, 1, file=False))
    assert (confidence, evidence) == ("certain", "sample ids differ")


def test_a_watched_sampler_that_parts_is_no_difference_of_ids(tmp_path: Path) -> None:
    """A watched sampler is a memory source named like the sample ids, and the two were one."""
    both = {"sources": {"params": "params", "order": "order"}}
    assert all(
        "sample ids differ" not in each[2] for each in told(order, tmp_path, steps(), steps(at=3, order=1), both=both)
    )
