"""A small training whose loop has one of several forms, for coming to a step in several ways.

What it is asked to keep open or running beside the training stands against forking it.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import auditor
from auditor import KeyedDataset


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="run")
    parser.add_argument("--loop", choices=["epochs", "steps", "passes", "while"], default="epochs")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--anchor-every", type=int)
    parser.add_argument("--own-generator", action="store_true")
    parser.add_argument("--evaluate", action="store_true", help="walk a loader with a generator of its own, each epoch")
    parser.add_argument("--keyed", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeded-by", choices=["recorder", "program", "nobody"], default="recorder")
    parser.add_argument("--beside", choices=["thread", "child", "pipe", "shared"])
    parser.add_argument("--log", action="store_true", help="append to an open log, and write checkpoints")
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--hang-unit", type=int, help="a replayed cell of this unit stands still after the fork")
    parser.add_argument("--exit-after", action="store_true", help="leave a mark in a finally block")
    return parser.parse_args()


def beside(kind):
    """Keep something open or running; what is returned is to be held."""
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(60,), name="feeder", daemon=True).start()
    if kind == "child":
        return subprocess.Popen(["sleep", "60"])
    if kind == "pipe":
        return os.pipe()
    if kind == "shared":
        return np.memmap("shared.bin", dtype="u1", mode="w+", shape=4096)
    return None


class Training:
    def __init__(self, options, run):
        self.options, self.run = options, run
        source = torch.Generator().manual_seed(3)
        inputs = torch.randn(50, 6, generator=source)
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
        width = options.width
        self.data = TensorDataset(inputs[:42], targets[:42])
        self.model = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3)
        )
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)
        generator = torch.Generator().manual_seed(5) if options.own_generator else None
        data = KeyedDataset(self.data, seed=1) if options.keyed else self.data
        self.loader = DataLoader(data, batch_size=8, shuffle=True, generator=generator, num_workers=options.workers)
        self.held_out = DataLoader(
            TensorDataset(inputs[42:], targets[42:]),
            batch_size=4,
            shuffle=True,
            generator=torch.Generator().manual_seed(6),
        )
        run.watch(model=self.model, ema=self.ema, optimizer=self.optimizer, scheduler=self.scheduler)
        run.probe(self.model, inputs[42:], targets=targets[42:])
        run.outcome("weight_norm", lambda: sum(p.square().sum() for p in self.model.parameters()))
        self.taken = 0
        self.log = Path("log.txt").open("a") if options.log else None  # noqa: SIM115 -- left open on purpose

    def step(self, batch, labels):
        self.hang()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(batch + 0.01 * np.random.randn()), labels)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update_parameters(self.model)
        self.run.step(loss=loss)
        self.taken += 1
        if self.log is not None:
            self.log.write(f"{self.taken} {loss.item()!r}\n")
            if self.taken % 3 == 0:
                self.log.flush()
                Path("checkpoints").mkdir(exist_ok=True)
                Path(f"checkpoints/{self.taken}.json").write_text(json.dumps(loss.item()))
                torch.save(self.model.state_dict(), "last.pt")
        if self.taken == self.options.fail_at:
            raise RuntimeError("planted failure")

    def hang(self):
        cell = os.environ.get("MEMAUDIT_CELL")
        if cell is not None and self.options.hang_unit is not None:
            unit = json.loads(Path(cell, "cell.json").read_text())["unit"]
            mark = Path(cell, "hangs")
            if unit == self.options.hang_unit:
                mark.touch()
                time.sleep(60)

    def evaluate(self):
        if self.options.evaluate:
            self.model.eval()
            with torch.no_grad():
                for batch, _ in self.run.batches(self.held_out):
                    self.model(batch)
            self.model.train()

    def train(self):
        options, run = self.options, self.run
        if options.loop == "steps":
            for _ in run.steps(6 * options.epochs):
                index = torch.randint(0, 42, (8,))
                run.batch(ids=index.tolist())
                self.step(*self.data[index])
        elif options.loop == "while":
            batches = None
            while self.taken < 6 * options.epochs:
                try:
                    batch, labels = next(batches)
                except (StopIteration, TypeError):
                    batches = iter(run.batches(self.loader))
                    continue
                self.step(batch, labels)
        else:
            for _ in run.epochs(options.epochs) if options.loop == "epochs" else range(options.epochs):
                for batch, labels in run.batches(self.loader):
                    self.step(batch, labels)
                self.evaluate()


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    if options.seeded_by == "program":
        np.random.seed(1)
        torch.manual_seed(1)
    with auditor.record(
        options.out, seed=0 if options.seeded_by == "recorder" else None, anchor_every=options.anchor_every
    ) as run:
        held = beside(options.beside)
        try:
            Training(options, run).train()
        finally:
            if options.exit_after:
                with Path("endings.txt").open("a") as file:
                    file.write(f"{os.getpid()}\n")
            if options.beside == "child":
                held.kill()
                held.wait()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
