"""Putting an anchor back into a freshly built program."""

from __future__ import annotations

from auditor.state.anchor import Anchor
from auditor.state.census import Watched
from auditor.state.module import restore_modes
from auditor.state.streams import Stream


def restore_sources(anchor: Anchor, watched: Watched) -> None:
    """Put every source of the anchor, and every module's mode, back into the watched objects.

    Raises
    ------
    MemauditError
        If the program has a source that the anchor lacks, or the other way round, and neither can be mended.
    """
    watched.restore(anchor.sources)
    modules = watched.modules()
    for keyword, evaluating in anchor.values["modes"].items():
        restore_modes(modules[keyword], evaluating)


def restore_streams(anchor: Anchor, streams: list[Stream]) -> list[str]:
    """Put every stream of the anchor back; return the names of streams the anchor holds and the program lacks."""
    live = {stream.name: stream for stream in streams}
    absent = []
    for name, reading in anchor.streams.items():
        if name in live:
            live[name].restore(reading)
        else:
            absent.append(name)
    return absent
