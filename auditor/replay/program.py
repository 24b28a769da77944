"""The recorded program: where it is, whether it is still the one that was recorded, and how it is started."""

from __future__ import annotations

import hashlib
from pathlib import Path

from auditor.errors import MemauditError
from auditor.evidence.run_view import RunView
from auditor.replay.executors.worker import Launch


def launch_of(run: RunView, kept: Path | None = None) -> Launch:
    """Return how to start a run's program.

    ``kept`` is a folder to which the text that the run keeps may be written: where the program was changed since, or is
    gone, that text is started instead, in the same directory. Its hash is the recorded one all the same.

    Raises
    ------
    MemauditError
        If it is not there, was changed since, or was not started as ``python FILE``.
    """
    try:
        return _launch(run)
    except ChangedProgramError:
        texts = run.source_texts() if kept is not None else None
        if kept is None or texts is None or texts.files.keys() != texts.hashes.keys():
            raise
        for name, data in texts.files.items():
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            (kept / name).write_bytes(data)
        return _launch(run, kept / next(iter(texts.hashes)))


class ChangedProgramError(MemauditError):
    """The recorded program is not there any more."""


def _launch(run: RunView, text: Path | None = None) -> Launch:
    program = run.environment["program"]
    if program["path"] is None or program["module"] is not None:
        raise MemauditError(
            "this run's program cannot be started again",
            where=str(run.path),
            why="it was recorded in an interactive session or with python -m; replay starts `python FILE`",
            next_step="record it as `memaudit record --out RUN -- python FILE …`",
        )
    recorded = Path(program["cwd"])
    cwd = recorded if recorded.is_dir() else Path.cwd()
    script = cwd / program["path"] if text is None else text.resolve()
    if not script.is_file():
        raise ChangedProgramError(
            "the recorded program is not here",
            where=str(script),
            next_step=f"put {program['path']} (SHA-256 {program['sha256'][:16]}…) there, or replay in its directory",
        )
    found = hashlib.sha256(script.read_bytes()).hexdigest()
    if found != program["sha256"]:
        raise ChangedProgramError(
            "the program is not the one that was recorded",
            where=str(script),
            why=f"its SHA-256 is {found[:16]}…, recorded {program['sha256'][:16]}…",
            next_step="restore the recorded version, or record this one",
        )
    for name, recorded_hash in program["modules"].items():
        path = script.resolve().parent / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != recorded_hash:
            raise ChangedProgramError(
                "a module that the program imports is not the one that was recorded",
                where=str(path),
                next_step="restore the recorded version, or record this one",
            )
    environment = {"MEMAUDIT_CELL_RUN": str(run.path.resolve())}
    if run.start["seed"] is not None:
        environment["MEMAUDIT_SEED"] = run.start["seed"]
    return Launch(str(script), list(program["argv"]), str(cwd), environment)
