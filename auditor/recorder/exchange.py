"""Buffers that cells give to one another: a control writes what it holds after a step, an arm of the study takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.interventions.registry import make
from auditor.state.anchor import Anchor, Snapshot
from auditor.state.source import Reading

FOLDER = "given"


class Exchange:
    """What one cell gives to others and takes from them; ``give`` and ``take`` stand in its description.

    Parameters
    ----------
    directory
        The cell's; those of other cells lie beside it, under their hashes.
    description
        The cell's.
    """

    def __init__(self, directory: Path, description: Mapping[str, Any]) -> None:
        self._directory = directory
        self._give: list[dict[str, Any]] = description.get("give", [])
        self._take: list[dict[str, Any] | None] = description.get("take", [])
        self.given: dict[str, dict[str, str]] = {}
        """The SHA-256 of each file that was written, by folder and name."""

    def give(self, step: int, branch: Branch) -> None:
        """Write what other cells are to take after this step; of what is not there nothing is written."""
        for number, wanted in enumerate(self._give):
            if wanted["step"] != step:
                continue
            try:
                sources = make({"source": wanted["source"], "do": "common"}).targets(branch)
            except NotApplicable:
                continue
            name = _name(number, step)
            snapshot = Snapshot({"step": step}, {source.name: source.read() for source in sources}, {}, {}, {})
            self.given[name] = snapshot.write(self._directory / FOLDER / name)

    def taken(self, number: int, intervention: Intervention) -> Mapping[str, Reading]:
        """Return what the giver of intervention ``number`` of the arm held, by source; nothing where it had nothing.

        Raises
        ------
        MemauditError
            If this intervention takes from nobody, or what was given is not what the giver says it wrote.
        """
        take = self._take[number] if number < len(self._take) else None
        if take is None:
            raise MemauditError(
                f"{intervention.action} of {intervention.source} takes from another cell, and none is named",
                where="cell.json",
                next_step="run it as part of a study",
            )
        giver = self._directory.parent / take["cell"]
        given = json.loads((giver / "cell.json").read_text("utf-8"))["give"]
        wanted = {"step": take["step"], "source": intervention.source}
        name = _name(given.index(wanted), take["step"])
        files = json.loads((giver / "result.json").read_text("utf-8"))["given"].get(name)
        return {} if files is None else Anchor.read(giver / FOLDER / name, files).sources


def _name(number: int, step: int) -> str:
    return f"step-{step:06d}-{number}"
