"""A run directory as its readers want it: predicate, events, resolved steps, census and anchors. No torch.

Reading is not verifying: use :func:`auditor.evidence.verify.verify` for a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from auditor.artifact import order_file, run_directory, safetensors_file, strict_json
from auditor.artifact.run_directory import Inventory
from auditor.errors import InconclusiveError, NothingToAuditError
from auditor.evidence import manifest as manifests
from auditor.evidence.history import History
from auditor.evidence.source_texts import SourceTexts, read_source_texts
from auditor.evidence.trace_reader import TraceReading, read_trace


@dataclass(frozen=True)
class Step:
    """One step event with every digest in place."""

    seq: int
    step: int
    pass_: int | None
    position: int | None
    ids: str | None
    batch: str | None
    sources: dict[str, str | None]
    """Digest by source, unchanged ones carried forward; None where none was written yet."""
    streams: dict[str, str | None]
    loss: float | None
    leaves: dict[str, dict[str, str]] | None
    also: tuple[tuple[int, int], ...] = ()
    """The other passes that gave batches to this step, each with the position reached."""


@dataclass(frozen=True)
class AnchorView:
    """One anchor whose files are there: its event, and its files on demand."""

    event: dict[str, Any]
    """The ``anchor`` event, with ``files`` (SHA-256 by name) from the ``stored`` event that followed it."""
    _inventory: Inventory

    @property
    def step(self) -> int:
        """Steps taken when it was made."""
        return int(self.event["step"])

    @property
    def path(self) -> str:
        """Its folder below the run."""
        return str(self.event["path"])

    def tensors(self) -> dict[str, safetensors_file.StoredTensor]:
        """Return its tensors under ``SOURCE/PATH`` and ``stream.NAME/PATH``."""
        name = f"{self.path}/{run_directory.TENSORS}"
        return safetensors_file.read(self._inventory.open(name).data, name)

    def values(self) -> dict[str, Any]:
        """Return the content of its values.json."""
        name = f"{self.path}/{run_directory.VALUES}"
        value: dict[str, Any] = strict_json.parse_canonical(self._inventory.bytes_of(name), name)
        return value


class RunView:
    """A run directory opened for reading. Unfinished runs can be opened too: ``predicate`` is then None."""

    def __init__(
        self, path: Path, inventory: Inventory, trace: TraceReading, manifest: manifests.Manifest | None
    ) -> None:
        self.path = path
        self.inventory = inventory
        self.trace = trace
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run directory.

        Raises
        ------
        NothingToAuditError
            If there is no trace.
        InconclusiveError
            If the trace is broken: what it says cannot be used.
        """
        inventory = run_directory.scan(path)
        if run_directory.TRACE not in inventory:
            raise NothingToAuditError("no run directory", where=str(path), why=f"it has no {run_directory.TRACE}")
        trace = read_trace(inventory.open(run_directory.TRACE).data)
        if trace.problems:
            raise InconclusiveError(
                trace.problems[0].message,
                where=f"{path}/{trace.problems[0].where}",
                next_step=f"memaudit verify {path}",
            )
        has_manifest = run_directory.MANIFEST in inventory
        manifest = manifests.parse(inventory.bytes_of(run_directory.MANIFEST)) if has_manifest else None
        return cls(path, inventory, trace, manifest)

    @property
    def predicate(self) -> dict[str, Any] | None:
        """The manifest's predicate, or None for an unfinished run."""
        return None if self.manifest is None else self.manifest.predicate

    @property
    def manifest_sha256(self) -> str | None:
        """SHA-256 of manifest.json, or None without one."""
        return None if self.manifest is None else self.inventory.open(run_directory.MANIFEST).sha256

    @property
    def start(self) -> dict[str, Any]:
        """The ``start`` event."""
        return self.trace.events[0]

    @cached_property
    def history(self) -> History:
        """Which events count, and which were made void by a cut."""
        return History.of(self.trace.events)

    def events(self) -> Iterator[dict[str, Any]]:
        """Return every event that counts, in order; what a cut made void is left out."""
        return self.history.events()

    def steps(self) -> Iterator[Step]:
        """Return every step that counts, its digests resolved."""
        void = self.history.void
        return (step for step in resolve_steps(self.trace.events) if step.seq not in void)

    def passes(self) -> list[dict[str, Any]]:
        """Return the ``pass`` events that count, in the order in which the passes ended."""
        return [event for event in self.history.timeline if event["event"] == "pass"]

    def order(self, number: int) -> order_file.Ids | None:
        """Return the sample ids of a pass as consumed; None where they were not kept or the pass has not ended."""
        for event in self.passes():
            if event["pass"] == number and event["file"] is not None:
                return order_file.read(self.inventory.open(event["file"]).data, event["file"])
        return None

    @cached_property
    def census(self) -> dict[str, list[dict[str, Any]]]:
        """The last census event's ``sources`` and ``streams``."""
        found = self.trace.of("census")
        last = found[-1] if found else {"sources": [], "streams": []}
        return {"sources": last["sources"], "streams": last["streams"]}

    @cached_property
    def anchors(self) -> list[AnchorView]:
        """The anchors that count and whose files are there, in the order they were taken."""
        return stored_anchors(self.history, self.inventory)

    @cached_property
    def probes(self) -> dict[str, Any]:
        """The probes by name, as probe/probes.json describes them; none where there is no such file."""
        name = run_directory.PROBES
        if name not in self.inventory:
            return {}
        value: dict[str, Any] = strict_json.parse_canonical(self.inventory.bytes_of(name), name)
        return dict(value["probes"])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json."""
        return self._environment(run_directory.ENVIRONMENT)

    def environment_at(self, step: int) -> dict[str, Any]:
        """Return the environment in which a step was taken: another one where the run went on on another machine."""
        name = run_directory.ENVIRONMENT
        for cut in self.history.cuts:
            if cut.event["step"] < step:
                other = cut.event["environment"]
                name = run_directory.ENVIRONMENT if other is None else other["file"]
        return self._environment(name)

    def source_texts(self, environment_file: str = run_directory.ENVIRONMENT) -> SourceTexts:
        """Return the kept text of the program and its modules as one environment file names them.

        Raises
        ------
        MemauditError
            If that file is not there or breaks its format.
        """
        # Here, not above: it brings JSON Schema, and few readers ask.
        from auditor.evidence.examination import check_schema

        environment = self._environment(environment_file)
        check_schema(environment, "environment", environment_file)
        return read_source_texts(self.inventory, environment_file, environment["program"])

    def _environment(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = strict_json.parse_canonical(self.inventory.bytes_of(name), name)
        return value


def stored_anchors(history: History, inventory: Inventory) -> list[AnchorView]:
    """Return the anchors of a history that count and whose files are there, in the order they were taken."""
    return [
        AnchorView({**record.event, "files": record.stored["files"]}, inventory)
        for record in history.anchors
        if record.stored is not None and record.is_kept and not record.void
    ]


def resolve_steps(events: Iterable[dict[str, Any]]) -> Iterator[Step]:
    """Yield the step events with unchanged digests carried forward, by the census in force at each.

    Void steps are among them where ``events`` has them; at a ``resume`` nothing is carried on.
    """
    sources: list[str] = []
    streams: list[str] = []
    last_source: dict[str, str | None] = {}
    last_stream: dict[str, str | None] = {}
    for event in events:
        match event["event"]:
            case "census":
                sources = [entry["name"] for entry in event["sources"]]
                streams = [entry["name"] for entry in event["streams"]]
            case "resume":
                last_source, last_stream = {}, {}
            case "anchor":
                last_source.update(event["sources"])
                last_stream.update(event["streams"])
            case "iter":
                _carry(last_stream, streams, event["streams"])
            case "step":
                _carry(last_source, sources, event["sources"])
                _carry(last_stream, streams, event["streams"])
                loss = event.get("loss")
                yield Step(
                    event["seq"],
                    event["step"],
                    event["pass"],
                    event["position"],
                    event["ids"],
                    event["batch"],
                    {name: last_source.get(name) for name in sources},
                    {name: last_stream.get(name) for name in streams},
                    None if loss is None else float(loss),
                    event.get("leaves"),
                    tuple((number, position) for number, position in event.get("also", ())),
                )


def _carry(last: dict[str, str | None], names: list[str], digests: list[str | None]) -> None:
    last.update({name: digest for name, digest in zip(names, digests, strict=False) if digest is not None})
