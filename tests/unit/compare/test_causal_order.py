"""The order in which one step's memory acts."""

import pytest

from auditor.compare.causal_order import COMPUTED, STATE, kind_by_name, kind_of, rank


def test_causes_come_before_their_effects() -> None:
    before = ["stream", "order", "ids", "batch", "scheduler", "hyper", "optimizer"]
    chain = [*before, "params", "ema", "bn", "queue", "loss", "outcome", "end"]
    assert [rank(kind) for kind in chain] == sorted({rank(kind) for kind in chain})


def test_a_kind_that_nobody_knows_stands_with_other() -> None:
    assert rank("anything") == rank("other") < rank("loss")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("params", "params"),
        ("params[2]", "params"),
        ("optimizer.momentum_buffer", "optimizer"),
        ("hyper.lr", "hyper"),
        ("hyper[1].lr", "hyper"),
        ("stream.torch", "stream"),
        ("outcome.accuracy", "outcome"),
        ("outcome", "outcome"),
        ("(end)", "end"),
        ("mine", "other"),
        ("", "other"),
        (".params", "other"),
        ("end", "end"),
    ],
)
def test_a_name_begins_with_its_kind(name: str, kind: str) -> None:
    assert kind_by_name(name) == kind
    assert kind_of(name, {}) == kind
    assert kind_of(name, {name: "ema"}) == "ema"


def test_what_a_step_hands_on_is_computed_by_it() -> None:
    assert STATE < COMPUTED
    assert {"stream", "order", "batch", "hyper", "scheduler"}.isdisjoint(COMPUTED)
