"""Two hundred random kills: the record stays whole, and training ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_crash_safety import kill_and_go_on

pytestmark = pytest.mark.validate


@pytest.mark.parametrize("seed", range(20, 30))
@pytest.mark.parametrize("case", ["plain-own", "workers"])
def test_a_training_killed_ten_times_ends_as_if_it_had_not_been(tmp_path: Path, case: str, seed: int) -> None:
    kill_and_go_on(tmp_path, case, 10, seed)
