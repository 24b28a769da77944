from collections import deque
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.strict_json import parse_canonical
from auditor.errors import MemauditError
from auditor.state.anchor import copied
from auditor.state.source import Reading
from auditor.state.stateful import Stateful, StatefulSource, TensorSource

SCHEDULES = {
    "step": lambda o: schedules.StepLR(o, 3, 0.5),
    "multistep": lambda o: schedules.MultiStepLR(o, [3, 6, 6]),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 20),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    "onecycle": lambda o: schedules.OneCycleLR(o, 1.0, total_steps=20),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.1, 1.0, step_size_up=3, cycle_momentum=False),
    "lambda": lambda o: schedules.LambdaLR(o, lambda epoch: 0.9**epoch),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=4), schedules.ExponentialLR(o, 0.9)], [4]
    ),
}


class Queue:
    def __init__(self) -> None:
        self.bank = torch.zeros(3)
        self.seen: deque[int] = deque(maxlen=4)

    def state_dict(self) -> dict[str, Any]:
        return {"bank": self.bank, "seen": self.seen, "best": float("inf")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(bank=state["bank"], seen=state["seen"])


def through_a_file(reading: Reading) -> Reading:
    return Reading(copied(reading).tensors, parse_canonical(canonical_bytes(reading.values) + b"\n", "x"))


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_a_restored_scheduler_continues_bit_for_bit(make: Any) -> None:
    def rates(steps: int, held: Reading | None = None, lr: float | None = None) -> tuple[list[float], Any, float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        scheduler = make(optimizer)
        if held is not None:
            StatefulSource("scheduler", "scheduler", scheduler).restore(held)
            optimizer.param_groups[0]["lr"] = lr
        found = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found, StatefulSource("scheduler", "scheduler", scheduler).read(), optimizer.param_groups[0]["lr"]

    whole, end, _ = rates(12)
    first, held, rate = rates(5)
    rest, again, _ = rates(7, through_a_file(held), rate)
    assert first + rest == whole
    assert again.digest() == end.digest()


def test_an_object_of_the_users_own() -> None:
    queue = Queue()
    assert isinstance(queue, Stateful)
    source = StatefulSource("queue", "queue", queue)
    queue.seen.extend(range(6))
    queue.bank.add_(2.0)
    held = through_a_file(source.read())
    other = Queue()
    StatefulSource("queue", "queue", other).restore(held)
    assert (other.bank.tolist(), other.seen, other.seen.maxlen) == ([2.0] * 3, deque([2, 3, 4, 5]), 4)
    other.bank.zero_()
    assert held.tensors["bank"].tolist() == [2.0] * 3, "the loader keeps what it is given; the anchor must not change"


def test_a_gradient_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    other = torch.amp.GradScaler("cpu")
    StatefulSource("scaler", "scaler", other).restore(StatefulSource("scaler", "scaler", scaler).read())
    assert other.state_dict() == scaler.state_dict()
    disabled = StatefulSource("scaler", "scaler", torch.amp.GradScaler("cpu", enabled=False))
    disabled.restore(disabled.read())


def test_what_a_state_dict_cannot_say_without_pickle_is_refused() -> None:
    class Holder(Queue):
        def state_dict(self) -> dict[str, Any]:
            return {"hooks": [len]}

    with pytest.raises(MemauditError) as caught:
        StatefulSource("other", "other", Holder()).read()
    assert caught.value.where == "hooks.0"


def test_a_bare_tensor_is_restored_in_place() -> None:
    queue = torch.zeros(2, 3)
    source = TensorSource("queue", "queue", queue)
    held = copied(source.read())
    queue[:, 1] = 5.0
    assert source.read().digest() != held.digest()
    source.restore(held)
    assert queue.abs().sum() == 0
