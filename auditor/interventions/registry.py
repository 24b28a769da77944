"""Which intervention answers to which source and action."""

from __future__ import annotations

from typing import Any

from auditor.errors import MemauditError
from auditor.interventions.intervention import Factory, Intervention
from auditor.interventions.optimizer import ResetOptimizer

_REGISTRY: dict[tuple[str, str], Factory] = {("optimizer", "reset"): ResetOptimizer}


def make(description: dict[str, Any]) -> Intervention:
    """Return the intervention that a plan describes: ``{"source": …, "do": …}`` and its arguments.

    Raises
    ------
    MemauditError
        If there is none for this source and action, or an argument is not one of its own.
    """
    source, action = description["source"], description["do"]
    kind = source.partition(".")[0].partition("[")[0]
    factory = _REGISTRY.get((kind, action))
    if factory is None:
        known = ", ".join(f"{other}={name}" for other, name in sorted(_REGISTRY))
        raise MemauditError(
            f"there is no intervention {action!r} on {source!r}", next_step=f"there are: {known} (and SOURCE.slot)"
        )
    return factory(source, {key: value for key, value in description.items() if key not in ("source", "do")})
