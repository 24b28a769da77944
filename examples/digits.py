"""A small CNN on the UCI handwritten digits, recorded: what a training with memaudit's lines in it looks like.

A mean teacher (Tarvainen & Valpola, arXiv 1703.01780) follows the student and pulls it along, so that weights,
momentum, BatchNorm statistics, teacher, schedule, data order and random streams all carry history.

Run it by hand, `python examples/digits.py`, or under `memaudit record --out RUN -- python examples/digits.py`.
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import auditor


class Digits(Dataset):
    """8 x 8 images, shifted by up to one pixel when they are drawn for training."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        row, column = torch.randint(0, 3, (2,)).tolist()
        padded = F.pad(self.images[index], (1, 1, 1, 1))
        return padded[:, row : row + 8, column : column + 8], self.labels[index]


def split(test_samples=400):
    """Return (train images, train labels, test images, test labels); the split is fixed, whatever the seed."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1797))
    test, train = order[:test_samples], order[test_samples:]
    return images[train], labels[train], images[test], labels[test]


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 10),
    )


@torch.no_grad()
def follow(teacher, student, decay):
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)
    for slow, fast in zip(teacher.buffers(), student.buffers(), strict=True):
        slow.copy_(fast)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/digits")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # One thread: a net this small gains nothing from more, and thread counts change bits.
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        train_images, train_labels, test_images, test_labels = split()
        model = build_model()
        teacher = copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        loader = DataLoader(Digits(train_images, train_labels), batch_size=64, shuffle=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(loader))

        run.watch(model=model, teacher=teacher, optimizer=optimizer, scheduler=scheduler)
        run.probe(model, test_images, targets=test_labels, name="student")
        run.probe(teacher, test_images, targets=test_labels, name="teacher")

        for _ in run.epochs(options.epochs):
            model.train()
            for images, labels in run.batches(loader):
                logits = model(images)
                with torch.no_grad():
                    guidance = teacher(images).softmax(dim=1)
                loss = F.cross_entropy(logits, labels) + F.mse_loss(logits.softmax(dim=1), guidance)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                follow(teacher, model, decay=0.95)
                run.step(loss=loss)

        model.eval()
        with torch.no_grad():
            accuracy = (model(test_images).argmax(dim=1) == test_labels).float().mean().item()
        print(f"test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
