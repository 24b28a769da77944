"""Consent: what will run on this machine, shown before it does, and the question."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.errors import MemauditError

if TYPE_CHECKING:
    from auditor.evidence.run_view import RunView
    from auditor.replay.executors.worker import Launch


def program_lines(run: RunView, launch: Launch, *, each: str) -> list[str]:
    """Return what will run for one run: program and arguments, directory, hash; ``each`` is what runs it (a cell)."""
    from auditor.findings.formats.text import escape

    recorded = Path(launch.cwd) / run.environment["program"]["path"]
    lines = [
        f"program   {shlex.join(['python', launch.script, *launch.argv])}",
        *([] if Path(launch.script) == recorded else [f"          the text that the run keeps; {recorded} is another"]),
        f"in        {launch.cwd} (what the program writes there, {each} writes again)",
        f"sha256    {run.environment['program']['sha256']} (as recorded)",
    ]
    return [escape(line) for line in lines]


def consent(command: str, scripts: Sequence[str], *, trusted: bool) -> None:
    """Ask before programs that a run names are executed.

    Raises
    ------
    MemauditError
        If nobody consents.
    """
    if trusted:
        return
    one = len(set(scripts)) == 1
    programs = "this program" if one else "these programs"
    if sys.stdin.isatty() and click.confirm(f"Run {programs} on this machine?", err=True):
        return
    raise MemauditError(
        f"{command} runs the recorded program{'' if one else 's'}, and nobody consented",
        where=", ".join(dict.fromkeys(scripts)),
        next_step=f"read the program{'' if one else 's'}, then give --trust-code",
    )


def check_run(view: RunView) -> None:
    """Refuse a run that does not verify: what would be run again is not what was recorded.

    Raises
    ------
    MemauditError
        If verification finds that it does not hold.
    """
    from auditor.evidence.verify import verify

    verification = verify(view.path)
    if verification.exit_status == 1:
        raise MemauditError(
            "the run does not verify", where=str(view.path), next_step=f"memaudit verify {view.path} says what is wrong"
        )


def refine_lines(a: RunView, b: RunView, launches: tuple[Launch, Launch], first_step: int) -> list[str]:
    """Return what ``diff --refine`` will run: two programs, one after the other, and how far.

    Raises
    ------
    MemauditError
        If the runs cannot be entered.
    """
    from auditor.replay.refine import FURTHER, MOST_FROM_START, entrances

    lines = []
    for name, run, launch in zip(("A", "B"), (a, b), launches, strict=True):
        lines += [f"run {name}     {run.path}", *program_lines(run, launch, each="running it again")]
    found = entrances(a, b, first_step)
    last = first_step + FURTHER
    lines.append(f"steps     {found[0].step + 1} to about {last}, once for each run, one after the other")
    if len(found) == 2 and last <= MOST_FROM_START:
        lines.append("          if a run does not repeat itself so, both from step 1 on")
    return lines
