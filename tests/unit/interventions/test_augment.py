"""Augmentation policies turned off, held at a stage and re-keyed, through the attributes that they offer."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.support.intervening import Scene


class Policy:
    """An object with the attributes it is given."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Augmented(Dataset[torch.Tensor]):
    def __init__(self, policy: object) -> None:
        self.policy = policy

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(1)


@pytest.mark.parametrize(
    ("attributes", "name", "value"),
    [
        ({"enabled": True, "p": 0.5}, "enabled", False),
        ({"active": True, "stage": 2}, "active", False),
        ({"p": 0.5, "strength": 3.0}, "p", 0.0),
        ({"probability": 1}, "probability", 0),
    ],
    ids=["enabled", "active", "p", "probability"],
)
def test_off_uses_the_switch_that_there_is_and_leaves_the_rest(
    attributes: dict[str, Any], name: str, value: object
) -> None:
    policy = Policy(**attributes)
    scene = Scene(augment=policy)
    receipt = scene.apply("augment", "off")
    assert receipt["applied"]
    assert receipt["digest_before"] != receipt["digest_after"]
    assert vars(policy) == {**attributes, name: value}
    assert type(vars(policy)[name]) is type(attributes[name])


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"stage": 0, "strength": 1.5}, "stage"),
        ({"strength": 0.5}, "strength"),
        ({"magnitude": 9}, "magnitude"),
        ({"epoch": 3}, "epoch"),
    ],
    ids=["stage", "strength", "magnitude", "epoch"],
)
def test_a_stage_is_set_in_the_first_attribute_that_there_is_and_keeps_its_type(
    attributes: dict[str, Any], name: str
) -> None:
    policy = Policy(**attributes)
    assert Scene(augment=policy).apply("augment", "stage", value=2)["applied"]
    assert vars(policy) == {**attributes, name: 2}
    assert type(vars(policy)[name]) is type(attributes[name])


def test_what_the_program_sets_later_is_undone_after_a_step_and_before_a_batch() -> None:
    policy = Policy(stage=1)
    scene = Scene(augment=policy)
    lasting = scene.last("augment", "stage", value=1)  # nothing need change where it begins
    assert not lasting.after_step(scene.branch)
    policy.stage = 2  # type: ignore[attr-defined]
    assert lasting.after_step(scene.branch)
    assert vars(policy) == {"stage": 1}
    policy.stage = 2  # type: ignore[attr-defined]
    lasting.before_batch(scene.branch)
    assert vars(policy) == {"stage": 1}


class Speaking:
    """A policy that speaks for itself."""

    def __init__(self) -> None:
        self.stage, self.enabled = 1, True

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        vars(self).update(stored)


def test_policies_that_are_dicts_or_speak_for_themselves_are_set_too() -> None:
    held = {"stage": 0, "p": 0.5}
    scene = Scene(augment=held)
    assert scene.apply("augment", "stage", value=2)["applied"]
    assert scene.apply("augment", "off")["applied"]
    assert held == {"stage": 2, "p": 0.0}
    policy = Speaking()
    scene = Scene(augment=policy)
    assert scene.apply("augment", "off")["applied"]
    assert scene.apply("augment", "stage", value=0)["applied"]
    assert vars(policy) == {"stage": 0, "enabled": False}


def test_what_a_policy_lacks_is_named() -> None:
    scene = Scene(augment=Policy(transforms=["crop"], strength="much"))
    assert "none of enabled, active (true or false), p, probability (a number)" in scene.refused("augment", "off")
    assert "none of stage, strength, magnitude, epoch" in scene.refused("augment", "stage", value=1)
    assert "has no generator among its attributes" in scene.refused("augment", "rekey")
    assert "there is no augment" in Scene(other=Policy(a=1)).refused("augment", "off")
    assert "2.5 is none" in Scene(augment=Policy(stage=1)).refused("augment", "stage", value=2.5)


def test_a_strength_of_nothing_is_not_taken_for_off() -> None:
    assert "how to turn it off is not known" in Scene(augment=Policy(strength=1.0)).refused("augment", "off")


def test_of_two_policies_one_is_named() -> None:
    one, two = Policy(p=0.5), Policy(p=0.5)
    scene = Scene(weak_augment=one, strong_augment=two)
    assert scene.apply("augment[strong_augment]", "off")["applied"]
    assert (vars(one), vars(two)) == ({"p": 0.5}, {"p": 0.0})
    assert scene.apply("augment", "off")["applied"]
    assert vars(one) == {"p": 0.0}


GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "numpy": lambda: np.random.default_rng(1),
    "python": lambda: random.Random(1),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_rekey_starts_the_policys_own_generators_anew_and_no_other_stream(make: Any) -> None:
    states = []
    for unit in (0, 0, 1):
        policy = Policy(rng=make(), stage=1)
        scene = Scene(augment=policy, noise=torch.Generator().manual_seed(2))
        scene.branch.key = f"0/{unit}"
        held = vars(policy)["rng"]
        before = {stream.name: stream.read().digest() for stream in scene.branch.streams()}
        receipt = scene.apply("augment", "rekey")
        assert receipt["applied"]
        after = {stream.name: stream.read().digest() for stream in scene.branch.streams()}
        assert {name for name in after if after[name] != before[name]} == {"augment.rng"}
        assert vars(policy)["rng"] is held
        states.append(after["augment.rng"])
    assert states[0] == states[1] != states[2]


def test_a_generator_that_others_draw_from_is_not_the_policys_own() -> None:
    shared = torch.Generator().manual_seed(1)
    other = Policy(rng=shared)
    scene = Scene(augment=Policy(rng=shared), other=other)
    assert "is also that of other.rng" in scene.refused("augment", "rekey")
    policy = Policy(rng=shared)
    scene = Scene(augment=policy)
    loader = DataLoader(Augmented(policy), shuffle=True, generator=shared)
    scene.branch = replace(scene.branch, streams=lambda: scene.watched.streams({1: loader}))
    assert "is also that of" in scene.refused("augment", "rekey")


def test_a_policy_in_the_data_set_is_still_the_generators_only_holder() -> None:
    policy = Policy(rng=torch.Generator().manual_seed(1))
    scene = Scene(augment=policy)
    loader = DataLoader(Augmented(policy))
    scene.branch = replace(
        scene.branch, streams=lambda: scene.watched.streams({1: loader}), loaders=lambda: {1: loader}
    )
    assert scene.apply("augment", "rekey")["applied"]


@pytest.mark.parametrize("action", ["off", "stage", "rekey"])
def test_a_policy_whose_copies_work_in_other_processes_is_refused(action: str) -> None:
    arguments = {"value": 2} if action == "stage" else {}
    for workers, inside, refused in ((2, True, True), (2, False, False), (0, True, False)):
        policy = Policy(p=0.5, stage=1, rng=torch.Generator().manual_seed(1))
        loader = DataLoader(Augmented(policy if inside else None), num_workers=workers)
        scene = Scene(augment=policy)
        scene.branch = replace(scene.branch, loaders=lambda loader=loader: {1: loader})
        if refused:
            assert "2 worker processes, which hold copies of augment" in scene.refused("augment", action, **arguments)
        else:
            assert scene.apply("augment", action, **arguments)["applied"]
