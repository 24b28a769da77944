"""A small real training with memaudit's lines in it, and switches for what tests vary.

``--witness FILE`` writes, after every step, the SHA-256 of all that training remembers, computed here and not by
memaudit: what bit-neutrality is judged by.
"""

import argparse
import copy
import hashlib
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

import auditor


def witness(*modules, optimizer):
    sha = hashlib.sha256()
    for module in modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            sha.update(name.encode() + tensor.detach().numpy().tobytes())
    for state in optimizer.state.values():
        for name, value in sorted(state.items()):
            sha.update(name.encode() + (value.numpy().tobytes() if torch.is_tensor(value) else repr(value).encode()))
    sha.update(torch.get_rng_state().numpy().tobytes())
    sha.update(repr(random.getstate()).encode() + repr(np.random.get_state(legacy=False)).encode())
    return sha.hexdigest()


def build_loader(options, data):
    generator = torch.Generator().manual_seed(5) if options.own_generator else None
    common = {"batch_size": 8, "num_workers": options.workers, "drop_last": options.drop_last, "generator": generator}
    if options.workers and options.persistent:
        common["persistent_workers"] = True
    if options.order == "replacement":
        sampler = RandomSampler(data, replacement=True, num_samples=len(data), generator=generator)
        return DataLoader(data, sampler=sampler, **common)
    if options.order == "weighted":
        weights = torch.linspace(1.0, 2.0, len(data))
        return DataLoader(data, sampler=WeightedRandomSampler(weights, len(data), generator=generator), **common)
    return DataLoader(data, shuffle=options.order == "shuffled", **common)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="run")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", choices=["shuffled", "replacement", "sequential", "weighted"], default="shuffled")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--persistent", action="store_true")
    parser.add_argument("--own-generator", action="store_true")
    parser.add_argument("--drop-last", action="store_true")
    parser.add_argument("--optimizer", choices=["sgd", "plain", "adam", "dampened"], default="sgd")
    parser.add_argument("--anchor-every", type=int)
    parser.add_argument(
        "--nondeterministic", action="store_true", help="draw from the clock: a training that cannot repeat"
    )
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--break-at", type=int)
    parser.add_argument("--witness")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []

    with auditor.record(options.out, seed=options.seed, anchor_every=options.anchor_every) as run:
        source = torch.Generator().manual_seed(3)
        inputs = torch.randn(50, 6, generator=source)
        targets = (inputs[:, 0] + 0.3 * torch.randn(50, generator=source) > 0).long() + (inputs[:, 1] > 0.5).long()
        data = TensorDataset(inputs[:42], targets[:42])
        model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))
        teacher = copy.deepcopy(model)
        optimizer = {
            "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            "dampened": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.5),
            "plain": lambda: torch.optim.SGD(model.parameters(), lr=0.1),
            "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.01),
        }[options.optimizer]()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        loader = build_loader(options, data)
        run.watch(model=model, teacher=teacher, optimizer=optimizer, scheduler=scheduler)
        run.probe(model, inputs[42:], targets=targets[42:])
        run.outcome("weight_norm", lambda: sum(p.square().sum() for p in model.parameters()))
        step = 0
        for _ in run.epochs(options.epochs):
            model.train()
            for batch, labels in run.batches(loader):
                noise = 0.05 * random.random() + 0.01 * np.random.randn()
                if options.nondeterministic:
                    noise += random.SystemRandom().random()
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch + noise), labels)
                loss.backward()
                optimizer.step()
                scheduler.step()
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                        slow.lerp_(fast, 0.1)
                run.step(loss=loss)
                step += 1
                lines.append(witness(model, teacher, optimizer=optimizer))
                if step == options.fail_at:
                    raise RuntimeError("planted failure")
                if step == options.break_at:
                    break
    if options.witness:
        Path(options.witness).write_text("\n".join(lines))
    print("done")


if __name__ == "__main__":
    main()
