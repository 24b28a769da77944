"""What a study would cost and could detect, said before anything runs."""

from __future__ import annotations

from auditor.artifact import run_directory
from auditor.causal.power import detectable
from auditor.findings.formats.text import count, escape
from auditor.replay.fork import Fork
from auditor.replay.plan import Execution
from auditor.replay.study import Study

_FLOAT64 = 8


def cost_lines(study: Study, execution: Execution) -> list[str]:
    """Return the lines that tell forks and ways, arms, cells, CPU time, disk and the detectable effect."""
    plan = study.plan
    several = len({fork.run.path for fork in study.forks}) > 1
    lines = []
    for fork in study.forks:
        reached = fork.reached
        of = f" of {fork.run.path}" if several else ""
        start = "the program's start" if reached.anchor is None else str(reached.anchor["path"])
        lines.append(f"fork      after step {fork.at}{of}; horizons {', '.join(map(str, plan.horizons))}")
        lines.append(f"reach     {reached.way}, from {start}" + _shared(fork))
        lines += [f"          not {way}: {reason}" for way, reason in reached.refused]
    cells = sum(len(fork.cells.all()) for fork in study.forks)
    steps = sum(fork.steps * len(fork.cells.all()) + fork.trunk_steps for fork in study.forks)
    arms = [arm.name for arm in plan.arms]
    limits = [f"{execution.timeout:g} s a cell"] if execution.timeout is not None else []
    limits += [f"{execution.memory / 2**20:,.0f} MiB a cell"] if execution.memory is not None else []
    lines += [
        f"arms      carry; {'; '.join(arms) or '(no other)'}",
        f"cells     {cells}: {count(len(plan.seeds), 'unit')}, the gate, carry once more, and the floor of 1 ulp; "
        f"{count(steps, 'step')} in all",
        f"CPU time  about {max(_seconds(study), 1):,.0f} s of steps, and each cell's start-up"
        + (f"; at most {' and '.join(limits)}" if limits else ""),
        f"disk      {_disk(study)}",
        _power(study),
    ]
    return [escape(line) for line in lines]


def _shared(fork: Fork) -> str:
    """Say what the way costs each cell."""
    if fork.reached.way == "fork":
        return f"; {count(fork.trunk_steps, 'step')} once for all cells, {count(fork.steps, 'step')} a cell"
    return f"; {count(fork.steps, 'step')} a cell"


def _seconds(study: Study) -> float:
    """Seconds of pure steps, at the speed of the recordings."""
    total = 0.0
    for fork in study.forks:
        predicate = fork.run.predicate or {}
        seconds = (predicate.get("seconds") or 0.0) / max(predicate.get("steps") or 0, 1)
        total += seconds * (fork.steps * len(fork.cells.all()) + fork.trunk_steps)
    return total


def _disk(study: Study) -> str:
    traces, samples = 0.0, 0
    for fork in study.forks:
        recorded = len(fork.run.inventory.open(run_directory.TRACE).data) / max(fork.run.history.step, 1)
        rolled = fork.at + fork.plan.last - fork.reached.begins
        traces += recorded * rolled * len(fork.cells.all())
        sizes = [probe["size"] or 0 for probe in fork.run.probes.values() if probe["kind"] == "classification"]
        samples += sum(sizes) * len(fork.plan.horizons) * len(fork.cells.all())
    told = f"about {traces / 2**20:,.1f} MiB of traces"
    if samples:
        told += f", and {samples * _FLOAT64 / 2**20:,.1f} MiB of predictions for each class of the probes"
    return told


def _power(study: Study) -> str:
    units = len(study.plan.seeds)
    looks = len(study.plan.look_units)
    smallest = detectable(units, level=1.0 - (1.0 - study.plan.level) / looks)
    if smallest is None:
        return "power     one unit is too few to detect anything"
    return (
        f"power     {count(units, 'unit')} detect a difference of {smallest:.2f} standard deviations of the paired "
        f"differences (power .8, level {study.plan.level:g}" + (f" split among {looks} looks)" if looks > 1 else ")")
    )
