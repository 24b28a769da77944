"""Re-keying single streams in a cell: which passes in progress are drawn anew, and what goes on as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.state.streams import Stream

if TYPE_CHECKING:
    from auditor.recorder.order import Walk
    from auditor.recorder.passes import Pass
    from auditor.recorder.session import Session


def redraw(session: Session, streams: list[Stream]) -> str | None:
    """Draw anew what is left of the passes in progress whose order comes from one of the streams, just re-keyed.

    All other streams, and those of loaders' workers, go on as they are. Returns what was done and what stays, in words;
    None where no pass is in progress.
    """
    rekeyed = {stream.name for stream in streams}
    if rekeyed == {stream.name for stream in session.main_streams()}:
        session.loaders.forget_workers()
        for each in session.open:
            if each.walk is not None:
                each.moments["before_iter"] = session.read_streams()
                each.walk.redraw()
        return "what is left of the passes in progress is drawn anew, by new workers if any" if session.open else None
    told = [_redraw_one(session, each, each.walk, streams, rekeyed) for each in session.open if each.walk is not None]
    told += _copies(session, streams)
    return "; ".join(told) or None


def _redraw_one(session: Session, of: Pass, walk: Walk, streams: list[Stream], rekeyed: set[str]) -> str:
    generator = walk.order_generator
    if generator is None or all(getattr(stream, "generator", None) is not generator for stream in streams):
        return f"the order of pass {of.number} stays: it does not come from this stream"
    if session.table_of(of.loader).changed:
        return f"the order of pass {of.number} stays: the data set keeps state inside its workers"
    now = session.read_streams()
    ours = {name: reading for name, reading in now.items() if name in rekeyed}
    waiting = [ours]

    def before_draw() -> None:
        if waiting:
            session.set_streams(waiting.pop())

    # Workers that gave no batch yet are seeded from the loader's base seed: it is to be the same as before.
    born = of.moments["before_iter"]
    session.set_streams({name: reading for name, reading in born.items() if name in now})
    walk.redraw(before_draw)
    # Workers ask for batches at once; without any, nothing was drawn yet.
    before_draw()
    session.set_streams({name: reading for name, reading in now.items() if name not in rekeyed})
    return f"the order of what is left of pass {of.number} is drawn anew"


def _copies(session: Session, streams: list[Stream]) -> list[str]:
    """Say where workers that are running draw from copies of a stream."""
    alive = session.loaders.alive()
    return sorted(
        {
            f"workers that are running keep their copies of {stream.name}"
            for stream in streams
            for place in stream.places
            if place.part in ("dataset", "collate_fn") and place.loader in alive and alive[place.loader].num_workers
        }
    )
