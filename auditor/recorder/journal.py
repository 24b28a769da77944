"""Census and step events: full state digests, positional, with null for what did not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from auditor.artifact.digest import digest_text
from auditor.artifact.trace import TraceWriter
from auditor.state.source import Reading, Source
from auditor.state.streams import Stream


class Journal:
    """Writes what a trace says of state.

    ``contract`` gives the census entries of the streams; it is asked again whenever the streams change.
    """

    def __init__(self, trace: TraceWriter, contract: Callable[[list[Stream]], list[dict[str, Any]]]) -> None:
        self.trace = trace
        self._contract = contract
        self._names: tuple[list[str], list[str]] | None = None
        self._last: dict[tuple[str, str], bytes] = {}
        self.census: list[dict[str, Any]] = []
        self.streams: list[dict[str, Any]] = []

    def take_census(self, sources: list[Source], streams: list[Stream]) -> None:
        """Write a census event if sources or streams appeared or went since the last one."""
        names = ([source.name for source in sources], [stream.name for stream in streams])
        if names == self._names:
            return
        self._names = names
        self.census = [source.describe() for source in sources]
        self.streams = self._contract(streams)
        self.trace.append("census", {"sources": self.census, "streams": self.streams})

    def step(
        self, members: dict[str, Any], sources: list[Source], streams: list[Stream], *, leaves: bool = False
    ) -> None:
        """Write one step event with the digests of every source and stream as they are now."""
        self.take_census(sources, streams)
        readings = {source.name: source.read() for source in sources}
        event = dict(members)
        event["sources"] = [self._changed("source", name, reading.digest()) for name, reading in readings.items()]
        event["streams"] = [self._changed("stream", stream.name, stream.digest()) for stream in streams]
        if leaves:
            event["leaves"] = {name: leaf_texts(reading) for name, reading in readings.items()}
        self.trace.append("step", event)

    def note_anchor(self, sources: Mapping[str, bytes], streams: Mapping[str, bytes]) -> None:
        """Count an anchor's digests as written: the steps after it say only what changed since."""
        self._last.update({("source", name): digest for name, digest in sources.items()})
        self._last.update({("stream", name): digest for name, digest in streams.items()})

    def _changed(self, kind: str, name: str, digest: bytes) -> str | None:
        if self._last.get((kind, name)) == digest:
            return None
        self._last[kind, name] = digest
        return digest_text(digest)


def leaf_texts(reading: Reading) -> dict[str, str]:
    """Return each tensor's digest as text, under its path."""
    return {path: digest_text(digest) for path, digest in reading.leaves().items()}
