"""The benchmark of replaying runs and prints its tables; nothing is asserted about time."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.support.programs import ROOT, run


def test_the_quick_benchmark_runs_every_cell_and_its_parts_add_up(tmp_path: Path) -> None:
    answer = run(sys.executable, ROOT / "benchmarks" / "replay.py", "--quick", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    cells = re.search(r"2 units of carry and 2 arms; (\d+) cells", answer.stdout)
    assert cells is not None
    assert int(cells[1]) >= 8  # six, the gate, and carry once more
    for target in ("study to ideal", "start-up of a cell", "from scratch to study"):
        assert re.search(rf"^\| {target} \| .* \| (yes|no)\b", answer.stdout, re.MULTILINE)
    parts = [float(found[1]) for found in re.finditer(r"^\| .* \| ([\d.-]+) %", answer.stdout, re.MULTILINE)]
    assert len(parts) == 9
    assert abs(sum(parts[:-1]) - 100.0) < 1.0
    assert not list(tmp_path.iterdir())
