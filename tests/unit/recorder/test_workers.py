"""Workers' streams travel with each batch, and workers started later begin with them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from auditor.recorder.order import Walk
from auditor.recorder.workers import Begin, Carried, Carry, WorkerStream, WorkerTable
from auditor.state.streams import Preserved, global_streams


class Noisy(Dataset):
    """Each sample draws from all three streams; the data set counts what it served."""

    def __init__(self) -> None:
        self.served = 0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        self.served += 1
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        torch.manual_seed(0)
        yield


def test_batches_are_what_they_were_and_the_table_knows_each_worker() -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=2)
    plain = list(loader)
    torch.manual_seed(0)
    walk = Walk(loader, table := WorkerTable())
    walked = [walk.draw()[0] for _ in range(12)]
    assert all(torch.equal(one, two) for one, two in zip(plain, walked, strict=True))
    assert sorted(table.states) == [0, 1]
    assert table.changed == {"served"}
    walk.close()


def test_a_table_tells_the_state_after_the_last_consumed_batch_not_the_last_fetched() -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=2, prefetch_factor=4)
    walk = Walk(loader, table := WorkerTable())
    digests = []
    for _ in range(4):
        walk.draw()
        digests.append([WorkerStream("w", table, worker).digest() for worker in (0, 1)])
    walk.close()
    # Batches come from the workers in turn: each consumed batch moves one of them.
    assert [one != two for one, two in zip(digests[1], digests[2], strict=True)] == [True, False]
    assert [one != two for one, two in zip(digests[2], digests[3], strict=True)] == [False, True]


@pytest.mark.parametrize("consumed", [1, 2, 5, 8])
def test_a_walk_taken_up_in_the_middle_gives_the_same_rest(consumed: int) -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=2, shuffle=True)
    torch.manual_seed(3)
    walk = Walk(loader, table := WorkerTable())
    for _ in range(consumed):
        walk.draw()
    states = dict(table.states)
    rest = [walk.draw() for _ in range(12 - consumed)]
    walk.close()
    torch.manual_seed(3)
    table = WorkerTable()
    table.states = states
    again = Walk(loader, table, skip=consumed)
    redone = [again.draw() for _ in range(12 - consumed)]
    again.close()
    assert [ids for _, ids in rest] == [ids for _, ids in redone]
    assert all(torch.equal(one, two) for (one, _), (two, _) in zip(rest, redone, strict=True))


def test_persistent_workers_left_in_the_middle_are_known_as_they_are() -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=2, persistent_workers=True, shuffle=True)
    table = WorkerTable()
    walk = Walk(loader, table)
    walk.draw()
    walk.close()
    second = Walk(loader, table)
    states = dict(table.states)
    first = second.draw()[0]
    second.close()
    loader._iterator = None
    fresh = WorkerTable()
    fresh.states = states
    ids = iter(int(value) for value in first[:, 0])
    alone = DataLoader(Noisy(), batch_size=2, num_workers=2, sampler=list(ids))
    third = Walk(alone, fresh)
    assert torch.equal(third.draw()[0], first)
    third.close()


def test_the_program_sees_plain_batches_where_it_walks_the_loader_by_hand() -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=1, persistent_workers=True)
    walk = Walk(loader, WorkerTable())
    walk.draw()
    walk.close()
    assert all(isinstance(batch, torch.Tensor) for batch in loader)
    assert "_get_iterator" not in loader.__dict__
    assert loader.worker_init_fn is None
    assert not isinstance(loader.collate_fn, Carry)
    loader._iterator = None


def test_the_programs_own_init_function_runs_first(tmp_path: object) -> None:
    called: list[int] = []
    begin = Begin(lambda worker: (called.append(worker), random.seed(5))[0], {})
    begin(3)
    assert called == [3]
    assert random.random() == random.Random(5).random()


def test_outside_a_worker_nothing_is_wrapped() -> None:
    assert Carry(list)((1, 2)) == [1, 2]


def test_a_carried_batch_is_noted_once_it_is_consumed() -> None:
    table = WorkerTable()
    assert table.note(Carried("batch", 1, {"arrays": {}, "values": {}}, ("cursor",))) == "batch"
    assert (list(table.states), table.changed) == ([1], {"cursor"})
    table.note(Carried("next", 1, None, ()))
    assert list(table.states) == [1]
