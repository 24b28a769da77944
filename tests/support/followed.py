"""A training with averages, a teacher, a queue, BatchNorm and a staged policy, in which nothing is drawn.

So a cell's re-keyed streams change nothing, and an arm is bit for bit the training that is changed by hand:
``--by-hand`` records one such training for each change named, into ``OUT/NAME``, changed after step ``--at``.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Dataset

import auditor

QUEUE, LAG = 16, 2


class Policy:
    def __init__(self):
        self.enabled, self.stage = True, 0

    def __call__(self, inputs):
        return inputs * (1.0 + 0.1 * self.stage) + 0.01 if self.enabled else inputs


class Samples(Dataset):
    def __init__(self, policy):
        source = torch.Generator().manual_seed(3)
        self.inputs, self.policy = torch.randn(24, 6, generator=source), policy
        self.targets = (self.inputs[:, 0] > 0).long()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.policy(self.inputs[index]), self.targets[index]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.register_buffer("queue", torch.zeros(QUEUE, 2))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, inputs):
        return self.body(inputs)


class Training:
    def __init__(self, run):
        self.policy = Policy()
        self.loader = DataLoader(Samples(self.policy), batch_size=4)
        self.model = Model()
        self.teacher = copy.deepcopy(self.model.body).requires_grad_(requires_grad=False).eval()
        self.ema = AveragedModel(self.model.body, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.swa = AveragedModel(self.model.body)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
        run.watch(model=self.model, teacher=self.teacher, ema=self.ema, swa=self.swa)
        run.watch(optimizer=self.optimizer, augment=self.policy)
        run.probe(self.model, self.inputs, targets=torch.arange(12) % 2)
        run.outcome("teacher", lambda: float(sum(each.double().sum() for each in self.teacher.parameters())))
        self.keep = 0.9
        self.moves = {"ema", "teacher", "stage"}
        self.before_update = self.afterwards = lambda: None

    def step(self, inputs, targets):
        logits = self.model(inputs)
        guide = self.teacher(inputs)
        near = (logits @ self.model.queue.clone().T).logsumexp(dim=1).mean()
        loss = F.cross_entropy(logits, targets) + 0.1 * (logits - guide).square().mean() + 0.01 * near
        self.optimizer.zero_grad()
        loss.backward()
        self.before_update()
        self.optimizer.step()
        with torch.no_grad():
            if "teacher" in self.moves:
                for slow, fast in zip(self.teacher.parameters(), self.model.body.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.keep)
            if "ema" in self.moves:
                self.ema.update_parameters(self.model.body)
            self.swa.update_parameters(self.model.body)
            places = (int(self.model.queue_ptr) + torch.arange(len(guide))) % QUEUE
            self.model.queue[places] = guide
            self.model.queue_ptr[0] = (places[-1] + 1) % QUEUE
        return loss

    @torch.no_grad()
    def change(self, name):
        """Change it by hand, as the interventions of these names are to."""
        model, bn = self.model, self.model.body[1]
        newest = int(model.queue_ptr) - 1
        if name in ("ema=reset", "swa=reset"):
            average = getattr(self, name[:3])
            average.module.load_state_dict(model.body.state_dict())
            average.n_averaged.fill_(1)
        elif name in ("ema=freeze", "teacher=freeze"):
            self.moves.remove(name.partition("=")[0])
        elif name == "ema=decay,value=0.5":
            self.ema.multi_avg_fn = get_ema_multi_avg_fn(0.5)
        elif name == "teacher=resync":
            self.teacher.load_state_dict(model.body.state_dict())
        elif name == "teacher=decay,value=0.5":
            self.keep = 0.5
        elif name == f"teacher=lag,steps={LAG}":
            true, trail = copy.deepcopy(self.teacher), [self.teacher.state_dict()]
            trail[0] = copy.deepcopy(trail[0])
            self.moves.remove("teacher")

            def lag():
                for slow, fast in zip(true.parameters(), model.body.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.keep)
                trail.append(copy.deepcopy(true.state_dict()))
                self.teacher.load_state_dict(trail[max(0, len(trail) - 1 - LAG)])

            self.afterwards = torch.no_grad()(lag)
        elif name == "bn=reset":
            bn.reset_running_stats()
        elif name == "bn=freeze":
            held = copy.deepcopy(bn.state_dict())
            names = ("running_mean", "running_var", "num_batches_tracked")
            self.before_update = lambda: [getattr(bn, each).copy_(held[each]) for each in names]
        elif name == "bn=recalibrate,batches=3":
            update_bn(torch.tensor_split(self.inputs, 3), model)
        elif name == "queue=flush":
            model.queue.zero_()
            model.queue_ptr.zero_()
        elif name == "queue=truncate,length=5":
            kept = [(newest - back) % QUEUE for back in range(5)]
            model.queue[[place for place in range(QUEUE) if place not in kept]] = 0.0
        elif name == "queue=age,entries=3":
            model.queue[[(newest - back) % QUEUE for back in (2, 1, 0)]] = model.queue[
                [(newest + 1 + ahead) % QUEUE for ahead in range(3)]
            ]
        elif name == "augment=off":
            self.policy.enabled = False
        elif name == "augment=stage,value=3":
            self.policy.stage = 3
            self.moves.remove("stage")


def train(out, epochs, at, change):
    with auditor.record(out, seed=0) as run:
        training, taken = Training(run), 0
        if change and at == 0:
            training.change(change)
        for epoch in run.epochs(epochs):
            if "stage" in training.moves:
                training.policy.stage = epoch
            for batch in run.batches(training.loader):
                loss = training.step(*batch)
                taken += 1
                training.afterwards()
                run.step(loss=loss)
                if change and taken == at:
                    training.change(change)
    return float(sum(each.double().sum() for each in training.teacher.parameters()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="run")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--by-hand", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.by_hand is None:
        train(options.out, options.epochs, 0, None)
        return
    outcomes = {name: train(Path(options.out) / name, options.epochs, options.at, name) for name in options.by_hand}
    (Path(options.out) / "teachers.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
