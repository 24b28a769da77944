"""Anchors: every memory source and stream at one moment, written without pickle and read back exactly."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from auditor.artifact.canonical import write_canonical
from auditor.artifact.safetensors_file import STORABLE
from auditor.artifact.strict_json import parse_canonical
from auditor.errors import MemauditError
from auditor.state.source import Reading
from auditor.state.tensors import dtype_name, logical
from auditor.state.values import decode, encode

FORMAT = "anchor-1"
TENSORS_FILE = "tensors.safetensors"
VALUES_FILE = "values.json"
RESUME = "resume"
"""What stands before the paths of tensors that belong to no source or stream."""


def check_storable(reading: Reading) -> None:
    """Refuse what an anchor could not hold.

    Raises
    ------
    MemauditError
        If a tensor has a dtype that safetensors has no name for; it names the path.
    """
    for path, tensor in reading.tensors.items():
        if dtype_name(tensor.dtype) not in STORABLE:
            raise MemauditError(
                f"a tensor of dtype {dtype_name(tensor.dtype)} cannot be written to an anchor",
                where=path,
                why="safetensors has no such dtype",
                next_step="keep it as a dtype it has (complex128 as torch.view_as_real), or watch its parts",
            )


class Snapshot:
    """Copies of the state at one moment, safe while training goes on.

    ``sources`` and ``streams`` map names to readings whose tensors are contiguous CPU copies; ``place`` says where in
    the program the moment is (step, pass, epoch, position, at, enter); ``modes`` and ``resume`` (nested values with
    tensors in them: what else a fresh process needs to go on from here) go into values.json.
    """

    def __init__(
        self,
        place: dict[str, Any],
        sources: Mapping[str, Reading],
        streams: Mapping[str, Reading],
        modes: dict[str, list[str]],
        resume: Any,
    ) -> None:
        self.place = place
        self.sources = {name: copied(reading) for name, reading in sources.items()}
        self.streams = {name: copied(reading) for name, reading in streams.items()}
        self.modes = modes
        tensors: dict[str, torch.Tensor] = {}
        values = encode(resume, tensors)
        self.resume = copied(Reading(tensors, values))

    def write(self, directory: Path) -> dict[str, str]:
        """Write the anchor's two files into ``directory`` (which appears whole or not at all).

        Returns the SHA-256 of each file by its name.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, reading in self.sources.items():
            tensors.update({f"{name}/{path}": tensor for path, tensor in reading.tensors.items()})
        for name, reading in self.streams.items():
            tensors.update({f"stream.{name}/{path}": tensor for path, tensor in reading.tensors.items()})
        tensors.update({f"{RESUME}/{path}": tensor for path, tensor in self.resume.tensors.items()})
        values = {
            "format": FORMAT,
            **self.place,
            "sources": {name: reading.values for name, reading in self.sources.items()},
            "streams": {name: reading.values for name, reading in self.streams.items()},
            "modes": self.modes,
            "resume": self.resume.values,
        }
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        # In a container the next process often has the number of the one that was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            save_file(tensors, temporary / TENSORS_FILE)
            hashes = {TENSORS_FILE: _synced_sha256(temporary / TENSORS_FILE)}
            text = write_canonical(temporary / VALUES_FILE, values)
            # The library makes files for their owner alone; evidence is for whoever may read the directory.
            (temporary / TENSORS_FILE).chmod((temporary / VALUES_FILE).stat().st_mode)
            temporary.replace(directory)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return {**hashes, VALUES_FILE: hashlib.sha256(text).hexdigest()}


def _synced_sha256(path: Path) -> str:
    """Make a file durable and return its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


class Anchor:
    """An anchor read back: readings by source and stream, and where in the program it was taken."""

    def __init__(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        self.values = values
        grouped: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            owner, _, path = name.partition("/")
            grouped.setdefault(owner, {})[path] = tensor
        self.sources = {name: Reading(grouped.get(name, {}), rest) for name, rest in values["sources"].items()}
        self.streams = {
            name: Reading(grouped.get(f"stream.{name}", {}), rest) for name, rest in values["streams"].items()
        }
        self.resume = decode(values["resume"], grouped.get(RESUME, {}))

    @classmethod
    def read(cls, directory: Path, files: Mapping[str, str]) -> Anchor:
        """Read an anchor whose files must have the SHA-256 given in ``files``.

        Raises
        ------
        MemauditError
            If a file is missing, was changed, or does not hold what the format says.
        """
        data: dict[str, bytes] = {}
        for name in (TENSORS_FILE, VALUES_FILE):
            try:
                data[name] = (directory / name).read_bytes()
            except OSError as error:
                raise MemauditError("an anchor cannot be read", where=str(directory / name), why=str(error)) from error
            if hashlib.sha256(data[name]).hexdigest() != files.get(name):
                raise MemauditError(
                    "an anchor's file is not the one that was recorded",
                    where=str(directory / name),
                    next_step="memaudit verify the run directory",
                )
        values = parse_canonical(data[VALUES_FILE], str(directory / VALUES_FILE))
        try:
            return cls(values, load(data[TENSORS_FILE]))
        except SafetensorError as error:
            raise MemauditError("an anchor cannot be read", where=str(directory), why=str(error)) from error


def copied(reading: Reading) -> Reading:
    """Return a reading whose tensors are contiguous CPU copies that share no storage with anything."""
    return Reading({path: logical(tensor.detach()).clone() for path, tensor in reading.tensors.items()}, reading.values)
