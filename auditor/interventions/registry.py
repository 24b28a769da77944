"""Which class answers to which source and action."""

from __future__ import annotations

from typing import Any

from auditor.artifact.intervention_table import complete, external, kind_of
from auditor.errors import MemauditError
from auditor.interventions.augment import AugmentOff, AugmentRekey, AugmentStage
from auditor.interventions.averages import BecomeStudent, SetDecay
from auditor.interventions.batchnorm import RecalibrateBatchNorm, ResetBatchNorm
from auditor.interventions.exchange import CommonBuffer, SwapBuffer
from auditor.interventions.freeze import Freeze
from auditor.interventions.hyper import SetHyper
from auditor.interventions.intervention import Intervention
from auditor.interventions.optimizer import ResetOptimizer, ScaleOptimizer
from auditor.interventions.order import OrderPolicy, ReverseWindow, ShuffleWindow, SwapWindows
from auditor.interventions.params import JitterParams
from auditor.interventions.queue import AgeQueue, FlushQueue, ShuffleQueue, TruncateQueue
from auditor.interventions.schedule import HoldScaler, HoldSchedule, ResetScaler, ResetSchedule
from auditor.interventions.stream import RekeyStream
from auditor.interventions.teacher import LagTeacher

REGISTRY: dict[tuple[str, str], type[Intervention]] = {
    ("params", "jitter"): JitterParams,
    ("optimizer", "reset"): ResetOptimizer,
    ("optimizer", "scale"): ScaleOptimizer,
    ("optimizer", "swap"): SwapBuffer,
    ("optimizer", "common"): CommonBuffer,
    ("hyper", "set"): SetHyper,
    ("scheduler", "reset"): ResetSchedule,
    ("scheduler", "hold"): HoldSchedule,
    ("scaler", "reset"): ResetScaler,
    ("scaler", "hold"): HoldScaler,
    ("stream", "rekey"): RekeyStream,
    ("bn", "reset"): ResetBatchNorm,
    ("bn", "freeze"): Freeze,
    ("bn", "recalibrate"): RecalibrateBatchNorm,
    ("ema", "reset"): BecomeStudent,
    ("ema", "freeze"): Freeze,
    ("ema", "decay"): SetDecay,
    ("swa", "reset"): BecomeStudent,
    ("swa", "freeze"): Freeze,
    ("teacher", "resync"): BecomeStudent,
    ("teacher", "freeze"): Freeze,
    ("teacher", "decay"): SetDecay,
    ("teacher", "lag"): LagTeacher,
    ("queue", "flush"): FlushQueue,
    ("queue", "shuffle"): ShuffleQueue,
    ("queue", "age"): AgeQueue,
    ("queue", "truncate"): TruncateQueue,
    ("augment", "off"): AugmentOff,
    ("augment", "stage"): AugmentStage,
    ("augment", "rekey"): AugmentRekey,
    ("order", "swap"): SwapWindows,
    ("order", "reverse"): ReverseWindow,
    ("order", "shuffle"): ShuffleWindow,
    ("order", "policy"): OrderPolicy,
}
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
