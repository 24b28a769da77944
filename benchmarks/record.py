"""What recording costs: whole trainings, each a process of its own, as ratios within one run; and bytes a trace line.

    python benchmarks/record.py                       all trainings, about a quarter of an hour on two cores
    python benchmarks/record.py --quick               a look, in about two minutes
    python benchmarks/record.py --only large --rounds 3

Every training is run six ways in every round: not recorded, twice (``off`` and ``off again``: the A/A pair shows what
this machine's noise alone makes of a ratio); recorded at the default setting, full state digested at every step; and
with ``MEMAUDIT=off`` and, by hand at every step, what people do today: SHA-256 of the full state, ``torch.save`` of it
into memory, or DebugMode's hash of every operation's output. The order turns from round to round.

Seconds run from the line before ``auditor.record`` to the end of the process: imports and data are left out; closing,
signing and what is still being written are in. Peak memory is the largest resident set of the process. A ratio compares
a way with the geometric mean of its round's two ``off`` trainings (``off again``: with ``off``). Shown is the geometric
mean over the rounds with a 95% percentile bootstrap interval over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WAYS = ("off", "off again", "recorded", "SHA-256", "torch.save", "DebugMode")
STEPS = {"mlp": 1000, "cnn": 1000, "large": 60}
QUICK_STEPS = {"mlp": 200, "cnn": 200, "large": 12}
RESAMPLES = 10_000


@dataclass
class Training:
    """One training, ready to begin."""

    modules: dict[str, torch.nn.Module]
    optimizer: torch.optim.Optimizer
    batches: torch.utils.data.DataLoader[Any]
    others: dict[str, Any] = field(default_factory=dict)
    """What else is watched, by keyword."""
    after_step: Callable[[], None] = lambda: None
    """What the loop does after the optimizer stepped."""


def mlp() -> Training:
    """0.27 million parameters, SGD with momentum, one thread: a step of about 5 ms."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    data = torch.utils.data.TensorDataset(torch.randn(128 * 100, 256), torch.randint(0, 10, (128 * 100,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return Training({"model": model}, optimizer, torch.utils.data.DataLoader(data, batch_size=128, shuffle=True))


def cnn() -> Training:
    """The training of examples/digits.py: BatchNorm, a mean teacher, a schedule, augmentation; one thread."""
    import copy

    import torch

    sys.path.insert(0, str(EXAMPLES))
    import digits

    torch.set_num_threads(1)
    images, labels, _, _ = digits.split()
    model = digits.build_model()
    teacher = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)

    def after_step() -> None:
        scheduler.step()
        digits.follow(teacher, model, decay=0.95)

    loader = torch.utils.data.DataLoader(digits.Digits(images, labels), batch_size=64, shuffle=True)
    return Training({"model": model, "teacher": teacher}, optimizer, loader, {"scheduler": scheduler}, after_step)


def large() -> Training:
    """6.3 million parameters and Adam, so 76 MB of state in tensors of up to 17 MB; torch's own number of threads."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))
    data = torch.utils.data.TensorDataset(torch.randn(128 * 20, 1024), torch.randint(0, 10, (128 * 20,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    return Training({"model": model}, optimizer, torch.utils.data.DataLoader(data, batch_size=128, shuffle=True))


def lines() -> Training:
    """A dozen sources and eight streams that all change at every step: what a line of the trace may take."""
    import copy

    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    made = cnn()
    model = made.modules["model"]
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    swa = AveragedModel(model, use_buffers=True)
    teacher = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
    queue = torch.zeros(256, 10)
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    own = np.random.default_rng(3)
    data = made.batches.dataset
    sampler = torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(4))
    loader = torch.utils.data.DataLoader(
        data, batch_size=64, sampler=sampler, generator=torch.Generator().manual_seed(5)
    )

    def after_step() -> None:
        scheduler.step()
        ema.update_parameters(model)
        swa.update_parameters(model)
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        scaler.scale(torch.ones(1, requires_grad=True)).sum().backward()
        scaler._scale.mul_(1.0 + random.random() + np.random.random())  # type: ignore[union-attr]  # noqa: S311
        queue.copy_(torch.randn(256, 10, generator=first) + torch.randn(1, generator=second) + own.random())

    others = {"scheduler": scheduler, "scaler": scaler, "queue": queue, "one": first, "two": second, "numbers": own}
    modules = {"model": model, "ema": ema, "swa": swa, "teacher": teacher}
    return Training(modules, optimizer, loader, others, after_step)


TRAININGS: dict[str, Callable[[], Training]] = {"mlp": mlp, "cnn": cnn, "large": large, "lines": lines}


def by_hand(way: str, training: Training) -> Callable[[], object]:
    """Return what a training does about its state after each step instead of recording it."""
    import torch

    def state() -> dict[str, Any]:
        modules = {name: module.state_dict() for name, module in training.modules.items()}
        return {**modules, "optimizer": training.optimizer.state_dict()}

    def sha256() -> str:
        sha = hashlib.sha256()
        everything = state()
        for tensors in [*everything.values(), *everything["optimizer"]["state"].values()]:
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor):
                    sha.update(str(name).encode())
                    sha.update(tensor.reshape(-1).numpy())
        return sha.hexdigest()

    def save() -> int:
        memory = io.BytesIO()
        torch.save(state(), memory)
        return memory.tell()

    return {"SHA-256": sha256, "torch.save": save}.get(way, lambda: None)


@contextlib.contextmanager
def watching(way: str) -> Any:
    """Hash the output of every operation inside, with DebugMode; anew at each step, or its log would only grow."""
    if way != "DebugMode":
        yield
        return
    from torch.utils._debug_mode import DebugMode

    with DebugMode(), DebugMode.log_tensor_hashes(hash_fn="hash_tensor"):
        yield


def train(name: str, way: str, steps: int) -> None:
    """Train in this process; print when it began, on the clock that all processes share, and its peak memory in KiB."""
    import torch

    torch.manual_seed(0)
    training = TRAININGS[name]()
    keep = by_hand(way, training)
    model = training.modules["model"]
    print(time.monotonic(), flush=True)

    import auditor

    with auditor.record("run", seed=0) as run:
        run.watch(**training.modules, optimizer=training.optimizer, **training.others)
        taken = 0
        for _ in run.epochs(-(-steps // len(training.batches))):
            for inputs, targets in run.batches(training.batches):
                with watching(way):
                    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                    training.optimizer.zero_grad()
                    loss.backward()
                    training.optimizer.step()
                    training.after_step()
                keep()
                run.step(loss=loss)
                taken += 1
                if taken == steps:
                    break
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def once(name: str, way: str, steps: int, folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MiB of one training in a new process."""
    environment = {"MEMAUDIT_HOME": str(folder.parent / "home"), **os.environ}
    if way != "recorded":
        environment["MEMAUDIT"] = "off"
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, way, str(steps)]
    answer = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    ended = time.monotonic()
    began, kibibytes = answer.stdout.split()
    if way == "recorded" and not (folder / "run" / "manifest.json").exists():
        raise SystemExit(f"{name}: the recording stopped on the way, so its time means nothing; see above")
    return ended - float(began), int(kibibytes) / 1024


def interval(logarithms: list[float]) -> str:
    """Return the geometric mean with its 95% percentile bootstrap interval over the rounds."""
    values = np.asarray(logarithms)
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.exp(np.percentile(values[draws].mean(axis=1), [2.5, 97.5]))
    return f"{np.exp(values.mean()):.3f} [{low:.3f}, {high:.3f}]"


def compare(name: str, rounds: int, steps: int) -> None:
    """Run one training all ways and print its table."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    for number in range(rounds):
        turn = number % len(WAYS)
        ways = WAYS[turn:] + WAYS[:turn]
        for way in ways if number % 2 == 0 else reversed(ways):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "train").mkdir()
                taken, peak = once(name, way, steps, Path(folder) / "train")
            seconds[way].append(taken)
            memory[way] = max(memory[way], peak)
    base = np.log([seconds["off"], seconds["off again"]])
    step_ms = 1000 * float(np.exp(base.mean())) / steps
    print(f"\n{name}: {steps} steps of {step_ms:.2f} ms, {rounds} rounds. {TRAININGS[name].__doc__}\n")
    print("| way | ratio to off [95% interval] | median s | ms a step more | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    for way, values in seconds.items():
        against = base[0] if way == "off again" else base.mean(axis=0)
        ratio = "1" if way == "off" else interval(list(np.log(values) - against))
        more = 1000 * (statistics.median(values) - float(np.exp(base.mean()))) / steps
        print(f"| {way} | {ratio} | {statistics.median(values):.2f} | {more:.2f} | {memory[way]:.0f} |", flush=True)


def line_sizes(steps: int) -> None:
    """Record the training of a dozen sources and eight streams, and print how long its lines are."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "train"
        place.mkdir()
        once("lines", "recorded", steps, place)
        written = (place / "run" / "trace.jsonl").read_bytes().splitlines(keepends=True)
        steps_written = [(line, json.loads(line)) for line in written if json.loads(line)["event"] == "step"]
        sizes = [len(line) for line, _ in steps_written]
        changed = [sum(d is not None for d in event["sources"] + event["streams"]) for _, event in steps_written]
        answer = subprocess.run(
            [sys.executable, "-m", "auditor.cli.main", "inspect", "run", "--format", "json"],
            cwd=place,
            stdout=subprocess.PIPE,
            check=True,
        )
    census = json.loads(answer.stdout)
    print(f"\nlines: {steps} steps. {TRAININGS['lines'].__doc__}\n")
    print(f"{len(census['sources'])} sources: {', '.join(source['name'] for source in census['sources'])}")
    print(f"{len(census['streams'])} streams: {', '.join(stream['name'] for stream in census['streams'])}")
    print(f"bytes a step line: {max(sizes)} at most, {statistics.mean(sizes):.0f} on average, {sizes[0]} the first")
    print(f"digests a step line: {statistics.mean(changed):.1f} on average; the others had not changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="how often each way is run; 5, or 2 with --quick")
    parser.add_argument("--steps", type=int, help="steps of each training, in place of its own number")
    parser.add_argument("--only", choices=TRAININGS, action="append", help="one of the tables; may be repeated")
    parser.add_argument("--quick", action="store_true", help="two rounds, few steps")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, way, steps = options.child
        train(name, way, int(steps))
        return
    began = time.monotonic()
    chosen = options.only or list(TRAININGS)
    rounds = options.rounds or (2 if options.quick else 5)
    for name, steps in (QUICK_STEPS if options.quick else STEPS).items():
        if name in chosen:
            compare(name, rounds, options.steps or steps)
    if "lines" in chosen:
        line_sizes(options.steps or 100)
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
