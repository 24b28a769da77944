"""The order in which one step's memory acts: what comes earlier can be the cause of what comes later, not its effect.

Streams are drawn from, the order follows, then the batch; hyper-parameters and schedules steer the optimizer, the
optimizer changes the parameters; averages, statistics and queues follow them; outcomes are measured last.
"""

from __future__ import annotations

from collections.abc import Mapping

IDS, BATCH, LOSS, OUTCOME, END = "ids", "batch", "loss", "outcome", "(end)"
"""What parts that is no memory source: sample ids, their content, the loss, what was measured (``outcome``, and
``outcome.PROBE`` for each probe), and a run that stops before the other."""
STREAM = "stream."
"""What stands before the names of streams."""

_KINDS = (
    *("stream", "order", "ids", "augment", "batch"),
    *("scheduler", "scaler", "hyper", "optimizer", "params"),
    *("ema", "swa", "teacher", "bn", "buffers", "queue", "other"),
    *("loss", "outcome", "end"),
)
_RANK = {kind: rank for rank, kind in enumerate(_KINDS)}
COMPUTED = frozenset({"optimizer", "params", "ema", "swa", "teacher", "bn", "buffers", "queue", "loss", "outcome"})
"""The kinds that a step computes from what stands before them in this order."""
STATE = COMPUTED - {"loss", "outcome"}
"""Those of them that a step hands on to the next."""


def kind_of(name: str, kinds: Mapping[str, str]) -> str:
    """Return the kind of what parts; ``kinds`` maps memory sources to the kinds in the census."""
    return kinds.get(name) or kind_by_name(name)


def kind_by_name(name: str) -> str:
    """Return the kind of what parts by its name alone, which begins with the kind (design, section 5)."""
    kind = "end" if name == END else name.partition(".")[0].partition("[")[0]
    return kind if kind in _RANK else "other"


def rank(kind: str) -> int:
    """Return where a kind stands in the causal order, from 0; kinds that nobody knows stand with ``other``."""
    return _RANK.get(kind, _RANK["other"])
