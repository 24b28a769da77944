"""A small real training with one thing done to it at one step: two recordings part where a test wants them to.

``--plant NAME`` does it in the third batch of the second pass, step 9; passes have 6 steps. Where that is is told by
the loops, not by a counter, so that it happens again when the program is entered in the middle.
"""

import argparse
import random
import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import auditor


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.drop, self.shift, self.between = 0.1, 0.0, 0.0

    def forward(self, inputs, *, scale=None):
        hidden = F.relu(inputs + self.between)
        return F.dropout(self.inner(hidden) * scale, self.drop, self.training) + self.shift


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.block = Block(width)
        self.head = nn.Linear(width, 3)
        self.scale = 0.5

    def forward(self, inputs=None):
        hidden = self.block(self.norm(self.first(inputs)), scale=torch.tensor(self.scale))
        return Answer(self.head(hidden), hidden)


class Wobbly(torch.optim.SGD):
    def step(self, wobble=False):
        super().step()
        if wobble:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1e-3)


class BrokenError(Exception):
    pass


class Refusing(nn.Module):
    def forward(self, inputs):
        raise BrokenError


def options_of(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--plant", default="")
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--no-epochs", action="store_true")
    parser.add_argument("--by-keyword", action="store_true", help="call the model with keyword arguments only")
    parser.add_argument("--compiled", choices=["", "wrapped", "in place"], default="")
    parser.add_argument("--backend", default="aot_eager")
    return parser.parse_args(words)


def main(words):
    options = options_of(words)
    torch.set_num_threads(1)
    counted = 0

    with auditor.record(options.out, seed=options.seed) as run:
        source = torch.Generator().manual_seed(3)
        inputs = torch.randn(48, 6, generator=source)
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
        model = Net(options.width)
        optimizer = Wobbly(model.parameters(), lr=options.lr, momentum=0.9)
        called = model
        if options.compiled == "in place":
            model.compile(backend=options.backend)
        elif options.compiled == "wrapped":
            called = torch.compile(model, backend=options.backend)
        run.watch(model=called, optimizer=optimizer)
        run.probe(called, inputs[:5])
        refusing = Refusing()
        for epoch in range(3) if options.no_epochs else run.epochs(3):
            for index, (batch, labels) in enumerate(run.batches(loader)):
                planted = options.plant if (epoch, index) == (1, 2) else ""
                counted += 1
                if options.plant == "checked" and counted != 6 * epoch + index + 1:
                    raise RuntimeError("the program was entered in the middle")
                block = model.block
                with torch.no_grad():
                    if planted == "weight" or (options.plant == "counted" and counted == 9):
                        block.inner.weight[3, 4] += 1e-3
                    if planted == "statistics":
                        model.norm.running_mean += 1e-3
                    model.norm(torch.zeros(2, options.width))  # a part is called by itself
                    if planted == "another call":
                        model.head(torch.zeros(1, options.width))
                    if planted == "refused":
                        try:
                            refusing(batch)
                        except BrokenError:
                            print("a call that came to nothing")
                if planted == "momentum":
                    optimizer.state.clear()
                if planted == "rate":
                    optimizer.param_groups[0]["lr"] *= 2
                if planted == "draw":
                    torch.rand(1)
                given = batch + 1e-3 if planted == "inputs" else batch
                block.shift = 1e-3 if planted == "shift" else 0.0
                block.between = 1e-3 if planted == "between" else 0.0
                block.drop = 0.4 if planted == "dropout" else 0.1
                model.scale = 0.6 if planted == "scale" else 0.5
                optimizer.zero_grad()
                answer = called(inputs=given) if options.by_keyword else called(given)
                loss = F.cross_entropy(answer.logits, labels, label_smoothing=0.1 * (planted == "loss"))
                if options.plant == "entropy" and epoch == 1:
                    loss = loss * (1 + random.SystemRandom().random())
                loss.backward()
                if planted == "clip":
                    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                if planted == "one gradient":
                    model.norm.weight.grad += 1e-3
                if planted == "momentum late":
                    optimizer.state[model.head.weight]["momentum_buffer"].zero_()
                optimizer.step(wobble=planted == "update")
                if planted == "after update":
                    with torch.no_grad():
                        model.head.bias[0] += 1e-3
                run.step(loss=loss)


if __name__ == "__main__":
    main(sys.argv[1:])
