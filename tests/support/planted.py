"""A training with most of what training remembers, for `memaudit diff`: tests change one line of it at a time."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, RandomSampler

import auditor


class Noisy(Dataset):
    """Samples with noise drawn where they are loaded."""

    def __init__(self, inputs, targets, noise):
        self.inputs, self.targets, self.noise = inputs, targets, noise

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index] + self.noise * torch.randn(32), self.targets[index]


class Queue(nn.Module):
    """The last 40 features, first in, first out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("features", torch.zeros(40, 3))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def put(self, features):
        at = (int(self.pointer) + torch.arange(len(features))) % len(self.features)
        self.features[at] = features
        self.pointer[0] = (int(self.pointer) + len(features)) % len(self.features)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with auditor.record("run", seed=0) as run:
        source = torch.Generator().manual_seed(3)
        inputs = torch.randn(48, 32, generator=source)
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
        # the data are there
        data = Noisy(inputs, targets, options.noise)
        generator = torch.Generator().manual_seed(5)
        sampler = RandomSampler(data, generator=generator)
        loader = DataLoader(data, options.batch_size, sampler=sampler, num_workers=options.workers, drop_last=True)
        # More than 32,768 weights: from there on torch shares the sum over a gradient out among threads.
        model = nn.Sequential(nn.Linear(32, 1100), nn.BatchNorm1d(1100, momentum=0.1), nn.ReLU(), nn.Linear(1100, 3))
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        queue = Queue()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        run.watch(model=model, ema=ema, queue=queue, optimizer=optimizer, scheduler=scheduler)
        step = 0
        for _ in run.epochs(4):
            # a pass begins
            for batch, labels in run.batches(loader):
                step += 1
                outputs = model(F.dropout(batch, 0.1))
                loss = F.cross_entropy(outputs, labels)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                # the update comes
                optimizer.step()
                scheduler.step()
                ema.update_parameters(model)
                queue.put(outputs.detach())
                # the step ends
                run.step(loss=loss)


if __name__ == "__main__":
    main()
