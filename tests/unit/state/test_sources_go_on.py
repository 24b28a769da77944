"""Schedulers, scalers, averages, statistics, queues, buffers and plain attributes: put back, they go on bit for bit."""

import collections
import copy
import enum
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, update_bn

from tests.unit.state.state_support import capture, digests, put_back, watch

Step = Callable[[int], Any]
Objects = dict[str, Any]


def training(name: str) -> tuple[Objects, Step]:
    """Build one training anew: what is watched, and what a step does with it."""
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    return TRAININGS[name]()


def noise(step: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(step))


def fit(net: nn.Module, optimizer: torch.optim.Optimizer, step: int, inputs: torch.Tensor | None = None) -> None:
    optimizer.zero_grad()
    net(noise(step, 8, 4) if inputs is None else inputs).square().mean().backward()
    optimizer.step()


# Schedulers.


class Warmup:
    """A callable object: its attributes are state, a lambda's are not."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 0.9**self.calls


class Plateau(schedules.ReduceLROnPlateau):
    """Fed with a loss that stalls."""

    def advance(self, step: int) -> None:
        self.step(1.0 / (1 + min(step, 3)))


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: schedules.StepLR(o, 3),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [2, 6, 6]),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.5, 7),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=8),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 1.0, total_steps=20),
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda step: 0.8**step),
    "LambdaLR object": lambda o: schedules.LambdaLR(o, Warmup()),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.95),
    "ReduceLROnPlateau": lambda o: Plateau(o, patience=1, cooldown=1),
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=4),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.5, 3), schedules.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=4), schedules.CosineAnnealingLR(o, 6)], [4]
    ),
}


def scheduled(make: Callable[[torch.optim.Optimizer], Any]) -> tuple[Objects, Step]:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = make(optimizer)

    def step(number: int) -> None:
        fit(net, optimizer, number)
        scheduler.advance(number) if isinstance(scheduler, Plateau) else scheduler.step()

    return {"model": net, "optimizer": optimizer, "scheduler": scheduler}, step


def scaled(**arguments: Any) -> tuple[Objects, Step]:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", **arguments)

    def step(number: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(noise(number, 8, 4)).square().mean()
        if number % 4 == 3:
            loss = loss * torch.inf
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return {"model": net, "optimizer": optimizer, "scaler": scaler}, step


# Averages.


class HandMadeEma:
    """The kind found in many repositories: a dict of tensors, a decay, a counter, and a reference to the model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.updates = 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.backup = {}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, p in self.model.named_parameters():
            self.shadow[name] = rate * self.shadow[name] + (1 - rate) * p


class EmaOfModule:
    """Holds a copied module that is watched nowhere else."""

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).eval()
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.num_updates += 1
        for mine, its in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(its, 0.1)


def averaged() -> tuple[Objects, Step]:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    single = AveragedModel(net, avg_fn=get_ema_avg_fn(0.8))
    swa = AveragedModel(net)
    shadow, follower, plain = HandMadeEma(net, 0.99), EmaOfModule(net), {}

    def step(number: int) -> None:
        fit(net, optimizer, number)
        for each in (ema, single, swa):
            each.update_parameters(net)
        shadow.update()
        follower.update(net)
        update_bn([noise(number, 8, 4)], swa)
        for name, p in net.named_parameters():
            plain[name] = 0.5 * plain[name] + 0.5 * p.detach() if name in plain else p.detach().clone()

    objects = {"model": net, "optimizer": optimizer, "ema": ema, "single": single, "swa": swa}
    return {**objects, "shadow": shadow, "follower_ema": follower, "plain_ema": plain}, step


# BatchNorm.


def normalised(net: nn.Module, *shape: int) -> tuple[Objects, Step]:
    def step(number: int) -> None:
        net(noise(number, *shape)).square().mean().backward()
        for p in net.parameters():
            p.data -= 0.1 * p.grad
            p.grad = None

    return {"model": net}, step


# Queues, banks, buffers, attributes.


class Contrast(nn.Module):
    """A registered queue with its pointer, a bank that is rebound, numbers, a lazy attribute, a hidden teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.register_buffer("queue", torch.randn(3, 16))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.memory_bank = torch.zeros(0, 3)
        self.temperature = 0.5
        self.last_output = None
        self.recent = collections.deque(maxlen=3)
        self.counts = {"seen": 0, "by": [0, 0]}
        self.hidden = [nn.Linear(4, 3)]
        self.weights = [self.encoder.weight]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        keys = self.encoder(inputs)
        start = int(self.queue_ptr)
        self.queue[:, start : start + 8] = keys.detach().T
        self.queue_ptr[0] = (start + 8) % 16
        self.memory_bank = torch.cat([self.memory_bank, keys.detach()])[-20:]
        self.temperature *= 0.97
        self.counts["seen"] += len(inputs)
        self.counts["by"][start // 8] += 1
        self.recent.append(keys.detach().mean(0))
        if not hasattr(self, "centre"):
            self.centre = torch.zeros(3)
        self.centre = 0.9 * self.centre + 0.1 * keys.detach().mean(0)
        with torch.no_grad():
            self.hidden[0].weight.lerp_(self.encoder.weight, 0.1)
        loss = keys @ self.queue.clone() / self.temperature + self.memory_bank.mean() + self.centre.sum()
        self.last_output = loss
        return loss * sum(r.sum() for r in self.recent) + self.hidden[0](inputs).sum()


def contrast() -> tuple[Objects, Step]:
    net = Contrast()
    optimizer = torch.optim.SGD(net.encoder.parameters(), lr=1e-3)
    return {"model": net, "optimizer": optimizer}, lambda number: fit(net, optimizer, number)


Transition = collections.namedtuple("Transition", ["state", "action", "reward"])


class Phase(enum.Enum):
    EXPLORE = 1
    EXPLOIT = 2


class Replay:
    """Arrays, deques, named tuples, generators, an enumeration, a nested object; no state_dict."""

    def __init__(self) -> None:
        self.states = np.zeros((6, 2), dtype=np.float32)
        self.items = collections.deque(maxlen=5)
        self.priorities = []
        self.position = 0
        self.rng = np.random.default_rng(1)
        self.legacy = np.random.RandomState(2)
        self.python = random.Random(3)
        self.generator = torch.Generator().manual_seed(4)
        self.phase = Phase.EXPLORE
        self.seen = set()
        self.tally = collections.Counter()
        self.by_action = collections.defaultdict(list)
        self.inner = Warmup()
        self.transform = lambda value: value

    def push(self, step: int) -> float:
        state = self.rng.normal(size=2).astype(np.float32) + np.float32(self.legacy.rand())
        action = self.python.randrange(3)
        self.states[self.position] = state
        self.items.append(Transition(torch.from_numpy(state), action, np.float32(step)))
        self.priorities.append(float(torch.rand(1, generator=self.generator)))
        self.position = (self.position + 1) % 6
        self.phase = Phase.EXPLOIT if step > 2 else Phase.EXPLORE
        self.seen.add(action)
        self.tally[action] += 1
        self.by_action[action].append(step)
        return float(self.states.sum()) + sum(float(item.reward) for item in self.items) + self.inner(step)


def replayed() -> tuple[Objects, Step]:
    net, replay = nn.Linear(4, 1), Replay()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    recent, sums = collections.deque(maxlen=4), {"total": 0.0}
    table, history = np.zeros(3), [torch.zeros(2)]

    def step(number: int) -> None:
        scale = replay.push(number) + sum(recent) + sums["total"] + table.sum() + float(history[-1].sum())
        fit(net, optimizer, number, noise(number, 8, 4) * scale)
        recent.append(scale)
        sums["total"] += 0.1
        table[number % 3] += 1
        history.append(torch.full((2,), float(number)))

    objects = {"model": net, "optimizer": optimizer, "replay": replay, "recent_queue": recent}
    return {**objects, "sums": sums, "table": table, "history": history}, step


class Curriculum(torch.utils.data.Sampler):
    def __init__(self, data: Any) -> None:
        self.data_source = data
        self.stage = 0
        self.difficulty = torch.zeros(5)
        self.order = []

    def __iter__(self) -> Any:
        return iter(self.order)


class Policy:
    def __init__(self) -> None:
        self.stage = 0
        self.strengths = [0.1, 0.2]
        self.operations = [Warmup(), Warmup()]


def sampled() -> tuple[Objects, Step]:
    sampler, policy = Curriculum(object()), Policy()

    def step(number: int) -> None:
        sampler.stage += policy.stage
        sampler.difficulty += number
        sampler.order = torch.randperm(5, generator=torch.Generator().manual_seed(number)).tolist()
        policy.stage = number % 3
        policy.strengths[0] *= 1.1
        policy.operations[1](number)

    return {"sampler": sampler, "augment": policy}, step


def recurrent() -> tuple[Objects, Step]:
    net = nn.ModuleDict({"rnn": nn.GRU(4, 3, batch_first=True), "head": nn.Linear(3, 1)})
    net.carried = None
    optimizer = torch.optim.Adam(net.parameters())

    def step(number: int) -> None:
        optimizer.zero_grad()
        out, carried = net["rnn"](noise(number, 2, 5, 4), net.carried)
        net.carried = carried.detach()
        net["head"](out).square().mean().backward()
        optimizer.step()

    return {"model": net, "optimizer": optimizer}, step


def reparametrised() -> tuple[Objects, Step]:
    net = nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.Linear(4, 1),
    )
    optimizer = torch.optim.Adam(net.parameters())
    return {"model": net, "optimizer": optimizer}, lambda number: fit(net, optimizer, number)


def wrapped() -> tuple[Objects, Step]:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters())
    parallel, compiled = nn.DataParallel(net), torch.compile(net, backend="eager")

    def step(number: int) -> None:
        torch.manual_seed(number)
        fit(parallel, optimizer, number)
        net[1].p = 0.01 * number
        net[2].momentum = 0.1 / (1 + number)

    return {"model": compiled, "optimizer": optimizer}, step


TRAININGS: dict[str, Callable[[], tuple[Objects, Step]]] = {
    **{name: (lambda make=make: scheduled(make)) for name, make in SCHEDULES.items()},
    "GradScaler": lambda: scaled(init_scale=64.0, growth_interval=2),
    "GradScaler disabled": lambda: scaled(enabled=False),
    "averages": averaged,
    "BatchNorm1d": lambda: normalised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), 8, 4),
    "BatchNorm2d": lambda: normalised(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 4, 1, 5, 5),
    "BatchNorm3d": lambda: normalised(nn.BatchNorm3d(2, momentum=None), 3, 2, 2, 2, 2),
    "SyncBatchNorm": lambda: normalised(nn.SyncBatchNorm(3).requires_grad_(True).eval(), 8, 3),
    "LazyBatchNorm": lambda: normalised(nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()), 8, 4),
    "InstanceNorm": lambda: normalised(nn.InstanceNorm1d(3, affine=True, track_running_stats=True), 4, 3, 5),
    "contrast": contrast,
    "replay": replayed,
    "sampler and augmentation": sampled,
    "recurrent": recurrent,
    "norms": reparametrised,
    "wrapped": wrapped,
}


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning", "ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("elsewhere", [0, 2], ids=["fresh", "trained elsewhere"])
@pytest.mark.parametrize("name", TRAININGS)
def test_it_goes_on_bit_for_bit(name: str, elsewhere: int) -> None:
    objects, step = training(name)
    found = watch(**objects)
    for number in range(5):
        step(number)
    held = capture(found)
    trail = []
    for number in range(5, 10):
        step(number)
        trail.append(digests(found))
    objects2, step2 = training(name)
    found2 = watch(**objects2)
    for number in range(60, 60 + elsewhere):
        step2(number)
    put_back(found2, held)
    for number in range(5, 10):
        step2(number)
        assert digests(found2) == trail[number - 5]
