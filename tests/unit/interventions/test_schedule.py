"""Schedules and scalers that start over, or stand still: held to new ones, step by step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR

from auditor.interventions.intervention import Branch
from auditor.state.anchor import copied
from auditor.state.census import Watched
from tests.support.intervene import intervene, watching

Make = Callable[[torch.optim.Optimizer], Any]

KINDS: dict[str, Make] = {
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 0.9**step),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.8 if step % 3 else 1.1),
    "step": lambda o: schedules.StepLR(o, 3, gamma=0.5),
    "milestones": lambda o: schedules.MultiStepLR(o, [2, 5], gamma=0.3),
    "constant": lambda o: schedules.ConstantLR(o, 0.25, total_iters=4),
    "linear": lambda o: schedules.LinearLR(o, 0.2, total_iters=6),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.7),
    "polynomial": lambda o: schedules.PolynomialLR(o, 20, 2.0),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 9),
    "warm restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 2),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.3, step_size_up=4, mode="exp_range", gamma=0.95),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.5, total_steps=40),
    "swa": lambda o: SWALR(o, 0.01, anneal_epochs=5),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=3), schedules.CosineAnnealingLR(o, 12)], [3]
    ),
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.5, total_iters=5), schedules.ExponentialLR(o, 0.9)]
    ),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=1, factor=0.5),
}


class Training:
    """Two groups, a schedule, and the state in which a cell finds them before an anchor is put into them."""

    def __init__(self, make: Make | None, *, adam: bool = False, **more: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        groups = [{"params": self.model[0].parameters(), "lr": 0.2}, {"params": self.model[1].parameters()}]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(groups, lr=0.1) if adam else torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        )
        self.schedule = None if make is None else make(self.optimizer)
        named = {} if self.schedule is None else {"scheduler": self.schedule}
        self.watched = watching(model=self.model, optimizer=self.optimizer, **named, **more)
        kinds = {"hyper", "scheduler", "scaler"}
        built = {s.name: copied(s.read()) for s in self.watched.sources() if s.kind in kinds and s.captured}
        self.branch = Branch(self.watched, "0/0", built=built)

    def update(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def step(self) -> None:
        self.update()
        arguments = [1.0] if isinstance(self.schedule, schedules.ReduceLROnPlateau) else []
        self.schedule.step(*arguments)

    def rates(self) -> list[Any]:
        names = ("lr", "momentum", "betas")
        return [group[name] for group in self.optimizer.param_groups for name in names if name in group]


def digests(watched: Watched, *kinds: str) -> dict[str, bytes]:
    return {source.name: source.read().digest() for source in watched.sources() if source.kind in kinds}


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_reset_schedule_stands_and_goes_on_as_a_new_one(make: Make, adam: bool) -> None:
    training, new = Training(make, adam=adam), Training(make, adam=adam)
    for _ in range(7):
        training.step()
    weights = digests(training.watched, "params", "optimizer")
    _, receipt = intervene(training.watched, "scheduler", "reset", training.branch)
    assert receipt["applied"] is True
    cycles = getattr(training.schedule, "cycle_momentum", False)
    assert receipt["digest_before"].keys() == {"scheduler", "hyper.lr"} | (
        {"hyper.betas" if adam else "hyper.momentum"} if cycles else set()
    )
    assert digests(training.watched, "params", "optimizer") == weights
    assert digests(training.watched, "scheduler", "hyper") == digests(new.watched, "scheduler", "hyper")
    for _ in range(9):
        training.step()
        new.step()
        assert training.rates() == new.rates()


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_held_schedule_leaves_every_update_the_rates_of_the_fork(make: Make) -> None:
    training, by_hand = Training(make), Training(make)
    for _ in range(4):
        training.step()
        by_hand.step()
    held = digests(training.watched, "scheduler", "hyper")
    intervention, receipt = intervene(training.watched, "scheduler", "hold", training.branch)
    assert receipt["applied"] is True
    assert receipt["digest_before"] == receipt["digest_after"]
    for _ in range(6):
        training.step()
        intervention.after_step(training.branch)
        assert digests(training.watched, "scheduler", "hyper") == held
        by_hand.update()
    assert digests(training.watched, "params", "optimizer") == digests(by_hand.watched, "params", "optimizer")


def test_a_schedule_that_steps_between_two_records_is_held_too() -> None:
    """As at the end of an epoch: after the last step was recorded and before the next update."""
    training, by_hand = Training(KINDS["exponential"]), Training(KINDS["exponential"])
    training.update()
    by_hand.update()
    intervention, _ = intervene(training.watched, "scheduler", "hold", training.branch)
    for _ in range(3):
        training.schedule.step()
        training.update()
        by_hand.update()
        assert intervention.after_step(training.branch) is True
    assert digests(training.watched, "params") == digests(by_hand.watched, "params")


def test_a_rate_that_is_a_tensor_is_reset_in_place() -> None:
    model = nn.Linear(2, 1)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=False)
    schedule = schedules.ExponentialLR(optimizer, 0.5)
    watched = watching(model=model, optimizer=optimizer, scheduler=schedule)
    built = {s.name: copied(s.read()) for s in watched.sources() if s.kind in ("hyper", "scheduler")}
    optimizer.step()
    schedule.step()
    assert rate.item() == pytest.approx(0.05)
    intervene(watched, "scheduler", "reset", Branch(watched, "0/0", built=built))
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(rate, torch.tensor(0.1))


class Own(schedules.LRScheduler):
    """A schedule with a formula of its own: what it sets is still the learning rate."""

    def get_lr(self) -> list[Any]:
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class Stepping(schedules.LRScheduler):
    """One that sets what it likes."""

    def get_lr(self) -> list[Any]:
        return list(self.base_lrs)

    def step(self, epoch: Any = None) -> None:
        super().step()
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.01


class Odd:
    def __init__(self) -> None:
        self.count = 0

    def step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_a_schedule_with_a_formula_of_its_own_starts_over() -> None:
    training, new = Training(Own), Training(Own)
    training.step()
    intervene(training.watched, "scheduler", "reset", training.branch)
    assert digests(training.watched, "scheduler", "hyper") == digests(new.watched, "scheduler", "hyper")


@pytest.mark.parametrize("action", ["reset", "hold"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (None, "there is no scheduler at this step"),
        (Stepping, "what else a Stepping sets is not known: its step() is its own"),
        (lambda optimizer: Odd(), "which rates scheduler sets is not known: it is none of torch's schedulers"),
    ],
    ids=["none", "own step", "not torch's"],
)
def test_schedules_whose_rates_are_not_known_are_not_guessed_at(make: Any, reason: str, action: str) -> None:
    training = Training(make)
    if training.schedule is not None:
        training.step()
    _, receipt = intervene(training.watched, "scheduler", action, training.branch)
    assert receipt["reason"] == reason


def test_a_schedule_on_an_optimizer_that_nobody_watches_is_left_alone() -> None:
    model = nn.Linear(2, 1)
    schedule = schedules.ExponentialLR(sgd := torch.optim.SGD(model.parameters(), lr=0.1), 0.9)
    sgd.step()
    schedule.step()
    _, receipt = intervene(watching(model=model, scheduler=schedule), "scheduler", "hold")
    assert receipt["reason"] == "the optimizer whose rates it sets is not watched"


def test_two_schedules_of_one_optimizer_are_reset_together_or_not_at_all() -> None:
    def build() -> Training:
        training = Training(None)
        warm = schedules.LinearLR(training.optimizer, 0.5, total_iters=4)
        decay = schedules.ExponentialLR(training.optimizer, 0.9)
        training.watched = watching(model=training.model, optimizer=training.optimizer, warm=warm, decay=decay)
        built = {s.name: copied(s.read()) for s in training.watched.sources() if s.kind in ("hyper", "scheduler")}
        training.branch = Branch(training.watched, "0/0", built=built)
        return training

    training, new = build(), build()
    for _ in range(3):
        training.update()
        training.watched.objects["warm"].step()
        training.watched.objects["decay"].step()
    _, receipt = intervene(training.watched, "scheduler[warm]", "reset", training.branch)
    assert receipt["reason"] == "scheduler[decay] sets the rates of the same optimizer; name both: scheduler=…"
    _, receipt = intervene(training.watched, "scheduler", "reset", training.branch)
    assert receipt["digest_before"].keys() == {"scheduler[warm]", "scheduler[decay]", "hyper.lr"}
    assert digests(training.watched, "scheduler", "hyper") == digests(new.watched, "scheduler", "hyper")


def test_a_schedule_inside_another_goes_with_it() -> None:
    training = Training(None)
    parts = [schedules.LinearLR(training.optimizer, 0.5), schedules.ExponentialLR(training.optimizer, 0.9)]
    whole = schedules.SequentialLR(training.optimizer, parts, [3])
    watched = watching(model=training.model, optimizer=training.optimizer, whole=whole, part=parts[0])
    built = {s.name: copied(s.read()) for s in watched.sources() if s.kind in ("hyper", "scheduler")}
    branch = Branch(watched, "0/0", built=built)
    training.update()
    whole.step()
    _, receipt = intervene(watched, "scheduler[part]", "reset", branch)
    assert "scheduler[whole] sets the rates of the same optimizer" in receipt["reason"]
    _, receipt = intervene(watched, "scheduler[whole]", "reset", branch)
    assert receipt["digest_before"].keys() == {"scheduler[whole]", "scheduler[part]", "hyper.lr"}


def test_each_of_two_optimizers_schedules_is_reset_alone() -> None:
    one, two = Training(KINDS["exponential"]), Training(KINDS["exponential"])
    watched = watching(
        one=one.model,
        two=two.model,
        first=one.optimizer,
        second=two.optimizer,
        early=one.schedule,
        late=two.schedule,
    )
    built = {s.name: copied(s.read()) for s in watched.sources() if s.kind in ("hyper", "scheduler")}
    one.step()
    two.step()
    _, receipt = intervene(watched, "scheduler[late]", "reset", Branch(watched, "0/0", built=built))
    assert receipt["digest_before"].keys() == {"scheduler[late]", "hyper[second].lr"}


def test_a_reset_at_the_start_is_not_applied() -> None:
    training = Training(KINDS["cosine"])
    _, receipt = intervene(training.watched, "scheduler", "reset", training.branch)
    assert receipt["reason"] == "scheduler already was as reset makes it"


def test_what_was_made_after_the_loop_began_cannot_be_reset() -> None:
    training = Training(KINDS["cosine"])
    training.step()
    _, receipt = intervene(training.watched, "scheduler", "reset", Branch(training.watched, "0/0"))
    assert receipt["reason"] == "how the program built scheduler is not known: it was made later"


def test_groups_that_came_later_cannot_be_reset() -> None:
    training = Training(KINDS["plateau"])
    training.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3})
    _, receipt = intervene(training.watched, "scheduler", "reset", training.branch)
    assert receipt["reason"] == "hyper.lr had 2 parameter groups when it was built, not as many as now"


# The loss scale.


def scaled(training: Training, scaler: Any, *, overflow: bool = False) -> None:
    training.optimizer.zero_grad()
    loss = training.model(torch.ones(2, 3)).sum()
    scaler.scale(loss * (float("inf") if overflow else 1.0)).backward()
    scaler.step(training.optimizer)
    scaler.update()


def a_scaler() -> Any:
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)


@pytest.mark.parametrize("loaded", [False, True], ids=["as it ran", "as an anchor loads it"])
def test_a_reset_scaler_is_as_the_program_built_it(loaded: bool) -> None:
    scaler = a_scaler()
    training = Training(None, scaler=scaler)
    for overflow in (False, False, False, True, False):
        scaled(training, scaler, overflow=overflow)
    if loaded:
        scaler.load_state_dict(scaler.state_dict())
    assert (scaler.get_scale(), scaler.state_dict()["_growth_tracker"]) == (1024.0, 1)
    scaled(training, scaler)
    assert scaler.get_scale() == 2048.0
    _, receipt = intervene(training.watched, "scaler", "reset", training.branch)
    assert receipt["digest_before"].keys() == {"scaler"}
    assert scaler.state_dict() == a_scaler().state_dict()


def test_a_held_scaler_neither_grows_nor_backs_off() -> None:
    scaler = a_scaler()
    training = Training(None, scaler=scaler)
    scaled(training, scaler)
    held = scaler.state_dict()
    intervention, receipt = intervene(training.watched, "scaler", "hold", training.branch)
    assert receipt["applied"] is True
    for overflow in (False, True, True, False):
        scaled(training, scaler, overflow=overflow)
        assert intervention.after_step(training.branch) is True
        assert scaler.state_dict() == held
    # An update after the step was recorded is undone before the next loss is scaled.
    scaler.load_state_dict({**held, "scale": 2.0})
    training.model(torch.ones(2, 3))
    assert scaler.get_scale() == held["scale"]


@pytest.mark.parametrize("action", ["reset", "hold"])
def test_a_disabled_scaler_has_nothing_to_change(action: str) -> None:
    training = Training(None, scaler=torch.amp.GradScaler("cpu", enabled=False))
    _, receipt = intervene(training.watched, "scaler", action, training.branch)
    assert receipt["reason"] == "scaler is disabled: it scales nothing"
