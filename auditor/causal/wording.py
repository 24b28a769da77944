"""A row of an estimate in plain English: what was done, to what effect, and how sure one can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

#: Interventions as the beginning of a sentence; `{}` is the memory source.
PHRASES = {
    "reset": "Resetting {}",
    "scale": "Scaling {}",
    "swap": "Swapping {}",
    "common": "Giving both branches the same {}",
    "freeze": "Freezing {}",
    "decay": "Changing the decay of {}",
    "recalibrate": "Recalibrating {}",
    "resync": "Resynchronising {}",
    "lag": "Delaying {}",
    "flush": "Flushing {}",
    "shuffle": "Shuffling {}",
    "age": "Ageing {}",
    "truncate": "Truncating {}",
    "reverse": "Reversing {}",
    "policy": "Changing the policy of {}",
    "rekey": "Re-keying {}",
    "hold": "Holding {}",
    "set": "Setting {}",
    "stage": "Moving the stage of {}",
    "off": "Switching off {}",
    "jitter": "Jittering {}",
    "carry": "Carrying {}",
}

#: The distances' names in a sentence.
DISTANCE_WORDS = {"tv": "total variation", "disagreement": "disagreement"}


def number(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, without needless zeros."""
    return f"{value:.{digits}g}"


def interval_text(estimate: float, interval: tuple[float, float] | None) -> str:
    """Estimate and interval to the same number of decimals: "0.013 [0.009, 0.017]"."""
    if interval is None:
        return number(estimate)
    width = interval[1] - interval[0]
    size = max(abs(estimate), abs(interval[0]), abs(interval[1]))
    if not (math.isfinite(width) and width > 0.0) or size >= 1e6 or size < 1e-4:
        return f"{number(estimate)} [{number(interval[0])}, {number(interval[1])}]"
    # Two significant digits of the interval's width say all that the estimate knows.
    decimals = min(12, max(0, 1 - math.floor(math.log10(width))))
    rounded = [round(v, decimals) + 0.0 for v in (estimate, *interval)]  # + 0.0 turns -0.0 into 0.0
    return "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*rounded, decimals)


def p_text(value: float) -> str:
    """A p-value with two significant digits at most: "0.0002", "0.31"."""
    return f"{value:.4f}" if value < 0.001 and value >= 0.0001 else number(value, 2)


def intervention_text(do: Sequence[Mapping[str, object]]) -> str:
    """An arm's interventions as the beginning of a sentence.

    Each is `{source, do, …arguments}` as in a plan; several are joined with "and".
    """
    parts = []
    for one in do:
        source, action = str(one.get("source", "")), str(one.get("do", ""))
        phrase = PHRASES.get(action, f"Applying {action} to {{}}").replace("{}", source)
        arguments = ", ".join(f"{key}={one[key]}" for key in sorted(one) if key not in ("source", "do"))
        parts.append(f"{phrase} ({arguments})" if arguments else phrase)
    if not parts:
        return "Changing nothing"
    return " and ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])


def units_text(count: int, conditional: str) -> str:
    """ "20 units, conditional on this anchor"."""
    return f"{count} unit{'' if count == 1 else 's'}{', ' + conditional if conditional else ''}"


def steps_text(horizon: int) -> str:
    """When the outcome was measured: "100 steps later", "at once"."""
    return "at once" if horizon == 0 else f"{horizon} step{'' if horizon == 1 else 's'} later"
