"""What a recording was asked for: by the call, and by the command line, which takes precedence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from auditor.errors import MemauditError

OFF = "MEMAUDIT"
OUT = "MEMAUDIT_OUT"
SEED = "MEMAUDIT_SEED"
ANCHOR_EVERY = "MEMAUDIT_ANCHOR_EVERY"
LEAVES_EVERY = "MEMAUDIT_LEAVES_EVERY"
ORDER = "MEMAUDIT_ORDER"
KEEP_ANCHORS = "MEMAUDIT_KEEP_ANCHORS"
RESUME = "MEMAUDIT_RESUME"
SOURCES = "MEMAUDIT_SOURCES"
KEY = "MEMAUDIT_KEY"
NOTE = "MEMAUDIT_NOTE"
CELL = "MEMAUDIT_CELL"
CELL_RUN = "MEMAUDIT_CELL_RUN"


@dataclass(frozen=True)
class Settings:
    """One recording's settings, the command line's already taken into account."""

    out: Path
    """The run directory to be made."""
    seed: int | None
    """What every stream is seeded with where ``record`` is entered; None leaves them alone."""
    seeded_by: str
    """Who asked for that seed, in words, for the contract."""
    anchor_every: int | None
    """Steps between anchors inside a pass; None for anchors at passes' starts only."""
    leaves_every: int | None
    """Steps between per-tensor digests; None for anchors only."""
    order: Literal["ids", "hash"]
    """Whether sample ids are kept, or only their hashes."""
    key: Path | None
    """The private key to sign with; None for the default one."""
    keep_anchors: int | None = None
    """How many anchors stay on the disk, the newest ones; None for all."""
    resume: Literal["anchor", "program"] | None = None
    """Whether an unfinished run in ``out`` goes on: from its last anchor, or from where the program says."""
    seal_every: int = 100
    """Steps between signatures over the trace so far."""
    sources: bool = True
    """Whether the program's text is kept, or only its hashes."""

    @classmethod
    def resolve(
        cls,
        out: str | os.PathLike[str],
        *,
        seed: int | None,
        anchor_every: int | None,
        leaves_every: int | None,
        order: str,
        key: str | os.PathLike[str] | None,
        keep_anchors: int | None = None,
        resume: bool | str = False,
        sources: bool = True,
    ) -> Settings:
        """Merge the call's arguments with the command line's, which reach the script through its environment.

        Raises
        ------
        MemauditError
            If a value makes no sense.
        """
        environment = os.environ
        wanted = environment.get(ORDER, order)
        if wanted not in ("ids", "hash"):
            raise MemauditError(f"order={wanted!r} is not known", next_step="use 'ids' or 'hash'")
        kept = environment.get(SOURCES, "on" if sources else "off").lower()
        if kept not in ("on", "off"):
            raise MemauditError(f"{kept!r} is neither on nor off", where=f"${SOURCES}", next_step="use 'on' or 'off'")
        commanded = environment.get(SEED)
        final_seed = seed if commanded is None else _integer(commanded, SEED)
        if final_seed is not None and not 0 <= final_seed < 2**63:
            raise MemauditError(f"seed {final_seed} is out of range", next_step="use 0 to 2^63 - 1")
        named_key = environment.get(KEY) or key
        return cls(
            out=Path(environment.get(OUT) or out),
            seed=final_seed,
            seeded_by="memaudit record --seed" if commanded is not None else "auditor.record(seed=…)",
            anchor_every=_positive(ANCHOR_EVERY, anchor_every, "anchor_every"),
            leaves_every=_positive(LEAVES_EVERY, leaves_every, "leaves_every"),
            order="hash" if wanted == "hash" else "ids",
            key=None if named_key is None else Path(named_key),
            resume=_resume(environment.get(RESUME, resume)),
            keep_anchors=_positive(KEEP_ANCHORS, keep_anchors, "keep_anchors"),
            sources=kept == "on",
        )


def _resume(value: bool | str) -> Literal["anchor", "program"] | None:
    if value is False:
        return None
    if value is True or value == "anchor":
        return "anchor"
    if value == "program":
        return "program"
    raise MemauditError(f"resume={value!r} is not known", next_step="use True, 'anchor' or 'program'")


def _integer(text: str, variable: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MemauditError(
            f"{text!r} is no whole number", where=f"${variable}", next_step=f"unset {variable}, or set it to a number"
        ) from None


def _positive(variable: str, called: int | None, name: str) -> int | None:
    commanded = os.environ.get(variable)
    value = called if commanded is None else _integer(commanded, variable)
    if value is not None and value < 1:
        raise MemauditError(f"{name} is {value}", next_step="use a number of at least 1")
    return value


def is_off() -> bool:
    """Return whether ``MEMAUDIT=off`` asks every call to do nothing but the seeding."""
    return os.environ.get(OFF, "").lower() == "off"
