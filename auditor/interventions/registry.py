"""Which class answers to which source and action."""

from __future__ import annotations

from typing import Any

from auditor.artifact.intervention_table import complete, external, kind_of
from auditor.errors import MemauditError
from auditor.interventions.intervention import Intervention
from auditor.interventions.optimizer import ResetOptimizer

REGISTRY: dict[tuple[str, str], type[Intervention]] = {("optimizer", "reset"): ResetOptimizer}
"""The class of every intervention in the table (a test keeps the two equal)."""


def make(description: dict[str, Any]) -> Intervention:
    """Return the intervention that a plan describes: ``{"source": …, "do": …}`` and its arguments.

    Raises
    ------
    MemauditError
        If there is none for this source and action, an argument is not one of its own, or a package's entry point does
        not lead to an intervention.
    """
    completed = complete(description, "the cell's description")
    key = kind_of(completed["source"]), completed["do"]
    return REGISTRY[key](completed) if key in REGISTRY else _external(key)(completed)


def _external(key: tuple[str, str]) -> type[Intervention]:
    point = external()[key]
    try:
        found = point.load()
    except Exception as error:
        raise MemauditError(
            f"the intervention {point.name} cannot be loaded",
            where=point.value,
            why=f"{type(error).__name__}: {error}",
            next_step="mend or remove the package that brings it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Intervention)):
        raise MemauditError(
            f"the entry point {point.name} leads to no intervention",
            where=point.value,
            next_step="derive from auditor.interventions.intervention.Intervention",
        )
    return found
