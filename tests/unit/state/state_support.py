"""A state captured as an anchor holds it, and put back into another program."""

from typing import Any

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.strict_json import parse_canonical
from auditor.state.anchor import check_storable, copied
from auditor.state.census import Watched
from auditor.state.source import Reading


def watch(**objects: Any) -> Watched:
    found = Watched()
    for name, thing in objects.items():
        found.add(name, thing)
    return found


def names(found: Watched) -> list[str]:
    return [source.name for source in found.sources()]


def capture(found: Watched) -> dict[str, Reading]:
    """Return every source's state, its values through canonical JSON as in an anchor's file."""
    held = {}
    for source in found.sources():
        reading = source.read()
        check_storable(reading)
        held[source.name] = Reading(
            copied(reading).tensors, parse_canonical(canonical_bytes(reading.values) + b"\n", "x")
        )
    return held


def digests(found: Watched) -> dict[str, bytes]:
    return {source.name: source.read().digest() for source in found.sources()}


def put_back(found: Watched, held: dict[str, Reading]) -> None:
    """Restore, and check that what is then read is what was held."""
    before = {name: reading.digest() for name, reading in held.items()}
    found.restore(held)
    assert digests(found) == before
    assert {name: reading.digest() for name, reading in held.items()} == before, "what is held must not change"
