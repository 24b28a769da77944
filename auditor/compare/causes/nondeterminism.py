"""The same program, numerics class and inputs, and other outputs: a kernel that does not repeat itself."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.compare.beside import NUMERICS
from auditor.compare.causes.program import changes
from auditor.compare.situation import LIKELY, POSSIBLE, Cause, Situation


def find(situation: Situation) -> Iterator[Cause]:
    """Yield one cause if all that went into the step agrees and what it computed does not."""
    parted = situation.computed
    if parted is None or parted.at == "start" or situation.given() or not all(parted.moved):
        return
    environment = situation.walk.a.environment.get("numerics", {})
    if not environment or any(row.name.partition(" (")[0] in environment for row in situation.of_group(NUMERICS)):
        return
    same_program = not changes(situation)
    if not same_program and not situation.is_rounding:
        return
    evidence = [
        f"up to step {parted.step} all that goes into {parted.name} agrees: streams, sample ids, batches, "
        "hyper-parameters, the state before",
        "both began in the same numerics class",
    ]
    if same_program:
        evidence.append("both ran the same program with the same arguments")
        evidence.append("not recorded are environment variables, files that are read, and the clock")
    if situation.size is not None:
        evidence.append(f"{situation.size}" + (": the size of rounding" if situation.is_rounding else ""))
    if environment.get("deterministic_algorithms") is False:
        evidence.append("torch.use_deterministic_algorithms was off")
    confidence = LIKELY if same_program and situation.is_rounding is not False else POSSIBLE
    yield Cause("nondeterminism", confidence, tuple(evidence), parted.name, parted.step)
