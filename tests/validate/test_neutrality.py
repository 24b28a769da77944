"""Recording changes no bit, over the whole matrix, inductor included."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.integration.test_bit_neutrality import MATRIX, neutral

pytestmark = pytest.mark.validate

WHOLE = [
    "-".join(["plain", *filter(None, levels)])
    for levels in product(*{**MATRIX, "mode": ["", "compiled:inductor"]}.values())
]


@pytest.mark.parametrize("case", WHOLE)
def test_parameters_and_streams_are_equal_with_and_without_recording(tmp_path: Path, case: str) -> None:
    neutral(tmp_path, case)
