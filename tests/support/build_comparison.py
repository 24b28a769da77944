"""Comparisons of small runs written by tests.support.build_run: one for every verdict of `memaudit diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from auditor.compare.comparison import compare
from auditor.evidence.keys import generate
from auditor.findings.formats.json import render
from tests.support.build_run import PROGRAM, RunBuilder

NUDGED = {**PROGRAM, "parts/model.py": b"model\nmodel.weight += 0.001\n"}
"""The text of a program that does what `Nudged` does."""


class Nudged(RunBuilder):
    """The weights are changed by hand once the fourth step is taken; the losses differ from then on."""

    def take_step(self, main: int | None, **more: Any) -> None:
        if self.step == 3:
            self.weight = self.weight + np.float32(1e-3)
        loss = 1.0 / (self.step + 1) + (1e-4 * self.step if self.step >= 3 else 0.0)
        super().take_step(main, loss=loss, **more)

    def write_environment(self, name: str, content: Any, texts: dict[str, bytes] | None = None) -> str:
        return super().write_environment(name, content, texts or NUDGED)

    def environment(self, torch: str = "2.13.0", texts: dict[str, bytes] | None = None) -> Any:
        return super().environment(torch, texts or NUDGED)


class Wider(RunBuilder):
    """Another model: its weight has another shape."""

    def build(self, *, finish: bool = True) -> Path:
        self.weight = np.arange(8, dtype=np.float32).reshape(2, 4)
        self.momentum = np.zeros((2, 4), dtype=np.float32)
        return super().build(finish=finish)


VERDICTS: dict[str, tuple[type[RunBuilder], bool]] = {
    "equal": (RunBuilder, True),
    "different": (Nudged, True),
    "not comparable": (Wider, True),
    "inconclusive": (RunBuilder, False),
}
"""Who writes B so that comparing it with a plain run has this verdict, and whether it is finished."""


def comparison_document(folder: Path, verdict: str = "different") -> dict[str, Any]:
    """Write runs `a` and `b` into `folder` and return what comparing them says."""
    builder, finish = VERDICTS[verdict]
    key = generate()
    a = RunBuilder(folder / "a", key=key).build()
    b = builder(folder / "b", key=key).build(finish=finish)
    return compare(a, b).to_json()


def comparison_for_report(folder: Path, verdict: str = "different") -> Path:
    """As `comparison_document`, written as `memaudit diff --format json > diff.json` does; the file's path."""
    path = folder / "diff.json"
    document = comparison_document(folder, verdict)
    path.write_text(render(document) + "\n", encoding="utf-8")
    return path
