"""L-BFGS with a strong Wolfe line search: an optimizer whose memory is the algorithm.

Benign or malignant, from 30 measurements a patient (the Wisconsin breast cancer data). L-BFGS builds its picture of the
curvature from the last ten moves and gradient changes; one ``optimizer.step(closure)`` evaluates the net many times. It
is fed large batches, four a pass, and the learning rate halves when the loss on held-back samples stops falling
(``ReduceLROnPlateau``, which remembers the best loss so far and for how long nothing was better).

    python examples/lbfgs.py
"""

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import auditor


def split():
    """Return (inputs, targets) for training (349 samples), for the schedule (100), and for testing (120)."""
    cancer = load_breast_cancer()
    inputs = torch.tensor(cancer.data, dtype=torch.float32)
    targets = torch.tensor(cancer.target)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(569))
    train, held_back, test = order[220:], order[120:220], order[:120]
    inputs = (inputs - inputs[train].mean(dim=0)) / inputs[train].std(dim=0)
    return [(inputs[part], targets[part]) for part in (train, held_back, test)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/lbfgs")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three epochs")
    options = parser.parse_args()
    epochs = 3 if options.quick else options.epochs
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        train, held_back, test = split()
        model = nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 2))
        optimizer = torch.optim.LBFGS(
            model.parameters(), lr=0.5, max_iter=5, history_size=10, line_search_fn="strong_wolfe"
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        loader = DataLoader(TensorDataset(*train), batch_size=88, shuffle=True, num_workers=options.workers)

        run.watch(model=model, optimizer=optimizer, scheduler=scheduler)
        run.probe(model, test[0], targets=test[1])

        for _ in run.epochs(epochs):
            for inputs, targets in run.batches(loader):

                def closure(inputs=inputs, targets=targets):
                    optimizer.zero_grad()
                    penalty = sum(parameter.square().sum() for parameter in model.parameters())
                    loss = F.cross_entropy(model(inputs), targets) + 0.003 * penalty
                    loss.backward()
                    return loss

                loss = optimizer.step(closure)
                run.step(loss=loss)
            with torch.no_grad():
                scheduler.step(F.cross_entropy(model(held_back[0]), held_back[1]))

        with torch.no_grad():
            accuracy = (model(test[0]).argmax(dim=1) == test[1]).float().mean().item()
        print(f"test accuracy {accuracy:.4f}, last learning rate {optimizer.param_groups[0]['lr']:g}")


if __name__ == "__main__":
    main()
