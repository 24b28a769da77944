"""A small training that says which samples each step consumed, and what they held: for tests of orders.

``python ordered.py --workers 2`` prints one line a step; ``train(out, log, workers=2)`` adds them to a list.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import auditor

SIZE = 24
BATCH = 4
INPUTS = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(3))
TARGETS = INPUTS.sum(dim=1, keepdim=True)


class Numbered(Dataset[tuple[int, torch.Tensor]]):
    """Sample i is i with its input; ``noisy`` adds what torch's stream gives."""

    def __init__(self, *, noisy: bool = False) -> None:
        self.noisy = noisy

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return int(index), INPUTS[index] + (torch.randn(3) if self.noisy else 0.0)


class Unnumbered(IterableDataset[tuple[int, torch.Tensor]]):
    """The samples, one after the other."""

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        return ((index, INPUTS[index]) for index in range(SIZE))


class Pairs(Sampler[list[int]]):
    """A batch sampler of the program's own, which draws each batch when it is asked for it."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(SIZE // BATCH):
            yield torch.randint(SIZE, (BATCH,), generator=self.generator).tolist()

    def __len__(self) -> int:
        return SIZE // BATCH


def own() -> torch.Generator:
    return torch.Generator().manual_seed(5)


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "shuffled": lambda data: {"batch_size": BATCH, "shuffle": True},
    "sequential": lambda data: {"batch_size": BATCH},
    "own generator": lambda data: {"batch_size": BATCH, "shuffle": True, "generator": own()},
    # torch's sampler draws 32 ids at once with replacement, from a generator that the contract lists.
    "replacement": lambda data: {
        "batch_size": 8,
        "sampler": RandomSampler(data, replacement=True, num_samples=48, generator=own()),
    },
    "weighted": lambda data: {"batch_size": BATCH, "sampler": WeightedRandomSampler(torch.ones(SIZE), SIZE)},
    "subset": lambda data: {"batch_size": BATCH, "sampler": SubsetRandomSampler(range(0, SIZE, 2))},
    "uneven": lambda data: {"batch_sampler": BatchSampler(RandomSampler(data), 5, drop_last=False)},
    "own batches": lambda data: {"batch_sampler": Pairs(own())},
    "own batches, torch": lambda data: {"batch_sampler": Pairs(None)},
}


def twins() -> list[list[int]]:
    """Return the batches of a pass whose third and fourth are the same."""
    batches = [list(range(first, first + BATCH)) for first in range(0, SIZE, BATCH)]
    batches[3] = list(batches[2])
    return batches


def loader_of(kind: str, data: Any, workers: int) -> Any:
    if kind == "iterable":
        return DataLoader(Unnumbered(), batch_size=BATCH)
    if kind == "list":
        return [(torch.tensor(ids), INPUTS[ids]) for ids in twins()]
    if kind == "twins":
        return DataLoader(data, batch_sampler=twins(), num_workers=workers)
    return DataLoader(data, num_workers=workers, **KINDS[kind](data))


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, -0.2, 0.3]]))
        model.bias.zero_()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def accumulate(model: nn.Module, ids: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    loss = (model(inputs) - TARGETS[ids]).square().mean()
    loss.backward()
    return loss


def train(
    out: str,
    log: list[Any],
    *,
    kind: str = "shuffled",
    workers: int = 0,
    accumulates: int = 1,
    ragged: bool = False,
    noisy: bool = False,
    keyed: bool = False,
    beside: bool = False,
    by_hand: bool = False,
    epochs: int = 3,
) -> None:
    """Train; ``log`` gets, for each step, ``[epoch, ids, inputs]`` of each batch that it took.

    ``accumulates`` batches make a step, or, if it is ``ragged``, fewer where a draw says so. ``beside`` walks a second
    loader along with the first; ``by_hand`` walks none.
    """
    with auditor.record(out, seed=0, anchor_every=4) as run:
        data: Any = Numbered(noisy=noisy)
        if keyed:
            data = auditor.KeyedDataset(data, seed=7)
        loader = loader_of(kind, data, workers)
        other = DataLoader(Numbered(), batch_size=2, shuffle=True)
        model, optimizer = build()
        run.watch(model=model, optimizer=optimizer)
        run.probe(model, INPUTS[:8])
        run.outcome("loss", lambda: (model(INPUTS) - TARGETS).square().mean())
        consumed: list[Any] = []

        def take(epoch: int, ids: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            consumed.append([epoch, ids.tolist(), inputs.tolist()])
            return accumulate(model, ids, inputs)

        def close(loss: torch.Tensor) -> None:
            torch.rand(1)  # the training draws as well
            optimizer.step()
            optimizer.zero_grad()
            log.append(list(consumed))
            consumed.clear()
            run.step(loss=loss)

        if by_hand:
            for index in run.steps(12):
                ids = torch.tensor([index % SIZE])
                run.batch(ids=ids.tolist())
                close(take(0, ids, INPUTS[ids]))
            return
        for epoch in run.epochs(epochs):
            others = run.batches(other) if beside else None
            for number, batch in enumerate(run.batches(loader), start=1):
                loss = take(epoch, *batch)
                if others is not None:
                    take(epoch, *next(others))
                if number % accumulates == 0 or (ragged and torch.rand(1) < 0.5):
                    close(loss)


class Printed(list[Any]):
    """A list that prints what it gets."""

    def append(self, value: Any) -> None:
        print(json.dumps(value), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", default="shuffled")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accumulates", type=int, default=1)
    for name in ("ragged", "noisy", "keyed"):
        parser.add_argument(f"--{name}", action="store_true")
    torch.set_num_threads(1)
    train("run", Printed(), **vars(parser.parse_args()))


if __name__ == "__main__":
    main()
