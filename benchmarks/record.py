"""What recording costs: wall time of whole trainings, each a process of its own, as ratios within one run.

    python benchmarks/record.py [--rounds 5] [--steps 400]

The same MLP is trained (a) with ``MEMAUDIT=off``, (b) off again, which shows this machine's noise, (c) recorded
at the default setting, full state digested at every step, closing and signing included, (d) with a SHA-256 of the
whole state taken by hand at every step, which is what people write today. Order alternates between rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """
import hashlib, sys, time
import torch
from torch import nn
import auditor

torch.set_num_threads(1)
steps, by_hand = int(sys.argv[1]), sys.argv[2] == "by-hand"
begin = time.perf_counter()
with auditor.record("run", seed=0) as run:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = torch.utils.data.TensorDataset(torch.randn(512 * 40, 256), torch.randint(0, 10, (512 * 40,)))
    loader = torch.utils.data.DataLoader(data, batch_size=512, shuffle=True)
    run.watch(model=model, optimizer=optimizer)
    for epoch in run.epochs(steps // 40):
        for inputs, targets in run.batches(loader):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
            if by_hand:
                sha = hashlib.sha256()
                for name, tensor in model.state_dict().items():
                    sha.update(name.encode() + tensor.numpy().tobytes())
                for slots in optimizer.state.values():
                    sha.update(slots["momentum_buffer"].numpy().tobytes())
                sha.hexdigest()
print(time.perf_counter() - begin)
"""

WAYS = {
    "off": ({"MEMAUDIT": "off"}, "plain"),
    "off again": ({"MEMAUDIT": "off"}, "plain"),
    "recorded": ({}, "plain"),
    "SHA-256 by hand": ({"MEMAUDIT": "off"}, "by-hand"),
}


def once(way: str, steps: int) -> float:
    """Return the seconds of one training, imports left out, closing and signing included."""
    environment, kind = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(PROGRAM)
        answer = subprocess.run(
            [sys.executable, "program.py", str(steps), kind],
            cwd=folder,
            env={**os.environ, **environment, "MEMAUDIT_HOME": os.environ.get("MEMAUDIT_HOME", f"{folder}/home")},
            capture_output=True,
            text=True,
            check=True,
        )
    return float(answer.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    began = time.perf_counter()
    for number in range(options.rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            seconds[way].append(once(way, options.steps))
    plain = statistics.median(seconds["off"])
    print(f"{options.steps} steps of {1000 * plain / options.steps:.2f} ms, {options.rounds} rounds\n")
    print("| training | median s | ratio to off, round by round: median [least, most] |")
    print("| --- | --- | --- |")
    for way, values in seconds.items():
        ratios = sorted(value / base for value, base in zip(values, seconds["off"], strict=True))
        middle, spread = statistics.median(ratios), f"[{ratios[0]:.3f}, {ratios[-1]:.3f}]"
        print(f"| {way} | {statistics.median(values):.2f} | {middle:.3f} {spread} |")
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
