"""What replaying costs: a whole study by the command, against training every arm from scratch, and against the steps.

    python benchmarks/replay.py             about five minutes on two cores
    python benchmarks/replay.py --quick     only to see that it runs; its cells are far too short to say anything

A training of 0.27 million parameters (a perceptron, SGD with momentum, one torch thread, some 10 ms a step) is
recorded for K + H steps and forked after step K, where an anchor stands. ``memaudit replay`` runs carry and two arms
for each unit, a noise floor, and the gate and the repeated carry on top, ``--jobs`` cells at a time. Against its wall
time stand

- *from scratch*: for each unit and arm of the study (carry and the noise floor are arms) a new interpreter that trains
  K + H steps without recording anything (``MEMAUDIT=off``), with a change by hand after step K, measures the probe at
  the end, and runs beside as many others as the study had jobs. All take the same steps, so only ``--sample`` of them
  are timed, in full rounds, and multiplied. The gate and the repeated carry have no counterpart among them;
- *ideal*: the steps of all cells of the study, the gate's and those from the anchor to the fork too, times what a step
  of the same loop takes in a process that is under way (``MEMAUDIT=off``, drawing the batch included, as many
  processes at a time as the study had jobs), over the jobs. It is timed before and after the study; the shorter one
  counts, so other work on the machine makes the study look worse and never better.

Start-up of a cell runs from the birth of its process, which the kernel tells in hundredths of a second, to the first
step after the fork, less the steps on the way there at the ideal's pace. Everything is read off clocks that the
training prints itself: before each forward pass and after each update. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_LINE = time.monotonic()
ARMS = {"optimizer.momentum_buffer=reset": 0.0, "optimizer.momentum_buffer=scale,factor=0.5": 0.5}
"""The arms, and by what each multiplies the momentum."""
WITHIN, START_UP, SHARE = 1.15, 0.3, 0.8
"""What is wanted: study to ideal, seconds of start-up, and the share of (K + H) / H by which from scratch is slower."""
UNEVEN = 0.1
"""By which share the two timings of the steps may differ."""


@dataclass(frozen=True)
class Size:
    """How much is done."""

    fork: int
    horizon: int
    units: int
    a_pass: int
    """Batches of a pass; the fork is at the start of one."""
    batch: int
    sample: int
    """How many trainings from scratch are timed."""
    jobs: int

    @property
    def steps(self) -> int:
        """What a training from scratch takes."""
        return self.fork + self.horizon


FULL = Size(fork=2000, horizon=1000, units=8, a_pass=100, batch=512, sample=4, jobs=2)
QUICK = Size(fork=20, horizon=20, units=2, a_pass=10, batch=16, sample=2, jobs=2)


def train(size: Size, steps: int, factor: float | None) -> None:
    """Train in this process, and print its clocks; ``factor`` multiplies the momentum after the fork."""
    import torch
    from torch import nn

    import auditor

    torch.set_num_threads(1)
    clocks: list[float] = []
    with auditor.record("run", seed=0) as run:
        model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
        samples = size.a_pass * size.batch
        data = torch.utils.data.TensorDataset(torch.randn(samples, 256), torch.randint(0, 10, (samples,)))
        loader = torch.utils.data.DataLoader(data, batch_size=size.batch, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        held_out = torch.randn(512, 256), torch.randint(0, 10, (512,))
        run.watch(model=model, optimizer=optimizer)
        run.probe(model, held_out[0], targets=held_out[1])
        try:
            for epoch in run.epochs(steps // size.a_pass):
                if factor is not None and epoch * size.a_pass == size.fork:
                    for state in optimizer.state.values():
                        state["momentum_buffer"].mul_(factor)
                for inputs, targets in run.batches(loader):
                    clocks.append(time.monotonic())
                    loss = nn.functional.cross_entropy(model(inputs), targets)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    clocks.append(time.monotonic())
                    run.step(loss=loss)
            with torch.no_grad():
                nn.functional.cross_entropy(model(held_out[0]), held_out[1]).item()
        finally:
            told = {"born": born(), "first_line": FIRST_LINE, "clocks": clocks, "left": time.monotonic()}
            print(json.dumps(told), flush=True)


def born() -> float:
    """Return when this process was born, on the clock of ``time.monotonic``, to a hundredth of a second."""
    # proc(5): field 22 counts ticks since the machine's start; the name before it may hold spaces.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


@dataclass(frozen=True)
class Clocks:
    """What one training printed; seconds."""

    born: float
    first_line: float
    clocks: list[float]
    left: float

    @classmethod
    def read(cls, text: str) -> Clocks:
        """Return the clocks in a training's output."""
        return cls(**json.loads(next(line for line in text.splitlines() if line.startswith('{"born"'))))

    @property
    def begins(self) -> list[float]:
        """When each step began."""
        return self.clocks[0::2]

    @property
    def updated(self) -> list[float]:
        """When each step's update was done."""
        return self.clocks[1::2]


@dataclass(frozen=True)
class Spent:
    """Where the seconds of one cell went."""

    start_up: float
    to_first_line: float
    """Of the start-up: from the birth to the program's first line."""
    steps: float
    """From the first step after the fork to the last update: forward, backward, update."""
    between: float
    """Between those: the next batch, digests, the trace."""
    closing: float
    """From the last update to the program's end: outcomes, results."""
    on_the_way: float
    """The steps to the fork."""

    @classmethod
    def of(cls, clocks: Clocks, horizon: int, step: float) -> Spent:
        """Divide a cell's seconds; ``step`` is the ideal's pace."""
        first = clocks.begins[-horizon]
        # A process that was forked on the way has its parent's clocks as well.
        on_the_way = sum(begin >= clocks.born for begin in clocks.begins[:-horizon]) * step
        steps = sum(clocks.updated[-horizon:]) - sum(clocks.begins[-horizon:])
        return cls(
            first - clocks.born - on_the_way,
            clocks.first_line - clocks.born,
            steps,
            clocks.updated[-1] - first - steps,
            clocks.left - clocks.updated[-1],
            on_the_way,
        )


def child(size: Size, steps: int, factor: float | None = None) -> list[str]:
    """Return the command of one training."""
    words = ["train", json.dumps([getattr(size, name) for name in Size.__dataclass_fields__]), steps]
    return [sys.executable, str(Path(__file__).resolve()), "--child", *map(str, [*words, json.dumps(factor)])]


def off(commands: Sequence[list[str]], jobs: int, folder: Path) -> tuple[float, list[Clocks]]:
    """Run trainings without recording, ``jobs`` at a time; return their wall seconds together and their clocks."""
    environment = {**os.environ, "MEMAUDIT": "off"}

    def run(command: list[str]) -> Clocks:
        answer = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=900
        )
        return Clocks.read(answer.stdout)

    begin = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        clocks = list(pool.map(run, commands))
    return time.monotonic() - begin, clocks


@dataclass(frozen=True)
class Pace:
    """Seconds of a step in processes that are under way, as many at a time as there are jobs."""

    update: float
    """Forward, backward, update."""
    between: float
    """From there to the next forward pass: drawing the batch."""

    @classmethod
    def of(cls, size: Size, folder: Path) -> Pace:
        """Measure it; the first pass is not counted."""
        steps = max(size.horizon // 2 // size.a_pass, 1) * size.a_pass
        _, told = off([child(size, size.a_pass + steps)] * size.jobs, size.jobs, folder)
        update = statistics.mean((sum(each.updated[-steps:]) - sum(each.begins[-steps:])) / steps for each in told)
        whole = statistics.mean((each.begins[-1] - each.begins[-steps]) / (steps - 1) for each in told)
        return cls(update, whole - update)

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.update + self.between


def memaudit(folder: Path, *words: object) -> tuple[float, str]:
    """Run the command; return its wall seconds and what it printed."""
    command = [sys.executable, "-m", "auditor.cli.main", *map(str, words)]
    begin = time.monotonic()
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    seconds = time.monotonic() - begin
    if answer.returncode != 0:
        raise SystemExit(f"memaudit {words[0]} ended with {answer.returncode}:\n{answer.stderr}")
    return seconds, answer.stdout


def study_of(size: Size, folder: Path, reach: str | None) -> tuple[float, float, list[tuple[dict[str, Any], Clocks]]]:
    """Run the study; return when it began and ended, and each cell's description and clocks."""
    arms = [word for arm in ARMS for word in ("--do", arm)]
    words = ["--at", size.fork, *arms, "--horizon", size.horizon, "--seeds", size.units, "--jobs", size.jobs]
    ways = [] if reach is None else ["--reach", reach]
    begin = time.monotonic()
    memaudit(folder, "replay", "run", *words, *ways, "--out", "study", "--trust-code", "--json")
    end = time.monotonic()
    cells = []
    for path in sorted((folder / "study" / "cells").iterdir()):
        description = json.loads((path / "cell.json").read_text())
        cells.append((description, Clocks.read((path / "log.txt").read_text())))
    return begin, end, cells


def row(*cells: object) -> None:
    """Print a table's row."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def compare(size: Size, reach: str | None, folder: Path) -> None:
    """Run everything and print the tables."""
    recording, _ = memaudit(folder, "record", "--out", "run", "--", *child(size, size.steps))
    before = Pace.of(size, folder)
    begin, end, cells = study_of(size, folder, reach)
    after = Pace.of(size, folder)
    best = min(before, after, key=lambda each: each.step)
    sampled = [None, *ARMS.values()]
    commands = [child(size, size.steps, sampled[place % len(sampled)]) for place in range(size.sample)]
    timed, _ = off(commands, size.jobs, folder)

    wall = end - begin
    spent = [Spent.of(clocks, size.horizon, best.step) for _, clocks in cells]
    ideal = (sum(each.on_the_way for each in spent) + len(cells) * size.horizon * best.step) / size.jobs
    trainings = sum(cell["unit"] is not None and not cell["repeat"] for cell, _ in cells)
    scratch = timed * trainings / size.sample
    lived = [clocks.left - clocks.born for _, clocks in cells]
    first, last = min(clocks.born for _, clocks in cells), max(clocks.left for _, clocks in cells)
    print(
        f"K = {size.fork}, H = {size.horizon}; {size.units} units of carry and {len(ARMS)} arms; {len(cells)} cells of "
        f"{statistics.median(lived):.1f} s, {size.jobs} jobs of one thread.\n"
        f"A step took {1000 * before.step:.2f} ms before the study and {1000 * after.step:.2f} ms after it; "
        f"recording {recording:.0f} s.\n"
    )
    if abs(before.step - after.step) > UNEVEN * best.step:
        print("**The machine did other work meanwhile: these figures say nothing.**\n")
    row("way", "seconds", "to the ideal", "to the study")
    row("---", "---", "---", "---")
    ways = {
        "ideal": ideal,
        "`memaudit replay`": wall,
        f"from scratch ({trainings}, {size.sample} of them timed)": scratch,
    }
    for way, seconds in ways.items():
        row(way, f"{seconds:.1f}", f"{seconds / ideal:.2f}", f"{seconds / wall:.2f}")
    print()
    row("target", "wanted", "found", "met")
    row("---", "---", "---", "---")
    start_ups = [each.start_up for each in spent]
    wanted = SHARE * size.steps / size.horizon
    long_enough = "" if statistics.median(lived) >= 10 else " (cells are under 10 s)"
    row("study to ideal", f"at most {WITHIN}", f"{wall / ideal:.3f}", _met(wall / ideal <= WITHIN) + long_enough)
    found = f"{statistics.mean(start_ups):.2f} s on average, {max(start_ups):.2f} s at most"
    row("start-up of a cell", f"under {START_UP} s", found, _met(statistics.mean(start_ups) < START_UP))
    row("from scratch to study", f"at least {wanted:.2f}", f"{scratch / wall:.2f}", _met(scratch / wall >= wanted))
    print()
    row("where the study's time went", "seconds of a job", "in the ideal", "share of jobs times wall time")
    row("---", "---", "---", "---")
    whole = size.jobs * wall
    on_the_way = sum(each.on_the_way for each in spent)
    after_fork = len(cells) * size.horizon
    parts = {
        "forward, backward, update after the fork": (sum(each.steps for each in spent), after_fork * best.update),
        "between updates: batches; digests, trace": (sum(each.between for each in spent), after_fork * best.between),
        "steps on the way to the fork": (on_the_way, on_the_way),
        "start-up: to the program's first line": (sum(each.to_first_line for each in spent), 0.0),
        "start-up: the program's own, and the anchor": (sum(each.start_up - each.to_first_line for each in spent), 0.0),
        "outcomes and results": (sum(each.closing for each in spent), 0.0),
        "before the first cell and after the last": (size.jobs * (first - begin + end - last), 0.0),
        "jobs without a cell in between": (size.jobs * (last - first) - sum(lived), 0.0),
    }
    for part, (seconds, at_best) in parts.items():
        row(part, f"{seconds:.1f}", f"{at_best:.1f}", f"{100 * seconds / whole:.1f} %")
    together, at_best = (sum(each) for each in zip(*parts.values(), strict=True))
    row("together", f"{together:.1f}", f"{at_best:.1f}", f"{100 * together / whole:.1f} %")


def _met(holds: bool) -> str:
    return "yes" if holds else "no"


def main() -> None:
    """Measure, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--units", type=int, help="how many units")
    parser.add_argument("--jobs", type=int, help="cells at a time, and processes at a time elsewhere")
    parser.add_argument("--sample", type=int, help="how many of the trainings from scratch are timed")
    parser.add_argument("--reach", help="handed on to memaudit replay")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        _, size, steps, factor = options.child
        train(Size(*json.loads(size)), int(steps), json.loads(factor))
        return
    begin = time.monotonic()
    size = QUICK if options.quick else FULL
    changed = {name: getattr(options, name) for name in ("units", "jobs", "sample") if getattr(options, name)}
    size = Size(**{**{name: getattr(size, name) for name in Size.__dataclass_fields__}, **changed})
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MEMAUDIT_HOME", f"{folder}/home")
        compare(size, options.reach, Path(folder))
    print(f"\n{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
