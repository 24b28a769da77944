"""Streams, policies, queues and the loss scale through the real command: every number computed here as well."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.test_replay import cells, steps_of
from tests.support.estimates import receipt_of, recorded_text, replayed, row_of

# A training to which nothing that is drawn, queued or scaled makes a difference: scales are powers of two.
PROGRAM = """
import random

import numpy as np
import torch

import auditor


class Policy:
    def __init__(self):
        self.rng = np.random.default_rng(1)


torch.set_num_threads(1)
with auditor.record("run", seed=3) as run:
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    model.register_buffer("queue", torch.zeros(6, 1))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=4)
    noise, policy = torch.Generator().manual_seed(1), Policy()
    run.watch(model=model, optimizer=optimizer, scaler=scaler, noise=noise, augment=policy)
    drawn = dict.fromkeys(("python", "numpy", "torch", "noise", "augment.rng"), 0.0)
    for name in drawn:
        run.outcome(name, lambda name=name: drawn[name])
    for place in range(6):
        run.outcome(f"queue_{place}", lambda place=place: model.queue[place, 0])
    run.outcome("scale", scaler.get_scale)
    run.outcome("theta", lambda: model.theta.sum())
    for step in run.steps(24):
        drawn["python"] = random.random()
        drawn["numpy"] = np.random.random_sample()
        drawn["torch"] = torch.rand((), dtype=torch.float64).item()
        drawn["noise"] = torch.rand((), dtype=torch.float64, generator=noise).item()
        drawn["augment.rng"] = policy.rng.random()
        optimizer.zero_grad()
        loss = model.theta.square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            model.queue[int(model.queue_ptr)] = step + 1
            model.queue_ptr[0] = (int(model.queue_ptr) + 1) % 6
        run.step(loss=loss)
"""
FORK, HORIZONS, UNITS = 10, (1, 3, 6, 9), (0, 1)
DRAWS: dict[str, Callable[[int], Callable[[], float]]] = {
    "python": lambda seed: random.Random(seed).random,
    "numpy": lambda seed: np.random.RandomState(seed & 0xFFFFFFFF).random_sample,
    "torch": lambda seed: _of(torch.Generator().manual_seed(seed)),
    "noise": lambda seed: _of(torch.Generator().manual_seed(seed)),
    "augment.rng": lambda seed: np.random.Generator(np.random.PCG64(seed)).random,
}
STREAMS = [*(f"stream.{name}=rekey" for name in DRAWS), "stream=rekey", "augment=rekey"]
QUEUES = ["queue=flush", "queue=truncate,length=2", "queue=age,entries=2", "queue=shuffle"]
SCALES = ["scaler=reset", "scaler=hold"]


def _of(generator: torch.Generator) -> Callable[[], float]:
    return lambda: torch.rand((), dtype=torch.float64, generator=generator).item()


def draw(name: str, key: str, number: int) -> float:
    """The stream's draw of that number after it began anew under a key (docs/study.md, "Cells")."""
    seed = int.from_bytes(hashlib.sha256(f"{key}\n{name}".encode()).digest()[:8], "big") >> 1
    following = DRAWS[name](seed)
    return [following() for _ in range(number)][-1]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = recorded_text(tmp_path_factory.mktemp("numbers"), PROGRAM)
    arms = [word for arm in (*STREAMS, *QUEUES, *SCALES) for word in ("--do", arm)]
    horizons = [word for horizon in HORIZONS for word in ("--horizon", horizon)]
    return run, replayed(run, "--at", FORK, *arms, *horizons, seeds=len(UNITS))


@pytest.mark.parametrize("arm", STREAMS)
def test_a_stream_gives_the_draws_of_its_seed_and_the_others_those_of_the_unit(
    study: tuple[Path, dict[str, Any]], arm: str
) -> None:
    _, estimate = study
    assert receipt_of(estimate, arm)["applied"] is True
    for name in DRAWS:
        rekeyed = arm in (f"stream.{name}=rekey", "stream=rekey")
        suffix = "/rekey" if rekeyed else ""
        if arm == "augment=rekey" and name == "augment.rng":
            suffix = "/intervention [('do', 'rekey'), ('source', 'augment')]"
        for horizon in HORIZONS:
            row = row_of(estimate, arm, name, horizon)
            assert row["control"] == [draw(name, f"0/{unit}", horizon) for unit in UNITS]
            assert row["treated"] == [draw(name, f"0/{unit}{suffix}", horizon) for unit in UNITS]
            assert (row["treated"] != row["control"]) == bool(suffix)


def written(queue: list[int], pointer: int, horizon: int) -> list[int]:
    """Write the steps after the fork into a ring."""
    queue = list(queue)
    for step in range(FORK + 1, FORK + horizon + 1):
        queue[pointer] = step
        pointer = (pointer + 1) % len(queue)
    return queue


AT_FORK = [7, 8, 9, 10, 5, 6]
"""What the ring of six holds after ten steps; 10 is the newest, the next goes to where 5 stands."""
CHANGED = {
    "queue=flush": ([0, 0, 0, 0, 0, 0], 0),
    "queue=truncate,length=2": ([0, 0, 9, 10, 0, 0], 4),
    "queue=age,entries=2": ([7, 8, 5, 6, 5, 6], 4),
}


def entries(estimate: dict[str, Any], arm: str, horizon: int, which: str) -> list[float]:
    return [row_of(estimate, arm, f"queue_{place}", horizon)[which][0] for place in range(6)]


@pytest.mark.parametrize("arm", CHANGED)
def test_a_queue_holds_what_is_written_into_the_changed_one(study: tuple[Path, dict[str, Any]], arm: str) -> None:
    _, estimate = study
    assert receipt_of(estimate, arm)["applied"] is True
    for horizon in HORIZONS:
        assert entries(estimate, arm, horizon, "control") == written(AT_FORK, 4, horizon)
        assert entries(estimate, arm, horizon, "treated") == written(*CHANGED[arm], horizon)


def test_a_shuffled_queue_holds_the_same_in_another_order_until_all_of_it_is_replaced(
    study: tuple[Path, dict[str, Any]],
) -> None:
    _, estimate = study
    first = entries(estimate, "queue=shuffle", 1, "treated")
    kept = [*first[:4], first[5]]
    assert first[4] == FORK + 1
    assert len(set(kept)) == 5
    assert set(kept) < set(AT_FORK)
    assert kept != [7, 8, 9, 10, 6]
    assert entries(estimate, "queue=shuffle", 6, "treated") == written(AT_FORK, 4, 6)


def test_the_loss_scale_grows_from_its_start_or_not_at_all_and_no_weight_changes_a_bit(
    study: tuple[Path, dict[str, Any]],
) -> None:
    run, estimate = study
    found = cells(run.parent / "study")
    for arm, scale in (("scaler=reset", lambda horizon: 16.0 * 2 ** (horizon // 4)), ("scaler=hold", lambda _: 64.0)):
        for horizon in HORIZONS:
            row = row_of(estimate, arm, "scale", horizon)
            assert row["treated"] == [scale(horizon)] * 2
            assert row["control"] == [16.0 * 2 ** ((FORK + horizon) // 4)] * 2
            assert row_of(estimate, arm, "theta", horizon)["differences"] == [0.0, 0.0]
        treated, control = (steps_of(found[name, 0, 0]) for name in (arm, "carry"))
        assert [step.sources["params"] for step in treated] == [step.sources["params"] for step in control]
