"""Two averages of one training: an exponential moving average (EMA) and stochastic weight averaging (SWA).

A small CNN learns the UCI handwritten digits. Beside it stand two copies that no gradient reaches: the EMA, which
forgets old weights at a fixed rate and takes the BatchNorm statistics along, and SWA (Izmailov et al., arXiv
1803.05407), which weighs all weights since its start alike and measures its BatchNorm statistics anew at the end.
What such a training remembers: weights, momentum, BatchNorm statistics, both averages, two schedules, and, with
``--amp``, the loss scale.

    python examples/averages.py                 or, recorded with the command's own seed,
    memaudit record --out runs/averages --seed 0 -- python examples/averages.py --amp
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

import auditor


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
def accuracy(model, images, labels):
    model.eval()
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/averages")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast and a GradScaler")
    parser.add_argument("--quick", action="store_true", help="two epochs")
    options = parser.parse_args()
    epochs = 2 if options.quick else options.epochs
    swa_start = (epochs + 1) // 2

    # One thread: a net this small gains nothing from more, and thread counts change bits.
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        train_images, train_labels, test_images, test_labels = split()
        model = build_model()
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
        swa = AveragedModel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        loader = DataLoader(
            TensorDataset(train_images, train_labels), batch_size=64, shuffle=True, num_workers=options.workers
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
        swalr = SWALR(optimizer, swa_lr=0.05, anneal_epochs=5)
        scaler = torch.amp.GradScaler("cpu", enabled=options.amp)

        run.watch(model=model, ema=ema, swa=swa, optimizer=optimizer, cosine=cosine, swalr=swalr)
        if options.amp:
            run.watch(scaler=scaler)
        for name, watched in {"weights": model, "ema": ema, "swa": swa}.items():
            run.probe(watched, test_images, targets=test_labels, name=name)

        for epoch in run.epochs(epochs):
            model.train()
            for images, labels in run.batches(loader):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.amp):
                    loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                ema.update_parameters(model)
                if epoch < swa_start:
                    cosine.step()
                else:
                    swa.update_parameters(model)
                    swalr.step()
                run.step(loss=loss)

        # SWA averaged weights only: the statistics that fit the averaged weights are measured in one more pass.
        update_bn(loader, swa)
        scores = {name: accuracy(net, test_images, test_labels) for name, net in (("EMA", ema), ("SWA", swa))}
        print(
            f"test accuracy {accuracy(model, test_images, test_labels):.4f}",
            *(f"{k} {v:.4f}" for k, v in scores.items()),
        )


if __name__ == "__main__":
    main()
