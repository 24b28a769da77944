"""Which kind of memory something is: its type says so, then the words of its name."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from auditor.state.kinds import module_kind, object_kind, queue_buffers, word_kind, words


class ModelEmaV2(nn.Module):
    pass


class ReplayBuffer:
    pass


def test_words_of_a_name() -> None:
    assert words("memory_bank2") == ["memory", "bank"]
    assert words("ReplayBuffer") == ["replay", "buffer"]
    assert word_kind("embedding") is None


@pytest.mark.parametrize(
    ("keyword", "module", "kind"),
    [
        ("average", AveragedModel(nn.Linear(1, 1), multi_avg_fn=get_ema_multi_avg_fn(0.9)), "ema"),
        ("average", AveragedModel(nn.Linear(1, 1)), "swa"),
        ("ema", AveragedModel(nn.Linear(1, 1)), "ema"),
        ("copy", ModelEmaV2(), "ema"),
        ("self_teacher", nn.Linear(1, 1), "teacher"),
        ("augment", nn.Linear(1, 1), "augment"),
        ("memory_bank", nn.Linear(1, 1), "queue"),
        ("scheduler", nn.Linear(1, 1), "params"),
    ],
    ids=["ema", "swa", "named ema", "class", "teacher", "augment", "queue", "weights"],
)
def test_modules(keyword: str, module: nn.Module, kind: str) -> None:
    assert module_kind(keyword, module) == kind


def test_other_objects() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    assert object_kind("x", SWALR(optimizer, 0.1)) == "scheduler"
    assert object_kind("teacher", torch.optim.lr_scheduler.ChainedScheduler([SWALR(optimizer, 0.1)])) == "scheduler"
    assert object_kind("x", torch.amp.GradScaler("cpu")) == "scaler"
    assert object_kind("x", torch.utils.data.SequentialSampler([1])) == "order"
    assert object_kind("x", ReplayBuffer()) == "queue"
    assert object_kind("order", ReplayBuffer()) == "order"
    assert object_kind("x", [1]) == "other"


def test_a_pointer_goes_with_the_queue_beside_it() -> None:
    names = ["a.queue", "a.ptr", "b.ptr", "a.mask", "a.queue_ptr", "inner.negatives"]
    assert queue_buffers(names) == {"a.queue", "a.ptr", "a.queue_ptr", "inner.negatives"}
