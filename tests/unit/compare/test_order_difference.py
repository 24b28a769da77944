"""Which samples came where, and which of them hold something else."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.compare.order_difference import Orders, SampleContent
from tests.support.build_pair import Act, Script, walked, write_pair


def batches_of(ids: list[int], size: int) -> list[list[int]]:
    return [ids[at : at + size] for at in range(0, len(ids), size)]


def passes(
    *orders: list[int],
    size: int = 2,
    changed: Iterable[int] = (),
    accumulate: int = 1,
    known: bool = True,
    **policy: Any,
) -> Act:
    """A run of a pass for each order; the content of samples in ``changed`` is another than otherwise."""

    def act(run: Script) -> None:
        for number, ids in enumerate(orders, 1):
            policy_ = {"batch_size": size if known else None, **policy}
            first = run.step + 1
            run.begin(number, length=len(ids), **policy_)
            batches = batches_of(ids, size)
            for at in range(0, len(batches), accumulate):
                taken = [each for batch in batches[at : at + accumulate] for each in batch]
                content = ",".join(f"{each}{'!' if each in changed else ''}" for each in taken)
                run.go(ids=taken, batch=content, main=number, position=min(at + accumulate, len(batches)))
            run.finish(number, ids, batches=len(batches), first=first, length=len(ids), **policy_)

    return act


def orders(folder: Path, a: Act, b: Act, **more: Any) -> Orders:
    return Orders(walked(*write_pair(folder, a, b, **more)))


def test_equal_orders_do_not_differ(tmp_path: Path) -> None:
    found = orders(tmp_path, passes([1, 2, 3]), passes([1, 2, 3]))
    assert found.first_difference() is None
    assert found.content() is None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([[1, 2, 3, 4]], [[1, 2, 4, 3]], (1, 2, (3, 4), True, ((), ()))),
        ([[1, 2], [1, 2]], [[1, 2], [2, 1]], (2, 0, (1, 2), True, ((), ()))),
        ([[1, 2, 3]], [[1, 2]], (1, 2, (3, None), False, ((3,), ()))),
        ([[1, 2]], [[1, 2, 2]], (1, 2, (None, 2), False, ((), (2,)))),
        ([[1, 1, 2]], [[1, 3, 3]], (1, 1, (1, 3), False, ((1, 2), (3,)))),
        ([[]], [[5]], (1, 0, (None, 5), False, ((), (5,)))),
        ([[0xFFFFFFFF, 1]], [[0xFFFFFFFF, 2]], (1, 1, (1, 2), False, ((1,), (2,)))),
    ],
)
def test_the_first_sample_that_differs(tmp_path: Path, a: Any, b: Any, expected: tuple[Any, ...]) -> None:
    found = orders(tmp_path, passes(*a), passes(*b)).first_difference()
    assert found is not None
    assert (found.pass_, found.position, found.ids, found.same_multiset, found.twice) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=8), st.lists(st.integers(0, 6), max_size=8))
def test_the_first_difference_is_the_first(
    tmp_path_factory: pytest.TempPathFactory, a: list[int], b: list[int]
) -> None:
    found = orders(tmp_path_factory.mktemp("pair"), passes(a), passes(b)).first_difference()
    if a == b:
        assert found is None
        return
    assert found is not None
    at = found.position
    assert a[:at] == b[:at]
    assert found.ids == (a[at] if at < len(a) else None, b[at] if at < len(b) else None)
    assert found.ids[0] != found.ids[1]
    assert found.same_multiset == (sorted(a) == sorted(b))
    assert found.twice[0] == tuple(sorted(k for k in set(a) if a.count(k) > b.count(k)))
    assert found.twice[1] == tuple(sorted(k for k in set(b) if b.count(k) > a.count(k)))


def test_no_more_than_ten_samples_are_named(tmp_path: Path) -> None:
    found = orders(tmp_path, passes(list(range(30))), passes([*range(30, 60)])).first_difference()
    assert found is not None
    assert found.twice == (tuple(range(10)), tuple(range(30, 40)))


def test_without_ids_nothing_is_told(tmp_path: Path) -> None:
    assert orders(tmp_path / "hash", passes([1, 2]), passes([2, 1]), order="hash").first_difference() is None
    a, b = write_pair(tmp_path / "damaged", passes([1, 2]), passes([2, 1]))
    (b / "order" / "pass-000001.npy").write_bytes(b"")
    walk = walked(a, b)
    assert Orders(walk).first_difference() is None
    assert list(walk.b.damage) == ["order/pass-000001.npy"]


def test_passes_that_only_one_run_has_are_passed_over(tmp_path: Path) -> None:
    assert orders(tmp_path, passes([1, 2]), passes([1, 2], [3, 4])).first_difference() is None


def test_passes_of_different_loaders_are_not_compared(tmp_path: Path) -> None:
    """The validation's samples were told to be another order of the training's."""

    def act(loader: int, ids: list[int]) -> Act:
        def go(run: Script) -> None:
            run.begin(1, loader=loader, length=2, batch_size=2)
            run.go(ids=ids, main=1, position=1)
            run.finish(1, ids, batches=1, loader=loader, length=2, batch_size=2)

        return go

    assert orders(tmp_path / "other", act(1, [1, 2]), act(2, [2, 1])).first_difference() is None
    assert orders(tmp_path / "same", act(2, [1, 2]), act(2, [2, 1])).first_difference() is not None


# Content.


EPOCHS = ([0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4], [5, 4, 1, 2, 0, 3])


def content(folder: Path, changed: Iterable[int], *given: list[int], **more: Any) -> SampleContent | None:
    epochs = given or EPOCHS
    return orders(folder, passes(*epochs, **more), passes(*epochs, changed=changed, **more)).content()


def test_one_sample_explains_every_batch_that_differs(tmp_path: Path) -> None:
    # Of 6 samples a third lies in the differing batch of each of 3 passes.
    assert content(tmp_path, [4]) == SampleContent(3, 6, (4,), pytest.approx(6 / 27))


def test_two_samples_that_no_equal_batch_holds(tmp_path: Path) -> None:
    assert content(tmp_path, [4, 1]) == SampleContent(6, 3, (1, 4), pytest.approx(6 * 8 / 27))


def test_the_sample_that_all_differing_batches_hold_is_told_without_those_that_only_some_hold(tmp_path: Path) -> None:
    """Those that lay beside it in its batches, and by chance in no equal one, were named as well."""
    epochs = ([0, 1, 2, 3], [1, 0, 3, 2])
    assert content(tmp_path / "two", [1], *epochs) == SampleContent(2, 2, (0, 1), pytest.approx(1.0))
    assert content(tmp_path / "one", [1], *epochs, [2, 0, 1, 3]) == SampleContent(3, 3, (1,), pytest.approx(0.5))


def test_samples_are_counted_by_the_passes_in_which_batches_differ(tmp_path: Path) -> None:
    """A pass in which nothing differs is no part of the chance."""

    def act(word: str) -> Act:
        def go(run: Script) -> None:
            for number, batches in enumerate(([[0, 1], [2, 3]], [[3, 2], [4, 5]]), 1):
                run.begin(number, length=4, batch_size=2)
                for at, batch in enumerate(batches, 1):
                    run.go(ids=batch, batch=f"{batch}{word if 0 in batch else ''}", main=number, position=at)
                run.finish(number, [each for batch in batches for each in batch], batches=2, batch_size=2, length=4)

        return go

    assert orders(tmp_path, act(""), act("!")).content() == SampleContent(1, 3, (0, 1), pytest.approx(2.0))


def test_more_than_ten_samples_are_all_told(tmp_path: Path) -> None:
    """They were cut at ten, so that a rule that counts them saw ten."""
    found = content(tmp_path, range(12), list(range(24)), size=12)
    assert found == SampleContent(1, 1, tuple(range(12)), pytest.approx(12.0))


def test_samples_that_equal_batches_hold_too_explain_nothing(tmp_path: Path) -> None:
    """Augmentation: what a batch holds is not a function of its samples."""

    def stronger(changed: bool) -> Act:
        def act(run: Script) -> None:
            for number, ids in enumerate(EPOCHS, 1):
                run.begin(number, length=6, batch_size=2)
                for at, batch in enumerate(batches_of(ids, 2), 1):
                    word = f"{batch}{'!' if changed and number == 2 else ''}"
                    run.go(ids=batch, batch=word, main=number, position=at)
                run.finish(number, ids, batches=3, batch_size=2, length=6)

        return act

    assert orders(tmp_path, stronger(False), stronger(True)).content() == SampleContent(3, 6, (), math.inf)


def test_where_no_batch_is_equal_no_sample_is_named(tmp_path: Path) -> None:
    assert content(tmp_path, range(6)) == SampleContent(9, 0, (), pytest.approx(6.0))


def test_several_batches_a_step_are_cut_as_they_were_consumed(tmp_path: Path) -> None:
    epochs = ([0, 1, 2, 3, 4, 5, 6, 7], [3, 1, 5, 0, 2, 4, 7, 6], [6, 0, 4, 1, 2, 5, 3, 7])
    assert content(tmp_path, [7], *epochs, accumulate=2) == SampleContent(3, 3, (7,), pytest.approx(1.0))


def test_a_short_last_batch_and_one_dropped(tmp_path: Path) -> None:
    epochs = ([0, 1, 2, 3, 4], [4, 1, 3, 0, 2], [2, 4, 0, 1, 3])
    assert content(tmp_path / "short", [2], *epochs) == SampleContent(3, 6, (2,), pytest.approx(5 * (2 * 1 * 2) / 125))
    dropped = ([0, 1, 2, 3], [4, 1, 3, 0], [2, 4, 0, 1])
    assert content(tmp_path / "dropped", [2], *dropped, drop_last=True) == SampleContent(
        2, 4, (2,), pytest.approx(4 * (2 * 2) / 16)
    )


def test_where_the_batch_size_is_unknown_no_sample_is_named_or_ruled_out(tmp_path: Path) -> None:
    """It was told that no single sample explains the difference, which nobody had looked at."""
    assert content(tmp_path, [4], known=False) is None


def test_where_ids_were_not_kept_no_sample_is_named_or_ruled_out(tmp_path: Path) -> None:
    epochs = EPOCHS
    found = orders(tmp_path, passes(*epochs), passes(*epochs, changed=[4]), both={"order": "hash"})
    assert found.content() is None


def test_a_step_that_takes_batches_of_two_loaders_is_not_told_by_one_of_them(tmp_path: Path) -> None:
    """The samples of the other loader were left out, and one of this one was named for certain."""

    def act(changed: bool) -> Act:
        def go(run: Script) -> None:
            run.begin(1, length=4, batch_size=2)
            run.begin(2, loader=2, length=4, batch_size=2)
            for at, (one, two) in enumerate([([0, 1], [10, 11]), ([2, 3], [12, 13])], 1):
                word = f"{one}{two}{'!' if changed and 12 in two else ''}"
                run.go(ids=[*one, *two], batch=word, main=1, position=at, also=[[2, at]])
            run.finish(1, [0, 1, 2, 3], batches=2, batch_size=2, length=4)
            run.finish(2, [10, 11, 12, 13], batches=2, loader=2, batch_size=2, length=4)

        return go

    found = orders(tmp_path, act(False), act(True)).content()
    assert found is None or not set(found.samples) & {2, 3}


def test_a_pass_that_others_interrupt_is_cut_where_it_went_on(tmp_path: Path) -> None:
    """A step of another pass stood between, and the ids of a batch were taken from the pass's first on."""

    def act(changed: bool) -> Act:
        def go(run: Script) -> None:
            run.begin(1, length=6, batch_size=2)
            run.begin(2, loader=2, length=2, batch_size=2)
            run.go(ids=[0, 1], batch="01!" if changed else "01", main=1, position=1)
            run.go(ids=[7, 8], batch="78", main=2, position=1)
            run.go(ids=[2, 3], batch="23", main=1, position=2)
            run.go(ids=[4, 5], batch="45", main=1, position=3)
            run.finish(2, [7, 8], batches=1, loader=2, batch_size=2, length=2)
            run.finish(1, [0, 1, 2, 3, 4, 5], batches=3, batch_size=2, length=6)

        return go

    found = orders(tmp_path, act(False), act(True)).content()
    assert found == SampleContent(1, 3, (0, 1), pytest.approx(2.0))


def test_ids_are_read_once(tmp_path: Path) -> None:
    found = orders(tmp_path, passes([1, 2]), passes([2, 1]))
    assert found._ids(0, 1) is found._ids(0, 1)
    assert np.array_equal(found._ids(0, 1), [1, 2])
    assert found._ids(0, 9) is None
