"""``memaudit record``: run a training under the recorder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from auditor.artifact.run_directory import MANIFEST
from auditor.errors import MemauditError, NothingToAuditError


@click.command(
    "record",
    epilog="The exit status is that of the command.",
    context_settings={"ignore_unknown_options": False},
)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory to make; the script's own by default.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed every stream before the script's first line.")
@click.option("--anchor-every", type=click.IntRange(1), metavar="N", help="Steps between anchors inside a pass.")
@click.option("--leaves-every", type=click.IntRange(1), metavar="N", help="Steps between per-tensor digests.")
@click.option("--order", type=click.Choice(["ids", "hash"]), help="Keep sample ids, or only their hashes.")
@click.option(
    "--sources/--no-sources", default=None, help="Keep the program's text in the run (the default), or only its hashes."
)
@click.option("--keep-anchors", type=click.IntRange(1), metavar="N", help="Keep only the newest N anchors.")
@click.option(
    "--resume",
    type=click.Choice(["anchor", "program"]),
    is_flag=False,
    flag_value="anchor",
    help="Go on with the unfinished run in --out: from its last anchor, or from where the program says.",
)
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Sign with this private key.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- PYTHON FILE [ARG]…")
def command(
    out: Path | None,
    seed: int | None,
    anchor_every: int | None,
    leaves_every: int | None,
    order: str | None,
    sources: bool | None,
    keep_anchors: int | None,
    resume: str | None,
    key: Path | None,
    command: tuple[str, ...],
) -> None:
    """Run a training under the recorder.

    \b
    Examples:
      memaudit record -- python train.py
      memaudit record --out runs/a --seed 7 -- python train.py --epochs 3
      memaudit record --out runs/a --seed 7 --resume -- python train.py --epochs 3

    The script records itself with `auditor.record(…)`; this command decides directory, seed and anchors without a
    change to it. Scripts without these lines cannot be recorded yet.
    """
    if resume is None and out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MemauditError(
            "the run directory exists and is not empty",
            where=str(out),
            next_step="name another directory with --out, remove this one, or go on with it by --resume",
        )
    settings = {
        "MEMAUDIT_OUT": None if out is None else str(out.resolve()),
        "MEMAUDIT_SEED": seed,
        "MEMAUDIT_ANCHOR_EVERY": anchor_every,
        "MEMAUDIT_LEAVES_EVERY": leaves_every,
        "MEMAUDIT_ORDER": order,
        "MEMAUDIT_SOURCES": None if sources is None else "on" if sources else "off",
        "MEMAUDIT_KEEP_ANCHORS": keep_anchors,
        "MEMAUDIT_RESUME": resume,
        "MEMAUDIT_KEY": None if key is None else str(key.resolve()),
    }
    given = {name: str(value) for name, value in settings.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="memaudit-") as scratch:
        note = Path(scratch) / "runs"
        status = _run(list(command), {**given, "MEMAUDIT_NOTE": str(note)})
        runs = note.read_text("utf-8").splitlines() if note.exists() else []
    for run in runs:
        shown = min(os.path.relpath(run), run, key=len)
        whole = (Path(run) / MANIFEST).is_file()
        what = "recorded" if whole else "the recording was cut short, and is unfinished:"
        click.echo(f"{what} {shown}", err=True)
        click.echo(f"next: memaudit {'verify' if whole else 'seal'} {shown}", err=True)
    if not runs and status == 0:
        if os.environ.get("MEMAUDIT", "").lower() == "off":
            click.echo("memaudit: MEMAUDIT=off, nothing was recorded", err=True)
        else:
            raise NothingToAuditError(
                "nothing was recorded",
                where=" ".join(command),
                why="the program ended well and never entered auditor.record(…)",
                next_step="add memaudit's lines to its loop (README, “Your own loop”)",
            )
    sys.exit(status)


def _run(command: list[str], settings: dict[str, str]) -> int:
    """Run the command as it stands, with the recorder's settings in its environment; return its exit status."""
    from auditor.adapters.startup import environment_for

    program = shutil.which(command[0])
    if command[0] in ("python", "python3") and (program is None or Path(program).parent != Path(sys.executable).parent):
        # Another Python on the PATH (the system's, where no environment is active) has no recorder in it, and mostly
        # no torch: the plain word means the one that memaudit is installed in. A path says which one is meant.
        if program is not None:
            click.echo(f"memaudit: {command[0]} is {sys.executable} here, where memaudit is installed", err=True)
        program = sys.executable
    if program is None:
        raise MemauditError(
            f"there is no program {command[0]!r}",
            next_step="write the command after --, for example: -- python train.py",
        )
    process = subprocess.Popen([program, *command[1:]], env=environment_for(settings))
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # each one is handed on, not only the first
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            # The terminal sent it to the training too; it decides what to do with it.
            process.send_signal(signal.SIGINT)
    return 128 - status if status < 0 else status
