from dataclasses import replace

import pytest

from auditor.compare.divergence import Divergence, first_divergence
from auditor.evidence.run_view import Step


def step(number: int) -> Step:
    streams = {"torch": f"t{number}", "numpy": "n"}
    sources = {"params": f"p{number}", "bn": f"b{number}"}
    return Step(number, number, 1, number, f"i{number}", f"c{number}", sources, streams, 0.5, None)


STEPS = [step(number) for number in range(3, 8)]


def test_equal_steps() -> None:
    assert first_divergence(STEPS, iter(STEPS)) == (None, 5)
    assert first_divergence([], []) == (None, 0)


def test_what_is_not_compared() -> None:
    others = [replace(each, seq=each.seq + 9, loss=None, leaves={}) for each in STEPS]
    assert first_divergence(STEPS, others) == (None, 5)


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({"ids": "x"}, "ids"),
        ({"ids": None}, "ids"),
        ({"batch": "x"}, "batch"),
        ({"streams": {"torch": "t5", "numpy": "x"}}, "stream.numpy"),
        ({"streams": {"torch": "t5"}}, "stream.numpy"),
        ({"sources": {"params": "x", "bn": "x"}}, "params"),
        ({"sources": {"params": "p5", "bn": None}}, "bn"),
        ({"sources": {"params": "p5", "bn": "b5", "queue": "q"}}, "queue"),
    ],
)
def test_the_first_step_and_source_are_named(changes: dict, source: str) -> None:
    others = [replace(each, **changes) if each.step == 5 else each for each in STEPS]
    assert first_divergence(STEPS, others) == (Divergence(5, source), 2)


def test_causes_come_before_what_follows_from_them() -> None:
    changed = {"ids": "x", "batch": "x", "streams": {"torch": "x", "numpy": "n"}, "sources": {"params": "x", "bn": "x"}}
    for member, source in [("streams", "stream.torch"), ("ids", "ids"), ("batch", "batch"), ("sources", "params")]:
        others = [replace(STEPS[0], **changed)]
        assert first_divergence(STEPS, others) == (Divergence(3, source), 0)
        del changed[member]


def test_where_one_stops() -> None:
    assert first_divergence(STEPS, STEPS[:3]) == (Divergence(6, "(end)"), 3)
    assert first_divergence(STEPS[:3], STEPS) == (Divergence(6, "(end)"), 3)
    assert first_divergence(STEPS, STEPS[1:]) == (Divergence(3, "(end)"), 0)
