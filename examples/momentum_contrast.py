"""Momentum contrast (MoCo, He et al., arXiv 1911.05722): digits told apart without a single label.

Two augmented views of an image shall meet and all other images stay away. The others are 512 keys in a queue, made
over the last steps by a slow copy of the encoder: what is learned at a step depends on images of many steps ago.
Three more things remember here: a memory bank with one embedding a training image (Wu et al., arXiv 1805.01978), kept
in a plain attribute and so in no ``state_dict``; the agreement of the last 20 steps, a deque, which says how much the
bank is trusted; and the augmentation, which gets stronger from pass to pass. The encoder is judged by a linear probe.

    python examples/momentum_contrast.py
"""

import argparse
import copy
from collections import deque

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import auditor

DIM, QUEUE = 32, 512


class Augmentation:
    """Shift (drawn by torch), noise and contrast (drawn by NumPy); ``stage`` 0, 1, 2 says how strong."""

    def __init__(self):
        self.stage = 0

    def __call__(self, image):
        row, column = torch.randint(0, 3, (2,)).tolist()
        shifted = F.pad(image, (1, 1, 1, 1))[:, row : row + 8, column : column + 8]
        strength = (0.05, 0.1, 0.15)[self.stage]
        noise = torch.from_numpy(np.random.normal(0.0, strength, (1, 8, 8)).astype(np.float32))
        return shifted * float(np.random.uniform(1 - 2 * strength, 1 + 2 * strength)) + noise


class TwoViews(Dataset):
    def __init__(self, images, augment):
        self.images, self.augment = images, augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return index, self.augment(self.images[index]), self.augment(self.images[index])


class Contrast(nn.Module):
    """Encoder, projection head, the queue of keys (buffers) and the memory bank (a plain attribute)."""

    def __init__(self, samples):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, DIM))
        self.register_buffer("queue", F.normalize(torch.randn(QUEUE, DIM), dim=1))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.bank = F.normalize(torch.randn(samples, DIM), dim=1)

    def forward(self, images):
        return F.normalize(self.head(self.encoder(images)), dim=1)

    @torch.no_grad()
    def remember(self, indices, keys):
        places = (int(self.queue_ptr) + torch.arange(len(keys))) % QUEUE
        self.queue[places] = keys
        self.queue_ptr[0] = (places[-1] + 1) % QUEUE
        self.bank[indices] = F.normalize(self.bank[indices].lerp(keys, 0.5), dim=1)


@torch.no_grad()
def linear_probe(encoder, train_images, train_labels, test_images, test_labels):
    """Return the test accuracy of ridge regression on the frozen encoder's features."""
    training = encoder.training
    encoder.eval()
    train, test = (F.pad(encoder(images), (0, 1), value=1.0).double() for images in (train_images, test_images))
    encoder.train(training)
    gram = train.T @ train + 10.0 * torch.eye(train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, train.T @ F.one_hot(train_labels).double())
    return ((test @ weights).argmax(dim=1) == test_labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/momentum_contrast")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two epochs")
    options = parser.parse_args()
    epochs = 2 if options.quick else options.epochs
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
        labels = torch.tensor(digits.target)
        data = images[:1397], labels[:1397], images[1397:], labels[1397:]
        augment = Augmentation()
        loader = DataLoader(
            TwoViews(data[0], augment), batch_size=64, shuffle=True, drop_last=True, num_workers=options.workers
        )
        model = Contrast(samples=1397)
        teacher = copy.deepcopy(model.encoder), copy.deepcopy(model.head)
        teacher = nn.Sequential(*teacher).requires_grad_(requires_grad=False)
        agreement = deque(maxlen=20)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))

        run.watch(model=model, teacher=teacher, recent_queue=agreement, augment=augment)
        run.watch(optimizer=optimizer, scheduler=scheduler)
        run.outcome("linear_probe_accuracy", lambda: linear_probe(model.encoder, *data))
        before = linear_probe(model.encoder, *data)

        for epoch in run.epochs(epochs):
            augment.stage = min(2, 3 * epoch // epochs)
            for indices, first, second in run.batches(loader):
                queries = model(first)
                with torch.no_grad():
                    keys = F.normalize(teacher(second), dim=1)
                positive = (queries * keys).sum(dim=1, keepdim=True)
                logits = torch.cat([positive, queries @ model.queue.clone().T], dim=1) / 0.1
                agreement.append(positive.mean().item())
                trust = max(0.0, sum(agreement) / len(agreement))
                pull = (queries - model.bank[indices]).square().sum(dim=1).mean()
                loss = F.cross_entropy(logits, torch.zeros(len(first), dtype=torch.long)) + 0.1 * trust * pull
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                with torch.no_grad():
                    for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                        slow.lerp_(fast, 0.05)
                model.remember(indices, keys)
                run.step(loss=loss)

        print(f"linear-probe accuracy {linear_probe(model.encoder, *data):.4f}, before training {before:.4f}")


if __name__ == "__main__":
    main()
