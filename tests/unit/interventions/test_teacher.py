"""Teachers resynced, frozen, lagging and at another decay, held to trajectories computed by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from auditor.errors import MemauditError
from tests.support.intervening import Scene

DECAY, OTHER = 0.95, 0.8


def network(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


class Training:
    """A student that wanders in float64, and a teacher that follows; ``early``: before the student's step, as MoCo."""

    def __init__(self, *, early: bool = False, teacher: nn.Module | None = None) -> None:
        self.student = network()
        self.teacher = copy.deepcopy(self.student).requires_grad_(requires_grad=False) if teacher is None else teacher
        self.early = early
        self.decay = DECAY
        self.used: list[torch.Tensor] = []
        self._noise = torch.Generator().manual_seed(3)
        self.scene = Scene(model=self.student, teacher=self.teacher)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.mul_(self.decay).add_(fast, alpha=1 - self.decay)

    @torch.no_grad()
    def step(self) -> None:
        if self.early:
            self.follow()
        self.teacher.eval()
        self.teacher(torch.ones(2, 3, dtype=torch.float64))
        self.used.append(self.flat())
        for tensor in self.student.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=self._noise, dtype=torch.float64), alpha=0.1)
        if not self.early:
            self.follow()

    def flat(self, module: nn.Module | None = None) -> torch.Tensor:
        return torch.cat([tensor.detach().reshape(-1).clone() for tensor in (module or self.teacher).parameters()])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def begun(steps: int = 4, **more: Any) -> Training:
    training = Training(**more)
    for _ in range(steps):
        training.step()
    return training


def test_a_resynced_teacher_is_the_student_buffers_included_and_goes_on_following() -> None:
    training = begun()
    training.student[1].running_mean += 1.0
    held = [*training.teacher.parameters()]
    student = training.flat(training.student)
    receipt = training.scene.apply("teacher", "resync")
    assert receipt["arguments"] == {"student": "model"}
    assert torch.equal(training.flat(), student)
    assert torch.equal(training.teacher[1].running_mean, training.student[1].running_mean)
    assert torch.equal(training.flat(training.student), student)
    assert all(one is two for one, two in zip(held, training.teacher.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in training.teacher.parameters())
    training.step()
    close(training.flat(), DECAY * student + (1 - DECAY) * training.flat(training.student))


@pytest.mark.parametrize("early", [False, True], ids=["after the step", "before its use"])
def test_the_frozen_teacher_is_the_one_that_is_used(early: bool) -> None:
    training = begun(early=early)
    held = training.flat()
    freeze = training.scene.last("teacher", "freeze")
    training.used.clear()
    for _ in range(3):
        training.step()
        assert freeze.after_step(training.scene.branch)
    assert torch.equal(training.flat(), held)
    # What the program computes right behind its own update, here a copy, is put back by the call of the module.
    assert all(torch.equal(used, held) for used in training.used)


@pytest.mark.parametrize("early", [False, True], ids=["after the step", "before its use"])
def test_another_decay_is_the_trajectory_of_a_training_that_had_it_from_there_on(early: bool) -> None:
    training, by_hand = begun(early=early), begun(early=early)
    by_hand.decay = OTHER
    lasting = training.scene.last("teacher", "decay", value=OTHER)
    for _ in range(5):
        training.step()
        by_hand.step()
        assert lasting.after_step(training.scene.branch)
        close(training.flat(), by_hand.flat())
    close(torch.stack(training.used), torch.stack(by_hand.used))


@pytest.mark.parametrize("early", [False, True], ids=["after the step", "before its use"])
@pytest.mark.parametrize("lag", [1, 3])
def test_a_lagging_teacher_is_the_true_one_of_as_many_steps_before(lag: int, early: bool) -> None:
    training, carry = begun(early=early), begun(early=early)
    lasting = training.scene.last("teacher", "lag", steps=lag)
    trajectory = [carry.flat()]
    for step in range(1, 8):
        training.step()
        carry.step()
        trajectory.append(carry.flat())
        lasting.after_step(training.scene.branch)
        close(training.flat(), trajectory[max(0, step - lag)])
        if early:
            close(training.used[-1], trajectory[max(0, step - lag)])
        else:
            close(training.used[-1], trajectory[max(0, step - 1 - lag)])


def test_a_schedule_of_the_decay_does_not_disturb_the_lag() -> None:
    training, carry = begun(), begun()
    lasting = training.scene.last("teacher", "lag", steps=2)
    trajectory = [carry.flat()]
    for step in range(1, 7):
        training.decay = carry.decay = 1 - 0.1 / step
        training.step()
        carry.step()
        trajectory.append(carry.flat())
        lasting.after_step(training.scene.branch)
        close(training.flat(), trajectory[max(0, step - 2)])


def test_a_copy_made_between_two_steps_is_put_right_before_its_use() -> None:
    training = begun()
    training.decay = 1.0
    lasting = training.scene.last("teacher", "decay", value=0.5)
    before, student = training.flat(), training.flat(training.student)
    training.teacher.load_state_dict(training.student.state_dict())  # as at the end of an epoch
    training.step()
    close(training.used[-1], 0.5 * before + 0.5 * student)
    assert lasting.after_step(training.scene.branch)
    close(training.flat(), 0.5 * before + 0.5 * student)
    training.step()
    assert not lasting.after_step(training.scene.branch)


def test_buffers_that_are_copied_or_moved_by_the_teachers_own_passes_stay_as_the_program_made_them() -> None:
    training = begun()
    lasting = training.scene.last("teacher", "decay", value=OTHER)
    training.step()
    training.teacher[1].running_mean += 0.25
    with torch.no_grad():
        training.teacher[1].running_var.copy_(training.student[1].running_var.fill_(3.0))
    moved = training.teacher[1].running_mean.clone()
    lasting.after_step(training.scene.branch)
    assert torch.equal(training.teacher[1].running_mean, moved)
    assert training.teacher[1].running_var.tolist() == [3.0] * 4


def test_an_averaged_buffer_is_averaged_at_the_new_decay() -> None:
    training = begun()
    training.student[1].running_mean += 1.0
    before, target = training.teacher[1].running_mean.clone(), training.student[1].running_mean.clone()
    lasting = training.scene.last("teacher", "decay", value=OTHER)
    training.step()
    training.teacher[1].running_mean.mul_(DECAY).add_(target, alpha=1 - DECAY)
    lasting.after_step(training.scene.branch)
    close(training.teacher[1].running_mean, OTHER * before + (1 - OTHER) * target)


@pytest.mark.parametrize("action", ["decay", "lag"])
def test_a_teacher_that_moves_elsewhere_than_to_its_student_is_an_error_not_a_guess(action: str) -> None:
    training = begun()
    arguments = {"value": 0.5} if action == "decay" else {"steps": 2}
    lasting = training.scene.last("teacher", action, **arguments)
    training.step()
    with torch.no_grad():
        training.teacher[0].weight += torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()
    with pytest.raises(MemauditError, match="teacher was not moved towards model") as caught:
        lasting.after_step(training.scene.branch)
    assert caught.value.next_step


def test_float32_rounding_of_a_slow_teacher_is_no_other_way() -> None:
    training = begun(0)
    for module in (training.student, training.teacher):
        module.float()
    training.decay = 0.9999
    lasting = training.scene.last("teacher", "decay", value=0.5)
    with torch.no_grad():
        for tensor in training.student.parameters():
            tensor.add_(0.1)
        training.follow()
    assert lasting.after_step(training.scene.branch)
    torch.testing.assert_close(training.flat(), training.flat(training.student) - 0.05)


# Who the student is.


def test_a_teacher_without_a_student_is_not_resynced() -> None:
    scene = Scene(model=nn.Linear(3, 2), teacher=nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 2)))
    assert "no module of model has the parameters of teacher" in scene.refused("teacher", "resync")
    assert "no module of model" in scene.refused("teacher", "lag", steps=1)
    assert scene.apply("teacher", "freeze")["applied"]
    assert "there is no teacher at this step" in Scene(model=nn.Linear(3, 2)).refused("teacher", "resync")


def test_of_two_modules_with_the_teachers_shapes_one_has_to_be_named() -> None:
    one, two, teacher = (nn.Linear(3, 2) for _ in range(3))
    scene = Scene(left=one, right=two, teacher=teacher)
    reason = scene.refused("teacher", "resync")
    assert "(left, right)" in reason
    assert "student=" in reason
    assert scene.apply("teacher", "resync", student="right")["applied"]
    assert torch.equal(teacher.weight, two.weight)
    assert "no trained module is watched as up" in scene.refused("teacher", "resync", student="up")


def test_a_teacher_may_follow_a_part_of_the_trained_module() -> None:
    online = nn.Module()
    online.encoder, online.predictor = nn.Linear(3, 4), nn.Linear(4, 5)
    teacher = nn.Linear(3, 4)
    scene = Scene(model=online, teacher=teacher)
    assert scene.apply("teacher", "resync")["arguments"] == {"student": "model.encoder"}
    assert torch.equal(teacher.weight, online.encoder.weight)


def test_a_named_student_may_have_its_parameters_under_other_names_in_the_same_order() -> None:
    online = nn.Module()
    online.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    online.head = nn.Linear(4, 2)
    online.encoder[1].running_mean += 2.0
    teacher = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    scene = Scene(model=online, teacher=teacher)
    assert "if one has them in order" in scene.refused("teacher", "resync")
    assert scene.apply("teacher", "resync", student="model")["applied"]
    assert torch.equal(teacher[1].weight, online.head.weight)
    assert teacher[0][1].running_mean.tolist() == [2.0] * 4
    assert "or in order" in scene.refused("teacher", "resync", student="model.head")


def test_a_bare_kind_is_refused_as_a_whole_where_one_of_several_cannot_be() -> None:
    model = nn.Linear(3, 2)
    scene = Scene(model=model, teacher=nn.Linear(5, 5), self_teacher=nn.Linear(3, 2))
    assert "teacher[teacher]" in scene.refused("teacher", "resync")
    assert scene.apply("teacher[self_teacher]", "resync")["applied"]


def test_a_teacher_in_half_precision_takes_the_student_rounded() -> None:
    model, teacher = nn.Linear(3, 2), nn.Linear(3, 2).bfloat16()
    assert Scene(model=model, teacher=teacher).apply("teacher", "resync")["applied"]
    assert torch.equal(teacher.weight, model.weight.bfloat16())


# Objects of other tests may hold their global hooks until they are collected, and torch warns of any.
@pytest.mark.filterwarnings("ignore:Using .torch.compile.module")
@pytest.mark.parametrize("action", ["freeze", "decay"])
def test_a_compiled_teacher_is_put_right_where_the_program_calls_it_and_nothing_is_added_to_its_graph(
    action: str,
) -> None:
    """The hook was traced into the graph of torch.compile: what it found there was not what it put right."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    training = begun()
    training.teacher.eval()
    compiled = torch.compile(training.teacher, backend=backend)
    inputs = torch.ones(2, 3, dtype=torch.float64)
    compiled(inputs)
    before, student = training.flat(), training.flat(training.student)
    lasting = training.scene.last("teacher", action, **({"value": OTHER} if action == "decay" else {}))
    training.follow()
    with torch.no_grad():
        answer = compiled(inputs)
    expected = before if action == "freeze" else OTHER * before + (1 - OTHER) * student
    close(training.flat(), expected)
    assert torch.equal(answer, training.teacher(inputs))
    assert len(set(graphs)) == 1
    assert lasting.after_step(training.scene.branch)
