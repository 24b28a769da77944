"""Going on with a recording that was cut: what has to hold, and from where."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact.canonical import write_canonical
from auditor.artifact.run_directory import source_folder
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError
from auditor.evidence.history import History
from auditor.evidence.keys import SigningKey
from auditor.evidence.run_view import RunView
from auditor.recorder.program_files import ProgramFiles
from auditor.recorder.settings import Settings


@dataclass
class Reopened:
    """An unfinished run, tidied up and ready to go on."""

    directory: Path
    view: RunView
    trace: TraceWriter
    in_progress: dict[int, dict[str, Any]]
    """The passes that were begun and not ended at the cut: their ``iter`` events."""
    told: list[str]
    """What was tidied, in words."""
    environment: dict[str, str] | None
    """The environment file that holds from here on; None where the first one still does."""
    same_numerics: bool

    def newest_anchor(self) -> dict[str, Any] | None:
        """Return the last anchor that a fresh process can come back to; None if there is none."""
        events = [anchor.event for anchor in self.view.anchors if anchor.event["enter"] is not None]
        return events[-1] if events else None

    def append_resume(self, step: int, at: dict[str, Any]) -> int:
        """Write the ``resume`` event: the run goes on after ``step``; ``at`` gives its pass, position and from.

        Returns the number of passes begun by then.
        """
        members = {"step": step, **at, "abandoned": self.view.history.step - step, "environment": self.environment}
        # Not read back from the file: closing it anywhere in this process would give up the writer's lock.
        history = History.of([*self.view.trace.events, {**members, "event": "resume", "seq": self.trace.lines}])
        self.trace.append("resume", members)
        self.trace.sync()
        return history.begun


def reopen(settings: Settings, key: SigningKey, described: dict[str, Any], files: ProgramFiles) -> Reopened:
    """Open the unfinished run of ``settings.out`` again, if it is this program's.

    ``described`` is the environment now, and ``files`` the program in it.

    Raises
    ------
    MemauditError
        If it is finished, damaged, another program's, or sealed by another key.
    """
    # Here, not above: few recordings go on after a cut, and this brings all of verification.
    from auditor.evidence.unfinished import Unfinished

    unfinished = Unfinished.open(settings.out)
    unfinished.require(key)
    start = unfinished.reading.events[0]
    seed = None if settings.seed is None else str(settings.seed)
    this = files.identity
    for what, recorded, now in (
        (
            "program",
            [start["program"][name] for name in ("path", "sha256")],
            [this[name] for name in ("path", "sha256")],
        ),
        ("seed", start["seed"], seed),
        ("kept order", start["order"], settings.order),
    ):
        if recorded != now:
            raise MemauditError(
                f"the run cannot go on: its {what} is another one",
                where=str(settings.out),
                why=f"recorded: {recorded}; now: {now}",
                next_step="start the program as it was started then, or record into another directory",
            )
    in_progress = dict(unfinished.history.open)
    told = unfinished.tidy()
    if start["program"]["argv"] != this["argv"]:
        told.append(
            f"the program has other arguments than before the cut: {this['argv']}, not {start['program']['argv']}"
        )
    view = unfinished.view()
    environment = None
    if described != view.environment:
        number = 2
        while (settings.out / f"environment-{number}.json").exists():
            number += 1
        file = f"environment-{number}.json"
        member, problems = files.write(settings.out / source_folder(file))
        told += problems
        text = write_canonical(settings.out / file, {**described, "program": member})
        environment = {"file": file, "sha256": hashlib.sha256(text).hexdigest()}
    same = described["numerics"] == view.environment["numerics"]
    return Reopened(settings.out.resolve(), view, unfinished.writer(), in_progress, told, environment, same)


def can_resume(settings: Settings) -> bool:
    """Say whether there is a run to go on with; without one, a resuming program begins a new run."""
    return settings.resume is not None and os.path.lexists(settings.out / "trace.jsonl")
