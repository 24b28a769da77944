"""Interventions on random streams: ``stream`` (all of the process) and ``stream.<name>``."""

from __future__ import annotations

from typing import Any

from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.state.census import Watched
from auditor.state.source import Reading, Source
from auditor.state.streams import Stream


class StreamSource(Source):
    """A random stream, in the form of the sources that interventions act on: ``stream.torch``, ``stream.loader``."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(f"stream.{stream.name}", "stream")
        self.stream = stream

    def read(self) -> Reading:
        """Return the stream's state."""
        return self.stream.read()

    def restore(self, reading: Reading) -> None:
        """Put a state back."""
        self.stream.restore(reading)


class RekeyStream(Intervention):
    """Start one random stream anew, from a seed of this unit's own; the others go on bit for bit.

    The seed follows from the unit's key, the step where one is given, and the stream's name (docs/study.md, "Cells",
    with ``/rekey`` or ``/rekey at STEP`` after the key): two units, and an arm and its control, differ. Weights,
    buffers, counters and what was drawn already are carried: of a pass in progress the ids consumed stay consumed.

    The order of a pass in progress is drawn anew, from the ids that remain, where its sampler draws from this very
    stream; anywhere else it stays. Workers go on with streams of their own, from where they stand: what a loader's
    base seed comes from acts on them when they are next started (torch/utils/data/_utils/worker.py, seed + worker).
    The receipt's ``reason`` says which.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._all: list[StreamSource] = []

    def targets(self, branch: Branch) -> list[Source]:
        """Return the stream of that name, or all of this process."""
        found: list[Source] = [s for s in self._all if self.source in ("stream", s.name)]
        if not found:
            there = ", ".join(source.name for source in self._all) or "none"
            if ".worker" in self.source:
                raise NotApplicable(
                    f"{self.source} begins anew with its worker, from the loader's base seed; "
                    f"re-key the stream that this is drawn from, one of: {there}"
                )
            raise NotApplicable(f"there is no {self.source} at this step; there are: {there}")
        return found

    def apply(self, branch: Branch) -> dict[str, Any]:
        """Re-key, and return the receipt; its reason says what became of the passes in progress."""
        self._all = [StreamSource(stream) for stream in branch.streams()]
        self._note: str | None = None
        receipt = super().apply(branch)
        return {**receipt, "reason": self._note} if receipt["applied"] else receipt

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Seed the streams, and draw anew what they feed."""
        key = f"{branch.key}/rekey" if self.at is None else f"{branch.key}/rekey at {self.at}"
        streams = [source.stream for source in sources if isinstance(source, StreamSource)]
        for stream in streams:
            stream.rekey(key)
        self._note = branch.redraw(streams)

    def _untouched(self, watched: Watched, names: set[str]) -> list[Source]:
        """Return every other stream, and the sources that hold no generator: those may hold this one."""
        sources = [s for s in super()._untouched(watched, names) if not _holds_generator(s.read().values)]
        return [*sources, *(source for source in self._all if source.name not in names)]


def _holds_generator(values: Any) -> bool:
    if isinstance(values, list):
        return any(map(_holds_generator, values))
    if not isinstance(values, dict):
        return False
    kind = values.get("$")
    generator = isinstance(kind, str) and kind.rpartition(".")[2] in ("Generator", "Random", "RandomState")
    return generator or any(map(_holds_generator, values.values()))
