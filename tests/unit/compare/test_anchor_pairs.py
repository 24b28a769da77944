"""The anchors that both runs have at one step, and what is read of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.side import Side
from auditor.compare.walk import Parting
from tests.support.build_pair import Act, Script, sides, write_pair


def act(*anchors: int, extra: float = 0.0, at: int = 1, steps: int = 8) -> Act:
    def go(run: Script) -> None:
        if 0 in anchors:
            run.anchor_now("start")
        for number in range(1, steps + 1):
            run.go({"params": number + (extra if number >= at else 0.0), "stream.torch": number})
            if number in anchors:
                run.anchor_now()

    return go


def opened(a: Path, b: Path) -> tuple[AnchorPairs, Side, Side]:
    one, two = sides(a, b)
    for side in (one, two):
        assert list(side.events())
    return AnchorPairs(one, two), one, two


def parting(name: str, step: int) -> Parting:
    return Parting(name, "params", step, "step", [("x", "y")], [])


def test_pairs_are_the_steps_that_both_have(tmp_path: Path) -> None:
    anchors, _, _ = opened(*write_pair(tmp_path, act(0, 2, 3, 8), act(0, 3, 5, 8)))
    assert list(anchors.pairs) == [0, 3, 8]
    assert all(pair.step == pair.a.step == pair.b.step for pair in anchors.pairs.values())
    assert anchors.last_before(8).step == 3  # type: ignore[union-attr]
    assert anchors.last_before(9).step == 8  # type: ignore[union-attr]
    assert anchors.last_before(0) is None


def test_a_pair_says_by_digests_what_differs(tmp_path: Path) -> None:
    anchors, _, _ = opened(*write_pair(tmp_path, act(0, 3, 8), act(0, 3, 8, extra=0.5, at=4)))
    assert [pair.differs("params") for pair in anchors.pairs.values()] == [False, False, True]
    assert anchors.pairs[8].differs("stream.torch") is False
    assert anchors.pairs[8].differs("nothing") is None
    assert anchors.pairs[8].differs("stream.nothing") is None
    assert anchors.pairs[8].differs("torch") is None


@pytest.mark.parametrize(("step", "found"), [(4, 8), (9, 8), (10, None)])
def test_the_first_pair_from_a_parting_on(tmp_path: Path, step: int, found: int | None) -> None:
    anchors, _, _ = opened(*write_pair(tmp_path, act(0, 3, 8), act(0, 3, 8, extra=0.5, at=4)))
    pair = anchors.from_parting(parting("params", step))
    assert (None if pair is None else pair.step) == found


def test_a_difference_between_steps_is_in_the_pair_right_before(tmp_path: Path) -> None:
    def edited(extra: float) -> Act:
        def go(run: Script) -> None:
            run.go({"params": 1})
            run.put("params", 1 + extra)
            run.anchor_now()
            run.go({"params": 2 + extra})

        return go

    anchors, _, _ = opened(*write_pair(tmp_path, edited(0.0), edited(0.5)))
    assert anchors.from_parting(parting("params", 2)).step == 1  # type: ignore[union-attr]


def test_of_several_anchors_at_a_step_those_at_one_place_are_a_pair(tmp_path: Path) -> None:
    def several(*places: str) -> Act:
        def go(run: Script) -> None:
            run.go()
            for at in places:
                run.anchor_now(at)

        return go

    def pair(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, str]:
        anchors, _, _ = opened(*write_pair(tmp_path / "-".join((*a, "and", *b)), several(*a), several(*b)))
        (found,) = anchors.pairs.values()
        return found.a.event["at"], found.b.event["at"]

    assert pair(("step", "end"), ("pass", "step")) == ("step", "step")
    assert pair(("step",), ("end",)) == ("step", "end")
    assert pair(("step", "pass"), ("end", "pass")) == ("pass", "pass")
    assert pair(("step", "end"), ("end",)) == ("end", "end")
    assert pair(("end", "step"), ("end",)) == ("end", "end")


def test_sources_and_streams_are_compared_in_their_anchors(tmp_path: Path) -> None:
    anchors, one, two = opened(*write_pair(tmp_path, act(8), act(8, extra=0.5)))
    found = anchors.compare(anchors.pairs[8], "params")
    assert found is not None
    assert found.tensors[0].values == (8.0, 8.5)
    assert anchors.compare(anchors.pairs[8], "params") is found, "compared once"
    own = anchors.content(0, anchors.pairs[8].a, "stream.torch")
    assert own is not None
    assert list(own[0]) == ["stream.torch/w"]
    nothing = anchors.content(0, anchors.pairs[8].a, "par")
    assert nothing == ({}, None), "a name is not taken for another that begins like it"
    assert (one.damage, two.damage) == ({}, {})


@pytest.mark.parametrize("how", ["changed", "missing", "both"])
def test_damaged_files_are_noted_and_not_used(tmp_path: Path, how: str) -> None:
    a, b = write_pair(tmp_path, act(0, 8), act(0, 8, extra=0.5))
    tensors, values = (a / "anchors" / "step-000008" / name for name in ("tensors.safetensors", "values.json"))
    if how == "missing":
        tensors.unlink()
    else:
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    if how == "both":
        values.write_bytes(b"{}\n")
    anchors, one, two = opened(a, b)
    assert anchors.compare(anchors.pairs[8], "params") is None
    assert anchors.content(0, anchors.pairs[8].a, "params") is None
    assert anchors.content(1, anchors.pairs[8].b, "params") is not None
    names = ["tensors.safetensors", "values.json"] if how == "both" else ["tensors.safetensors"]
    assert sorted(one.damage) == [f"anchors/step-000008/{name}" for name in names]
    assert two.damage == {}
    assert anchors.pairs[8].differs("params"), "digests stand in the trace"


class Liar(Script):
    """A run whose trace has the hashes of files that no recorder writes."""

    lies: dict[str, bytes]

    def write(self, path: str, data: bytes) -> str:
        return super().write(path, self.lies.get(path.rpartition("/")[2], data))


HEADER = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("values.json", b"[]\n"),
        ("values.json", b"1\n"),
        ("values.json", b"{}\n"),
        ("values.json", b'{"sources":[],"streams":{}}\n'),
        ("values.json", b'{"sources":{},"streams":null}\n'),
        ("values.json", b"not JSON"),
        ("tensors.safetensors", b""),
        ("tensors.safetensors", b"\xff" * 40),
        ("tensors.safetensors", len(HEADER).to_bytes(8, "little") + HEADER + b"\0\0\0"),
    ],
    ids=["list", "number", "empty object", "list of sources", "no streams", "text", "empty", "noise", "short"],
)
def test_files_with_the_right_hash_and_no_anchor_in_them_are_damage(tmp_path: Path, name: str, data: bytes) -> None:
    """Values that were no object made a traceback, and whatever was wrong was told of values.json."""
    a, b = Liar(tmp_path / "a", act(8)), Script(tmp_path / "b", act(8, extra=0.5))
    a.lies = {name: data}
    anchors, one, _ = opened(a.build(), b.build())
    assert anchors.compare(anchors.pairs[8], "params") is None
    assert list(one.damage) == [f"anchors/step-000008/{name}"]
    assert "\n" not in one.damage[f"anchors/step-000008/{name}"]


def test_a_stored_event_that_names_other_files_is_damage(tmp_path: Path) -> None:
    class Other(Script):
        def write_anchor(self, path: str, place: Any) -> dict[str, str]:
            return {"x": super().write_anchor(path, place)["values.json"]}

    anchors, one, _ = opened(Other(tmp_path / "a", act(8)).build(), Script(tmp_path / "b", act(8, extra=1)).build())
    assert anchors.compare(anchors.pairs[8], "params") is None
    assert one.damage


def test_odd_values_of_a_source_are_compared(tmp_path: Path) -> None:
    def odd(value: Any) -> Act:
        def go(run: Script) -> None:
            run.put("params", ({"w": np.zeros(2)}, value))
            run.go()
            run.anchor_now()

        return go

    anchors, _, _ = opened(*write_pair(tmp_path, odd({"$": []}), odd({"$": {"items": 1}, "items": [1]})))
    found = anchors.compare(anchors.pairs[1], "params")
    assert found is not None
    assert found.values


@pytest.mark.parametrize(
    ("last", "most", "expected"),
    [
        (3, 10, [0, 1, 2, 3]),
        (9, 10, list(range(10))),
        (100, 10, [0, 2, 3, 5, 8, 13, 22, 36, 60, 100]),
        (5, 2, [0, 5]),
        (0, 10, [0]),
    ],
)
def test_the_pairs_that_are_read_lie_ever_wider_apart(
    tmp_path: Path, last: int, most: int, expected: list[int]
) -> None:
    anchors = AnchorPairs.__new__(AnchorPairs)
    anchors.__dict__["pairs"] = {step: step for step in range(last + 1)}
    assert anchors.spread(range(last + 1), most) == expected


def test_any_number_of_pairs_is_spread_within_its_limit() -> None:
    anchors = AnchorPairs.__new__(AnchorPairs)
    for last in range(300):
        anchors.__dict__["pairs"] = {step: step for step in range(last + 1)}
        found = anchors.spread(range(last + 1), 10)
        assert len(found) <= 10
        assert (found[0], found[-1]) == (0, last)
        assert found == sorted(set(found))


def test_values_are_written_as_the_format_says(tmp_path: Path) -> None:
    a, _ = write_pair(tmp_path, act(8), act(8))
    assert json.loads((a / "anchors" / "step-000008" / "values.json").read_bytes())["format"] == "anchor-1"
