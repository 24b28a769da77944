"""The plan's table of interventions, which knows no torch, says what the other wing can do."""

from __future__ import annotations

from auditor.interventions.registry import _REGISTRY
from auditor.replay.plan import INTERVENTIONS


def test_the_table_equals_the_registry() -> None:
    registered = {key: factory.parameters for key, factory in _REGISTRY.items()}  # type: ignore[attr-defined]
    assert registered == INTERVENTIONS
