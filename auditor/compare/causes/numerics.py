"""The same mathematics in other arithmetic: threads, instruction set, fused kernels, TF32, another library."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.beside import CENSUS, NUMERICS, Row
from auditor.compare.situation import LIKELY, POSSIBLE, Cause, Situation, pair_of

_KERNELS = frozenset({"fused", "foreach", "capturable", "differentiable"})
_LIBRARIES = frozenset({"python", "torch", "numpy", "package torch", "package numpy"})
_TOLD = 8


def is_kernel_choice(name: str) -> bool:
    """Say whether a hyper-parameter only chooses among kernels for the same update."""
    return name.startswith("hyper") and name.rpartition(".")[2] in _KERNELS


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause if what must be equal for equal bits is not, as far as that fits where the runs parted."""
    rows = [
        row for row in situation.of_group(NUMERICS) if not row.name.startswith("package ") or row.name in _LIBRARIES
    ]
    kernels = [each for each in situation.early("hyper") if is_kernel_choice(each.name)]
    only = [row for row in situation.of_group(CENSUS) if is_kernel_choice(row.name)]
    evidence = [*map(pair_of, rows), *map(pair_of, only), *(f"{each.name} differs" for each in kernels)]
    parted = situation.computed or situation.first
    if not evidence or parted is None or parted.kind == "end":
        return
    given = [name for name in situation.given() if not is_kernel_choice(name)]
    if given and not _may_draw_otherwise(rows):
        return
    confidence = POSSIBLE if given or situation.is_rounding is False else LIKELY
    size = (str(situation.size),) if situation.size is not None and not given else ()
    yield Cause("numerics", confidence, (*evidence[:_TOLD], *size), parted.name, parted.step)


def _may_draw_otherwise(rows: list[Row]) -> bool:
    """Another version of a library may draw other numbers from equal streams."""
    return any(row.name in _LIBRARIES for row in rows)
