"""The predicate of a run's manifest: what is signed about a run besides its files."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

FORMAT = "run-1"


def run_predicate(
    *,
    status: str,
    head: str,
    lines: int,
    steps: int,
    census: list[dict[str, Any]],
    streams: list[dict[str, Any]],
    numerics: dict[str, Any],
    program: dict[str, Any],
    seed: str | None,
    started: str | None,
    finished: str,
    seconds: float | None,
) -> dict[str, Any]:
    """Return the predicate of ``urn:memaudit:run:1``.

    Parameters
    ----------
    status
        ``completed``, ``failed`` or ``interrupted``, as in the ``end`` event.
    head, lines
        SHA-256 of the trace's last line, and how many lines it has.
    steps
        Steps that count; those a cut made void are not among them.
    census, streams
        ``sources`` and ``streams`` of the last ``census`` event.
    numerics
        That of environment.json, also where the run went on on another machine.
    program, seed
        Those of the ``start`` event.
    started, finished
        RFC 3339 times in UTC. A run that was closed by somebody else has ``finished``, when it was closed, and no
        ``started`` and ``seconds``.
    seconds
        How long the recording took.
    """
    return {
        "format": FORMAT,
        "status": status,
        "trace": {"head": head, "lines": lines},
        "steps": steps,
        "contract": {"streams": streams},
        "census": census,
        "numerics": numerics,
        "program": program,
        "seed": seed,
        "started": started,
        "finished": finished,
        "seconds": seconds,
    }


def now() -> str:
    """Return the time in the form that manifests give it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
