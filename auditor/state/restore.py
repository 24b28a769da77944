"""Putting an anchor back into a freshly built program."""

from __future__ import annotations

from auditor.errors import MemauditError
from auditor.state.anchor import Anchor
from auditor.state.census import Watched
from auditor.state.module import restore_modes
from auditor.state.source import Reading, Source
from auditor.state.streams import Stream


def restore_sources(anchor: Anchor, watched: Watched) -> None:
    """Put every source of the anchor, and every module's mode, back into the watched objects.

    Order matters: hyper-parameters and slots go before schedulers, whose own ``load_state_dict`` may read them.

    Raises
    ------
    MemauditError
        If the program has a source that the anchor lacks, or the other way round.
    """
    live: dict[str, Source] = {source.name: source for source in watched.sources()}
    for name in anchor.sources:
        if name not in live:
            made = watched.slot_source(name)
            if made is None:
                raise MemauditError(
                    f"the anchor holds {name}, which the program does not watch",
                    next_step="replay the program and arguments that were recorded",
                )
            live[name] = made
    for name, source in list(live.items()):
        if name in anchor.sources:
            source.restore(anchor.sources[name])
        elif source.kind == "optimizer":
            # The program has stepped on its way here and the anchor has no such slot: take it away again.
            source.restore(Reading({}))
        else:
            raise MemauditError(
                f"the program watches {name}, which the anchor lacks",
                next_step="replay the program and arguments that were recorded",
            )
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
