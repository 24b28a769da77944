"""Studies whose cells are killed at random: the estimate is the same, byte for byte, however many were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_replay_execution import assert_equal_cells, kill_cells
from tests.support.misbehaving import Program, cells_of

pytestmark = pytest.mark.validate

KILLS = 50


def test_fifty_killed_cells_over_several_seeds_leave_the_estimate_as_it_is(tmp_path: Path) -> None:
    program = Program(tmp_path)
    answer = program.replay(seeds=3)
    assert answer.returncode == 0, answer.stderr
    study = tmp_path / "study"
    killed = 0
    for seed in range(40):
        out = tmp_path / f"killed-{seed}"
        killed += kill_cells(program, out, seed=seed, share=0.6)
        assert (out / "estimate.json").read_bytes() == (study / "estimate.json").read_bytes()
        assert_equal_cells(cells_of(study), study / "cells", out / "cells")
        if killed >= KILLS and seed >= 4:
            return
    raise AssertionError(f"only {killed} cells were killed")
