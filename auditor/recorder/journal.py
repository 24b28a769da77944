"""Census and step events: full state digests, positional, with null for what did not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from auditor.artifact.digest import digest_text
from auditor.artifact.trace import TraceWriter
from auditor.recorder.reseeding import Reseeding
from auditor.state.source import Reading, Source
from auditor.state.streams import Stream


class Journal:
    """Writes what a trace says of state.

    ``contract`` gives the census entries of the streams; it is asked again whenever the streams change, or one of
    them is seeded again.
    """

    def __init__(
        self, trace: TraceWriter, contract: Callable[[list[Stream]], list[dict[str, Any]]], reseeding: Reseeding
    ) -> None:
        self.trace = trace
        self._contract = contract
        self._reseeding = reseeding
        self._names: tuple[list[str], list[str]] | None = None
        self._last: dict[tuple[str, str], bytes] = {}
        self.census: list[dict[str, Any]] = []
        self.streams: list[dict[str, Any]] = []

    def last_streams(self) -> dict[str, str | None]:
        """Return the digest of every stream as the last line has it, by name."""
        last = {name: self._last.get(("stream", name)) for name in (entry["name"] for entry in self.streams)}
        return {name: None if digest is None else digest_text(digest) for name, digest in last.items()}

    def take_census(self, sources: list[Source], streams: list[Stream], *, again: bool = False) -> None:
        """Write a census event if sources or streams appeared or went since the last one, or if its words changed."""
        names = ([source.name for source in sources], [stream.name for stream in streams])
        if names == self._names and not again:
            return
        described = [source.describe() for source in sources], self._contract(streams)
        if names == self._names and described == (self.census, self.streams):
            return
        self._names = names
        self.census, self.streams = described
        self.trace.append("census", {"sources": self.census, "streams": self.streams})

    def iter(self, members: dict[str, Any], sources: list[Source], streams: list[Stream]) -> None:
        """Write the event of a pass's begin, with the digest of every stream as its iterator left it."""
        digests = self._see(streams, f"the start of pass {members['pass']}", starts_pass=True)
        self.take_census(sources, streams, again=digests.news)
        self.trace.append("iter", {**members, "streams": digests.texts(self._changed, streams)})

    def step(
        self, members: dict[str, Any], sources: list[Source], streams: list[Stream], *, leaves: bool = False
    ) -> None:
        """Write one step event with the digests of every source and stream as they are now."""
        digests = self._see(streams, f"step {members['step']}", starts_pass=False)
        self.take_census(sources, streams, again=digests.news)
        readings = {source.name: source.read() for source in sources if source.captured}
        event = dict(members)
        event["sources"] = [
            self._changed("source", source.name, readings[source.name].digest()) if source.captured else None
            for source in sources
        ]
        event["streams"] = digests.texts(self._changed, streams)
        if leaves:
            event["leaves"] = {name: leaf_texts(reading) for name, reading in readings.items()}
        self.trace.append("step", event)

    def _see(self, streams: list[Stream], moment: str, *, starts_pass: bool) -> _Digests:
        """Take every stream's digest, and note where one was seeded again."""
        digests = [stream.digest() for stream in streams]
        news = False
        for stream, digest in zip(streams, digests, strict=True):
            if stream.own:
                seed = stream.initial_seed()
                news |= self._reseeding.see(stream.name, digest, seed, moment, starts_pass=starts_pass)
        return _Digests(digests, news)

    def note_anchor(self, sources: Mapping[str, bytes], streams: Mapping[str, bytes]) -> None:
        """Count an anchor's digests as written: the steps after it say only what changed since."""
        self._last.update({("source", name): digest for name, digest in sources.items()})
        self._last.update({("stream", name): digest for name, digest in streams.items()})

    def _changed(self, kind: str, name: str, digest: bytes) -> str | None:
        if self._last.get((kind, name)) == digest:
            return None
        self._last[kind, name] = digest
        return digest_text(digest)


class _Digests(NamedTuple):
    digests: list[bytes]
    news: bool
    """Whether a stream was found to be seeded again."""

    def texts(self, changed: Callable[[str, str, bytes], str | None], streams: list[Stream]) -> list[str | None]:
        return [changed("stream", stream.name, digest) for stream, digest in zip(streams, self.digests, strict=True)]


def leaf_texts(reading: Reading) -> dict[str, str]:
    """Return each tensor's digest as text, under its path."""
    return {path: digest_text(digest) for path, digest in reading.leaves().items()}
