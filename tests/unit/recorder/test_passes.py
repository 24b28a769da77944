"""Passes, loaders and what was consumed, as a step event and an anchor hold them."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from auditor.artifact.digest import array_digest, digest_text
from auditor.recorder.passes import Consumed, Loaders, Pass
from auditor.state.source import Reading
from auditor.state.values import decode, encode


def loader(size: int = 8, batch: int = 2, **options: object) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(size)), batch_size=batch, **options)


def round_trip(values: object) -> object:
    """Through an anchor's encoding and back."""
    tensors: dict[str, torch.Tensor] = {}
    return decode(encode(values, tensors), tensors)


def digest_of(*ids: int) -> str:
    return digest_text(array_digest("ids", np.asarray(ids, dtype=np.int64)))


def test_ids_are_digested_pass_by_pass_and_those_by_hand_last() -> None:
    one, two = Pass(1, 0, 1, 1, position=3), Pass(2, 0, 2, 1, position=1)
    consumed = Consumed()
    consumed.add(None, [99], None)
    consumed.add(two, [7, 8], b"b" * 16)
    consumed.add(one, [1, 2], b"a" * 16)
    members = consumed.members(1)
    assert members == {"ids": digest_of(1, 2, 7, 8, 99), "batch": None, "by_hand": 1, "also": [[2, 1]]}


def test_one_batch_of_unknown_ids_makes_them_unknown() -> None:
    consumed = Consumed()
    consumed.add(Pass(1, 0, 1, 1, position=1), [1], b"a" * 16)
    consumed.add(None, None, b"b" * 16)
    members = consumed.members(1)
    assert members["ids"] is None
    assert members["batch"] == digest_text(array_digest("batches", np.frombuffer(b"a" * 16 + b"b" * 16, np.uint8)))


def test_what_was_consumed_comes_back_from_an_anchor() -> None:
    consumed = Consumed()
    consumed.add(Pass(3, 0, 1, 1, position=5), [4, 2], b"x" * 16)
    consumed.add(None, [1], None)
    assert Consumed.from_values(round_trip(consumed.values())) == consumed


def test_a_pass_comes_back_from_an_anchor() -> None:
    old = Pass(2, 1, 1, 9, {"before_iter": {"torch": Reading({"state": torch.arange(3)}, {"a": 1})}}, position=4)
    old.workers = {1: {"arrays": {"torch.state": np.arange(2)}, "values": {"torch": None}}}
    back = Pass.from_values(round_trip(old.values()))
    assert (back.number, back.epoch, back.loader, back.first, back.position) == (2, 1, 1, 9, 4)
    reading = back.moments["before_iter"]["torch"]
    assert (reading.tensors["state"].tolist(), reading.values) == ([0, 1, 2], {"a": 1})
    assert back.workers[1]["arrays"]["torch.state"].tolist() == [0, 1]


def test_loaders_are_numbered_by_their_first_walk_and_forgotten_with_the_program() -> None:
    loaders, one, two = Loaders(), loader(), loader()
    assert [loaders.number_of(one), loaders.number_of(two), loaders.number_of(one)] == [1, 2, 1]
    assert loaders.number_of([1, 2, 3]) is None
    del one
    assert list(loaders.alive()) == [2]
    assert loaders.number_of(loader(size=4)) == 3


def test_a_loader_built_anew_for_each_pass_keeps_its_number_and_not_its_workers() -> None:
    loaders = Loaders()
    for _ in range(3):
        number = loaders.number_of(again := loader(num_workers=1, persistent_workers=True))
        assert number == 1
        assert loaders.tables[1].states == {}
        loaders.tables[1].states[0] = {"arrays": {}, "values": {}}
        del again


def test_a_fresh_process_knows_the_loaders_of_an_anchor_by_what_they_are() -> None:
    before, train, held_out = Loaders(), loader(), loader(size=4, batch=4)
    assert [before.number_of(train), before.number_of(held_out)] == [1, 2]
    after = Loaders()
    after.take(round_trip(before.values()), {})
    # The other way round: the fresh process meets the second one first.
    assert after.number_of(copy.copy(held_out)) == 2
    assert after.number_of(copy.copy(train)) == 1
    assert after.number_of(loader(size=6)) == 3


def test_worker_streams_of_loaders_that_were_not_met_yet_stand_as_in_the_anchor() -> None:
    before, train = Loaders(), loader(num_workers=2, persistent_workers=True)
    number = before.number_of(train)
    state = {"arrays": {"torch.state": np.arange(5, dtype=np.uint8)}, "values": {"torch": None}}
    before.tables[number].states[1] = state
    streams = {stream.name: stream.read() for stream in before.worker_streams()}
    assert list(streams) == ["loader.worker0", "loader.worker1"]
    after = Loaders()
    after.take(before.values(), streams)
    assert [stream.digest() for stream in after.worker_streams()] == [
        stream.digest() for stream in before.worker_streams()
    ]
