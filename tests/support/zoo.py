"""Trainings that differ in what they remember and how they loop: each must go on bit for bit from any anchor.

``--case NAME`` picks one; ``--witness FILE`` writes the SHA-256 of all of its state after every step, computed here.
"""

import argparse
import hashlib
import random
import resource
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import auditor


class Augmented(Dataset):
    """Samples with noise from all three global streams, wherever they are loaded."""

    def __init__(self, size=30, stateful=False):
        source = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(size, 6, generator=source)
        self.targets = (self.inputs[:, 0] > 0).long()
        self.stateful = stateful
        self.served = 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if self.stateful:
            self.served += 1
        noise = random.random() + float(np.random.rand()) + torch.randn(6)
        return self.inputs[index] + 0.05 * noise, self.targets[index]


class Streamed(IterableDataset):
    """Samples that come one after another, shared out among workers."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        data = Augmented()
        for index in range(info.id if info else 0, len(data), info.num_workers if info else 1):
            yield data[index]


class Growing(torch.utils.data.Sampler):
    """A curriculum: each pass may draw from more of the data."""

    def __init__(self, size):
        self.size = size
        self.stage = 0

    def __len__(self):
        return min(self.size, 8 + 8 * self.stage)

    def __iter__(self):
        self.stage += 1
        return iter(torch.randperm(min(self.size, 8 * self.stage)).tolist())


def network(dropout=0.2):
    return nn.Sequential(
        nn.Linear(6, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )


def loader_of(case, data=None):
    words = case.split("-")
    workers = 2 if "workers" in words or "persistent" in words else 0
    if data is None:
        data = Streamed() if "stream" in words else Augmented(stateful="stateful" in words)
    if "keyed" in words:
        data = auditor.KeyedDataset(data, seed=4)
    return DataLoader(
        data,
        batch_size=4,
        shuffle=None if "stream" in words else True,
        num_workers=workers,
        persistent_workers="persistent" in words,
        generator=torch.Generator().manual_seed(5) if "own" in words else None,
        prefetch_factor=3 if workers else None,
    )


OPTIMIZERS = {
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True, amsgrad=True),
    "loop": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


class Training:
    """What every case has: a model, an average of it, an optimizer and a schedule."""

    def __init__(self, case, run):
        words = case.split("-")
        self.model = network()
        backend = next((word.removeprefix("compiled:") for word in words if word.startswith("compiled:")), None)
        self.forward = self.model if backend is None else torch.compile(self.model, backend=backend)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        make = next((OPTIMIZERS[word] for word in words if word in OPTIMIZERS), OPTIMIZERS["loop"])
        self.optimizer = make(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)
        self.amp = torch.float16 if "fp16" in words else torch.bfloat16 if "bf16" in words else None
        self.scaler = torch.amp.GradScaler("cpu", enabled="fp16" in words, init_scale=4.0, growth_interval=3)
        self.lines = []
        self.watched = {
            "model": self.model,
            "ema": self.average,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler if "fp16" in words else None,
        }
        run.watch(**self.watched)
        run.probe(
            self.model, torch.randn(6, 6, generator=torch.Generator().manual_seed(1)), targets=torch.arange(6) % 2
        )

    def loss(self, batch):
        inputs, targets = batch
        with torch.autocast("cpu", dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            return F.cross_entropy(self.forward(inputs).float(), targets)

    def backward(self, batch):
        loss = self.loss(batch)
        self.scaler.scale(loss).backward()
        return loss

    def update(self, run, loss):
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.average.update_parameters(self.model)
        run.step(loss=loss)
        self.lines.append(witness(self.watched.values()))


def witness(things):
    sha = hashlib.sha256()

    def add(value):
        if torch.is_tensor(value):
            sha.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key, item in value.items():
                sha.update(repr(key).encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            sha.update(repr(value).encode())

    for thing in things:
        if thing is not None:
            add(thing.state_dict())
    sha.update(torch.get_rng_state().numpy().tobytes())
    sha.update(repr(random.getstate()).encode() + repr(np.random.get_state(legacy=False)).encode())
    return sha.hexdigest()


def plain(case, run, epochs):
    training, loader = Training(case, run), loader_of(case)
    for _ in run.epochs(epochs):
        for batch in run.batches(loader):
            training.update(run, training.backward(batch))
    return training


def accumulated(case, run, epochs):
    """Three batches a step and eight a pass: gradients are carried over the end of a pass."""
    training, loader, progress = Training(case, run), loader_of(case), {"count": 0}
    run.watch(progress=progress)
    for _ in run.epochs(epochs):
        for batch in run.batches(loader):
            loss = training.backward(batch)
            progress["count"] += 1
            if progress["count"] % 3 == 0:
                training.update(run, loss)
    return training


def evaluated(case, run, epochs):
    """An evaluation inside the training loop and one after each pass, over a loader of its own."""
    training, loader = Training(case, run), loader_of(case)
    held_out = DataLoader(Augmented(10), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(9))

    def evaluate():
        training.model.eval()
        with torch.no_grad():
            for batch in run.batches(held_out):
                training.loss(batch)
        training.model.train()

    for _ in run.epochs(epochs):
        for batch in run.batches(loader):
            training.update(run, training.backward(batch))
            if training.scheduler.last_epoch % 3 == 1:  # a counter of the loop's own would begin anew
                evaluate()
        evaluate()
    return training


def two_loaders(case, run, epochs):
    training, loader = Training(case, run), loader_of(case)
    other = DataLoader(
        Augmented(44),
        batch_size=6,
        shuffle=True,
        generator=torch.Generator().manual_seed(8),
        num_workers=loader.num_workers,
    )
    for _ in run.epochs(epochs):
        for one, two in zip(run.batches(loader), run.batches(other), strict=False):
            training.update(run, training.backward(one) + training.backward(two))
    return training


def endless(case, run, epochs):
    """A loop over steps that takes its batches from a loader that never ends."""
    training, loader = Training(case, run), loader_of(case)

    def forever():
        while True:
            yield from run.batches(loader)

    batches = forever()
    for _ in run.steps(8 * epochs):
        training.update(run, training.backward(next(batches)))
    return training


def by_hand(case, run, epochs):
    training, data = Training(case, run), Augmented()
    for _ in run.steps(16 * epochs):
        ids = torch.randint(len(data), (4,)).tolist()
        batch = tuple(torch.stack(part) for part in zip(*(data[index] for index in ids), strict=True))
        run.batch(ids=ids, content=batch)
        loss = training.backward(batch)
        if _ % 2:
            training.update(run, loss)
    return training


def adversarial(case, run, epochs):
    """Two networks, two optimizers, one step of both between two batches."""
    training, loader = Training(case, run), loader_of(case)
    critic = network(0.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.5, 0.9))
    run.watch(critic=critic, critic_optimizer=optimizer)
    training.watched.update(critic=critic, critic_optimizer=optimizer)
    for _ in run.epochs(epochs):
        for batch in run.batches(loader):
            optimizer.zero_grad()
            F.cross_entropy(critic(batch[0]), batch[1]).backward()
            optimizer.step()
            training.update(run, training.backward(batch) + 0.1 * critic(batch[0]).square().mean().detach())
    return training


def second_order(case, run, epochs):
    training = Training("loop", run)
    loader = DataLoader(TensorDataset(*Augmented(24)[:]), batch_size=12, shuffle=True)
    optimizer = torch.optim.LBFGS(training.model.parameters(), lr=0.5, max_iter=4, history_size=5)
    run.watch(second_order=optimizer)
    training.watched.update(second_order=optimizer)
    for _ in run.epochs(epochs):
        for batch in run.batches(loader):

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = training.loss(batch)
                loss.backward()
                return loss

            loss = optimizer.step(closure)
            training.scheduler.step()
            run.step(loss=loss)
            training.lines.append(witness(training.watched.values()))
    return training


def curriculum(case, run, epochs):
    training, data = Training(case, run), Augmented()
    sampler = Growing(len(data))
    run.watch(sampler=sampler)
    loader = DataLoader(data, batch_size=4, sampler=sampler, num_workers=2 if "workers" in case else 0)
    for _ in run.epochs(epochs + 1):
        for batch in run.batches(loader):
            training.update(run, training.backward(batch))
    return training


KINDS = {
    "accumulated": accumulated,
    "evaluated": evaluated,
    "two": two_loaders,
    "endless": endless,
    "hand": by_hand,
    "gan": adversarial,
    "lbfgs": second_order,
    "curriculum": curriculum,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", default="plain")
    parser.add_argument("--out", default="run")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--anchor-every", type=int)
    parser.add_argument("--keep-anchors", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--disk", type=int, help="bytes that one file may have: as on a full disk, writing more fails")
    parser.add_argument("--witness")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.disk is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.disk, options.disk))
    kind = KINDS.get(options.case.split("-")[0], plain)
    settings = {"anchor_every": options.anchor_every, "keep_anchors": options.keep_anchors, "resume": options.resume}
    with auditor.record(options.out, seed=0, **settings) as run:
        training = kind(options.case, run, options.epochs)
    if options.witness:
        Path(options.witness).write_text("\n".join(training.lines))
    print("done")


if __name__ == "__main__":
    main()
