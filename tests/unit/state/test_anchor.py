"""Anchors written and put back: a program built anew goes on bit for bit."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from auditor.artifact.digest import tensor_digest
from auditor.artifact.resources import validator
from auditor.artifact.safetensors_file import DTYPES, read
from auditor.artifact.strict_json import parse_canonical
from auditor.errors import MemauditError
from auditor.state.anchor import Anchor, Snapshot, copied
from auditor.state.census import Watched
from auditor.state.module import evaluation_modes
from auditor.state.restore import restore_sources, restore_streams
from auditor.state.source import Reading
from auditor.state.streams import Preserved, global_streams
from auditor.state.tensors import torch_digest

PLACE = {"step": 4, "pass": 1, "epoch": 0, "position": 4, "at": "step", "enter": "epochs"}


class Program:
    """A training with weights, statistics, dropout, a frozen layer, momentum, a schedule and a generator of its own."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        layers = (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))
        self.model = nn.Sequential(*layers).to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.noise = torch.Generator().manual_seed(seed)
        self.watched = Watched()
        for name in ("model", "optimizer", "scheduler", "noise"):
            self.watched.add(name, getattr(self, name))

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            inputs = torch.randn(8, 4) + torch.randn(8, 4, generator=self.noise)
            nn.functional.cross_entropy(self.model(inputs), torch.tensor([0, 1] * 4)).backward()
            self.optimizer.step()
            self.scheduler.step()

    def digests(self) -> dict[str, bytes]:
        streams = {f"stream.{stream.name}": stream.digest() for stream in self.watched.streams()}
        return {source.name: source.read().digest() for source in self.watched.sources()} | streams

    def snapshot(self, resume: Any = None) -> Snapshot:
        return Snapshot(
            PLACE,
            {source.name: source.read() for source in self.watched.sources()},
            {stream.name: stream.read() for stream in self.watched.streams()},
            {"model": evaluation_modes(self.model)},
            resume,
        )

    def restore(self, anchor: Anchor) -> list[str]:
        restore_sources(anchor, self.watched)
        return restore_streams(anchor, self.watched.streams())


@pytest.fixture(autouse=True)
def unchanged_outside() -> Iterator[None]:
    with Preserved(global_streams()):
        yield


@pytest.fixture
def taken(tmp_path: Path) -> tuple[Program, Path, dict[str, str]]:
    program = Program(0)
    program.model[2].eval()
    program.train(4)
    directory = tmp_path / "anchors" / "step-000004"
    return program, directory, program.snapshot().write(directory)


@pytest.mark.parametrize("elsewhere", [0, 3], ids=["fresh", "trained elsewhere"])
def test_a_program_built_anew_goes_on_bit_for_bit(taken: tuple[Program, Path, dict[str, str]], elsewhere: int) -> None:
    program, directory, files = taken
    program.train(5)
    expected = program.digests()
    again = Program(1)
    again.train(elsewhere)
    assert again.restore(Anchor.read(directory, files)) == []
    assert not again.model[2].training
    assert again.model[0].training
    again.train(5)
    assert again.digests() == expected


def test_an_anchor_from_before_the_first_step_takes_the_slots_away(tmp_path: Path) -> None:
    program = Program(0)
    files = program.snapshot().write(tmp_path / "a")
    program.train(3)
    expected = program.digests()
    other = Program(1)
    other.train(2)
    other.restore(Anchor.read(tmp_path / "a", files))
    assert not any(name.startswith("optimizer") for name in (s.name for s in other.watched.sources()))
    other.train(3)
    assert other.digests() == expected


def test_the_files_are_what_the_specification_says(taken: tuple[Program, Path, dict[str, str]]) -> None:
    _, directory, files = taken
    for name, sha256 in files.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == sha256
    assert sorted(files) == sorted(path.name for path in directory.iterdir())
    assert [path.name for path in directory.parent.iterdir()] == [directory.name], "nothing temporary is left"
    validator("anchor-values").validate(parse_canonical((directory / "values.json").read_bytes(), "values.json"))


def test_a_snapshot_does_not_follow_the_training(tmp_path: Path) -> None:
    program = Program(0)
    program.train(1)
    expected = program.digests()
    snapshot = program.snapshot()
    program.train(2)
    files = snapshot.write(tmp_path / "a")
    program.restore(Anchor.read(tmp_path / "a", files))
    assert program.digests() == expected


def test_what_else_is_needed_to_go_on_comes_back(tmp_path: Path) -> None:
    resume = {"passes": [{"moments": {"torch": torch.arange(4)}, "position": 3}], "contents": [b"\x00\xff", None]}
    files = Program(0).snapshot(resume=resume).write(tmp_path / "a")
    back = Anchor.read(tmp_path / "a", files).resume
    assert back["passes"][0]["moments"]["torch"].tolist() == [0, 1, 2, 3]
    assert (back["passes"][0]["position"], back["contents"]) == (3, [b"\x00\xff", None])


def test_an_anchor_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "in the way").touch()
    with pytest.raises(OSError, match="not empty"):
        Program(0).snapshot().write(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
def test_a_changed_or_missing_file_is_refused(taken: tuple[Program, Path, dict[str, str]], name: str) -> None:
    _, directory, files = taken
    data = bytearray((directory / name).read_bytes())
    data[-2] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(MemauditError, match="not the one that was recorded") as caught:
        Anchor.read(directory, files)
    assert caught.value.where == str(directory / name)
    (directory / name).unlink()
    with pytest.raises(MemauditError, match="cannot be read"):
        Anchor.read(directory, files)


def test_bytes_that_are_no_tensors_are_refused(taken: tuple[Program, Path, dict[str, str]]) -> None:
    _, directory, files = taken
    (directory / "tensors.safetensors").write_bytes(b"junk")
    junk = {**files, "tensors.safetensors": hashlib.sha256(b"junk").hexdigest()}
    with pytest.raises(MemauditError, match="cannot be read"):
        Anchor.read(directory, junk)


def test_another_program_is_refused(taken: tuple[Program, Path, dict[str, str]]) -> None:
    _, directory, files = taken
    anchor = Anchor.read(directory, files)
    more = Program(1)
    more.watched.add("queue", torch.zeros(1))
    with pytest.raises(MemauditError, match="watches queue, which the anchor lacks"):
        more.restore(anchor)
    fewer = Program(1)
    del fewer.watched.objects["scheduler"]
    with pytest.raises(MemauditError, match="the anchor holds scheduler"):
        fewer.restore(anchor)
    wider = Program(1)
    wider.model[3] = nn.Linear(6, 3)
    with pytest.raises(MemauditError, match="another shape"):
        wider.restore(anchor)


@pytest.mark.parametrize("dtype", [name for name, _ in DTYPES.values()])
def test_what_torch_writes_the_strict_reader_reads(tmp_path: Path, dtype: str) -> None:
    tensor = torch.tensor([0, 1] * 8, dtype=torch.uint8).view(getattr(torch, dtype))
    Snapshot(PLACE, {"queue": Reading({"value": tensor})}, {}, {}, None).write(tmp_path / "a")
    stored = read((tmp_path / "a" / "tensors.safetensors").read_bytes(), "x")["queue/value"]
    assert tensor_digest("value", stored.dtype, stored.shape, stored.data) == torch_digest("value", tensor)


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}.tmp").mkdir()
    Snapshot(PLACE, {"queue": Reading({"value": torch.ones(2)})}, {}, {}, None).write(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_streams_that_are_not_there_are_named(taken: tuple[Program, Path, dict[str, str]]) -> None:
    _, directory, files = taken
    assert restore_streams(Anchor.read(directory, files), global_streams()) == ["noise"]


def test_copies_share_no_storage_and_are_contiguous() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    held = copied(Reading({"t": tensor.T, "same": tensor, "expanded": tensor[:1].expand(4, 3)}))
    assert len({t.untyped_storage().data_ptr() for t in (tensor, *held.tensors.values())}) == 4
    assert all(t.is_contiguous() for t in held.tensors.values())
    digest = held.digest()
    tensor.zero_()
    assert held.digest() == digest


@pytest.mark.parametrize("dtype", [torch.complex128, torch.bits8])
def test_a_dtype_that_no_anchor_holds_is_refused_by_its_path(dtype: torch.dtype) -> None:
    from auditor.state.anchor import check_storable

    with pytest.raises(MemauditError, match="cannot be written to an anchor") as caught:
        check_storable(Reading({"a.b": torch.empty(2, dtype=dtype)}))
    assert caught.value.where == "a.b"
    check_storable(Reading({"a.b": torch.zeros(2, dtype=torch.complex64)}))
