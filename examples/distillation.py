"""Distillation: a student learns from a teacher, from its own past, and from what it found hard.

A teacher is trained on 600 labelled digits and frozen. The student gets only 200 of the labels, easiest first (a
curriculum: the sampler's subset grows from pass to pass), and beside each labelled batch one of unlabelled digits, on
which it imitates the teacher (Hinton et al., arXiv 1503.02531). It also stays near itself as it was a pass ago (a
lagging self-teacher), and sees the hardest labelled samples again out of a replay buffer. Two loaders are walked side
by side: ``zip(run.batches(labelled), run.batches(unlabelled))``.

    python examples/distillation.py
"""

import argparse
import copy
import random
from collections import deque

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

import auditor


class Curriculum(Sampler):
    """The ``size`` easiest samples in random order; ``grow`` admits more."""

    def __init__(self, difficulty, size):
        self.ranking = difficulty.argsort().tolist()
        self.size = size
        self.generator = torch.Generator().manual_seed(8)

    def grow(self, samples):
        self.size = min(self.size + samples, len(self.ranking))

    def __len__(self):
        return self.size

    def __iter__(self):
        for place in torch.randperm(self.size, generator=self.generator).tolist():
            yield self.ranking[place]


def train_teacher(images, labels):
    teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(teacher(images), labels).backward()
        optimizer.step()
    return teacher.eval().requires_grad_(requires_grad=False)


def imitation(logits, guide, temperature=3.0):
    """Return the Kullback-Leibler divergence from the guide's softened answers to the student's, times T squared."""
    log_student, log_guide = ((x / temperature).log_softmax(dim=1) for x in (logits, guide))
    return F.kl_div(log_student, log_guide, log_target=True, reduction="batchmean") * temperature**2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/distillation")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data, for each loader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four epochs")
    options = parser.parse_args()
    epochs = 4 if options.quick else options.epochs
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        digits = load_digits()
        images = torch.tensor(digits.data, dtype=torch.float32) / 16.0
        labels = torch.tensor(digits.target)
        test_images, test_labels = images[1397:], labels[1397:]
        teacher = train_teacher(images[:600], labels[:600])
        with torch.no_grad():
            difficulty = F.cross_entropy(teacher(images[:200]), labels[:200], reduction="none")

        sampler = Curriculum(difficulty, size=80)
        few = TensorDataset(images[:200], labels[:200])
        labelled = DataLoader(few, batch_size=16, sampler=sampler, num_workers=options.workers)
        # Longer than the labelled one at any time: zip ends where the shorter ends.
        unlabelled = DataLoader(
            TensorDataset(images[200:1397]), batch_size=64, shuffle=True, num_workers=options.workers
        )
        student = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 10))
        self_teacher = copy.deepcopy(student).eval().requires_grad_(requires_grad=False)
        hard = deque(maxlen=64)
        optimizer = torch.optim.RMSprop(student.parameters(), lr=2e-3, momentum=0.5)
        scheduler = torch.optim.lr_scheduler.ChainedScheduler(
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=10),
                torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.997),
            ]
        )

        run.watch(model=student, teacher=teacher, self_teacher=self_teacher, replay_buffer=hard, sampler=sampler)
        run.watch(optimizer=optimizer, scheduler=scheduler)
        run.probe(student, test_images, targets=test_labels)

        for _ in run.epochs(epochs):
            student.train()
            for (known, answers), (unknown,) in zip(run.batches(labelled), run.batches(unlabelled), strict=False):
                again = random.sample(hard, min(16, len(hard)))
                inputs = torch.cat([known, *(image.unsqueeze(0) for image, _ in again)])
                targets = torch.cat([answers, torch.tensor([answer for _, answer in again], dtype=torch.long)])
                errors = F.cross_entropy(student(inputs), targets, reduction="none")
                logits = student(unknown)
                loss = (
                    errors.mean() + imitation(logits, teacher(unknown)) + 0.3 * imitation(logits, self_teacher(unknown))
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                hardest = int(errors[: len(known)].argmax())
                hard.append((known[hardest], int(answers[hardest])))
                run.step(loss=loss)
            self_teacher.load_state_dict(student.state_dict())
            sampler.grow(20)

        student.eval()
        with torch.no_grad():
            scores = [(net(test_images).argmax(1) == test_labels).float().mean() for net in (student, teacher)]
        print(f"test accuracy {scores[0]:.4f}, of the teacher {scores[1]:.4f}")


if __name__ == "__main__":
    main()
