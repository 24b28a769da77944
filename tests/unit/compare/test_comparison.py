"""Two runs compared: verdicts, sentences, the document, and what damage does to them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.artifact.resources import validator
from auditor.compare.comparison import Comparison, compare
from auditor.errors import InconclusiveError, MemauditError, NothingToAuditError
from auditor.findings.formats.json import render
from tests.support.build_pair import Act, Script, word, write_pair
from tests.support.build_run import PROGRAM, RunBuilder


def act(extra: float = 0.0, *, steps: int = 6, at: int = 4, anchors: tuple[int, ...] = (0, 6)) -> Act:
    def go(run: Script) -> None:
        if 0 in anchors:
            run.anchor_now("start")
        for number in range(1, steps + 1):
            run.go({"params": number + (extra if number >= at else 0.0), "stream.torch": number}, ids=[number])
            if number in anchors:
                run.anchor_now()

    return go


def compared(a: Path, b: Path) -> tuple[Comparison, dict[str, Any]]:
    """The comparison and its document, which fits its schema and repeats itself."""
    found = compare(a, b)
    document = found.to_json()
    validator("diff").validate(document)
    assert render(document) == render(compare(a, b).to_json())
    json.loads(render(document))
    return found, document


def test_equal_runs(tmp_path: Path) -> None:
    found, document = compared(*write_pair(tmp_path, act(), act()))
    assert (found.verdict, found.exit_status) == ("equal", 0)
    assert found.sentence == "The runs are equal in every digest of 6 steps."
    assert (document["first"], document["parted"], document["causes"], document["growth"]["loss"]) == (None, [], [], [])
    assert document["compared"] == {"equal": 6, "steps": 6}
    assert document["comparable"] is True


def test_one_step_is_one_step(tmp_path: Path) -> None:
    found, _ = compared(*write_pair(tmp_path, act(steps=1), act(steps=1)))
    assert found.sentence == "The runs are equal in every digest of 1 step."


def test_a_run_is_equal_to_itself(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    found, document = compared(run, run)
    assert found.verdict == "equal"
    assert document["runs"]["a"] == document["runs"]["b"]
    assert document["runs"]["a"]["manifest"] is not None


def test_different_runs(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, act(), act(0.5))
    found, document = compared(a, b)
    assert (found.verdict, found.exit_status) == ("different", 1)
    assert found.sentence.startswith("The runs part at step 4, first in params: ")
    first = document["first"]
    assert (first["step"], first["at"], first["source"], first["kind"]) == (4, "step", "params", "params")
    assert (first["tensor"], first["chunk"], first["sample"]) == ("params/w", 0, None)
    detail = first["detail"]
    assert (detail["step"], detail["element"], detail["a"], detail["b"]) == (6, [0], 6.0, 6.5)
    assert (detail["tensors"], detail["differing"], detail["elements"], detail["largest"]) == (1, 1, 1, 0.5)
    assert document["parted"] == [{"source": "params", "kind": "params", "step": 4, "at": "step", "steps": 3}]
    assert document["runs"]["a"]["path"] == str(a)
    assert document["refined"] is None


def test_runs_that_part_before_the_first_step(tmp_path: Path) -> None:
    found, document = compared(*write_pair(tmp_path, act(), act(0.5, at=0)))
    assert found.sentence.startswith("The runs part at step 1, first in params")

    def put(value: float) -> Act:
        def go(run: Script) -> None:
            run.put("params", value)
            run.anchor_now("start")
            run.go({"params": value + 1})

        return go

    found, document = compared(*write_pair(tmp_path / "start", put(1), put(2)))
    assert found.sentence.startswith("The runs part before the first step, first in params: ")
    assert (document["first"]["step"], document["first"]["at"], document["first"]["detail"]["step"]) == (0, "start", 0)


def test_a_run_that_ends_before_the_other(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, act(steps=6), act(steps=4))
    found, document = compared(a, b)
    assert (found.verdict, found.exit_status) == ("different", 1)
    assert found.sentence == "The runs are equal until B ends after step 4."
    assert compare(b, a).sentence == "The runs are equal until A ends after step 4."
    assert (document["first"]["source"], document["first"]["step"], document["first"]["at"]) == ("(end)", 5, "end")
    assert document["compared"] == {"equal": 4, "steps": 4}


def test_an_unfinished_run_leaves_it_open(tmp_path: Path) -> None:
    a = Script(tmp_path / "a", act(steps=6)).build()
    b = Script(tmp_path / "b", act(steps=4)).build(finish=False)
    found, document = compared(a, b)
    assert (found.verdict, found.exit_status, found.reasons) == ("inconclusive", 4, ("B is unfinished",))
    assert found.sentence == "The runs are equal in 4 steps that both have; B is unfinished."
    assert document["comparable"] is True


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_how_a_run_ended_decides_what_equality_is_worth(tmp_path: Path, status: str) -> None:
    a = Script(tmp_path / "a", act(), status=status).build()
    b = Script(tmp_path / "b", act(), status=status).build()
    found, _ = compared(a, b)
    assert found.verdict == ("equal" if status == "failed" else "inconclusive")
    assert found.reasons == (() if status == "failed" else ("A is interrupted", "B is interrupted"))


def test_an_unfinished_run_that_parts_is_different(tmp_path: Path) -> None:
    a = Script(tmp_path / "a", act()).build()
    b = Script(tmp_path / "b", act(0.5)).build(finish=False)
    found, _ = compared(a, b)
    assert (found.verdict, found.exit_status, found.reasons) == ("different", 1, ("B is unfinished",))


def test_a_broken_trace_leaves_it_open(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, act(), act())
    data = (b / "trace.jsonl").read_bytes()
    at = data.index(b'"step":5,')
    (b / "trace.jsonl").write_bytes(data[:at] + b'"step":x,' + data[at + 9 :])
    found, document = compared(a, b)
    assert (found.verdict, document["runs"]["b"]["status"]) == ("inconclusive", "broken")
    assert found.reasons[0].startswith("B is broken: line ")
    assert "4 steps that both have" in found.sentence


def test_another_model_is_not_comparable(tmp_path: Path) -> None:
    def shaped(*shape: int) -> Act:
        def go(run: Script) -> None:
            run.put("params", ({"w": np.zeros(shape, np.float32), "b": np.zeros(2)}, None))
            run.anchor_now("start")
            run.go()

        return go

    found, document = compared(*write_pair(tmp_path / "shape", shaped(2, 3), shaped(2, 4)))
    assert (found.verdict, found.exit_status, document["comparable"]) == ("not comparable", 4, False)
    assert found.reasons == ("the models differ: params/w is float32[2, 3] in A and float32[2, 4] in B",)
    assert found.sentence == f"The runs cannot be compared: {found.reasons[0]}."

    def more(*names: str) -> Act:
        def go(run: Script) -> None:
            run.put("params", ({name: np.zeros(2) for name in names}, None))
            run.anchor_now("start")
            run.go()

        return go

    found, _ = compared(*write_pair(tmp_path / "more", more("a"), more("a", "b", "c")))
    assert found.reasons == ("the models differ: only B has params/b, and 1 tensor more",)


def test_models_of_other_names_are_not_comparable(tmp_path: Path) -> None:
    def named(name: str) -> Script:
        return Script(tmp_path / name[-1], lambda run: run.go(), sources={name: "params"})

    found, _ = compared(named("params.x").build(), named("params.y").build())
    assert found.reasons == ("they train different models: params.x in A, params.y in B",)


def test_runs_without_a_step_are_not_comparable(tmp_path: Path) -> None:
    found, _ = compared(*write_pair(tmp_path, act(steps=0), act(steps=2)))
    assert (found.verdict, found.reasons) == ("not comparable", ("A has no step",))


def test_what_cannot_be_opened_is_a_plain_error(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    with pytest.raises(MemauditError, match="no such directory"):
        compare(run, tmp_path / "absent")
    with pytest.raises(MemauditError):
        compare(run / "trace.jsonl", run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToAuditError):
        compare(run, tmp_path / "empty")
    (tmp_path / "empty" / "trace.jsonl").write_bytes(b"nothing\n")
    with pytest.raises(InconclusiveError):
        compare(tmp_path / "empty", run)


def test_notes_tell_what_is_no_difference_of_the_trainings(tmp_path: Path) -> None:
    def go(value: float, *names: str) -> Act:
        def steps(run: Script) -> None:
            run.held |= dict.fromkeys(names, run.held["params"])
            run.name_sources({"params": "params"} | dict.fromkeys(names, "other"))
            run.put("stream.torch", value)
            run.census()
            run.anchor_now("start")
            run.go()

        return steps

    names = [f"mine{k}" for k in range(10)]
    found, _ = compared(*write_pair(tmp_path, go(1), go(2, *names)))
    assert found.verdict == "equal"
    assert found.notes == (
        "stream.torch differs, and nobody draws from it",
        f"only B recorded {', '.join(names[:8])} and more",
    )


def test_what_only_one_run_recorded_is_noted(tmp_path: Path) -> None:
    def go(known: bool) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 4):
                late = known or number < 3
                run.go({"params": number}, ids=[number] if late else None, batch="x" if late else None, loss=1.0)

        return steps

    a, b = write_pair(tmp_path, go(True), go(False))
    for pair in ((a, b), (b, a)):
        found, document = compared(*pair)
        assert (found.verdict, found.causes) == ("equal", ())
        assert document["notes"] == [
            f"{name} is recorded in one run only in some steps, and not compared there" for name in ("batch", "ids")
        ]


def test_a_run_that_failed_and_what_computes_nothing_are_noted(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path / "failed", act(), act(0.5), status="failed")
    assert "B failed: ValueError: no" in compared(a, b)[0].notes
    nothing = "nothing that is computed parts: parameters, optimizer and outcomes agree in every step of both"
    assert nothing not in compared(a, b)[0].notes

    def drawn(extra: float) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 4):
                run.go({"params": number, "stream.torch": number + (extra if number > 1 else 0.0)})

        return steps

    found, _ = compared(*write_pair(tmp_path / "drawn", drawn(0), drawn(0.5)))
    assert (found.verdict, nothing in found.notes) == ("different", True)
    found, _ = compared(*write_pair(tmp_path / "short", act(), act(steps=5, anchors=(0,))))
    assert nothing not in found.notes


def test_values_that_differ_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    def go(extra: int) -> Act:
        def steps(run: Script) -> None:
            run.go({"hyper.lr": [k + extra for k in range(300)]})
            run.anchor_now()

        return steps

    kinds = {"params": "params", "hyper.lr": "hyper"}
    _, document = compared(*write_pair(tmp_path, go(0), go(1), both={"sources": kinds}))
    detail = document["first"]["detail"]
    assert detail["values"][0] == {"place": "[0]", "a": 0, "b": 1}
    assert len(detail["values"]) == 200
    assert (document["first"]["tensor"], detail["elements"]) == (None, 0)


def test_numbers_that_are_not_finite_are_texts(tmp_path: Path) -> None:
    def go(value: float) -> Act:
        def steps(run: Script) -> None:
            run.go({"params": np.array([value, 1.0])}, loss="NaN" if np.isnan(value) else 1.0)
            run.anchor_now()

        return steps

    _, document = compared(*write_pair(tmp_path / "nan", go(1.0), go(np.nan)))
    detail = document["first"]["detail"]
    assert (detail["a"], detail["b"], detail["relative"], detail["largest"]) == (1.0, "NaN", None, "NaN")
    _, document = compared(*write_pair(tmp_path / "inf", go(-np.inf), go(np.inf)))
    assert document["first"]["detail"]["largest"] == "Infinity"


def leaves(*differing: str) -> Act:
    """Three tensors; ``differing`` differ in step 1, all of them in the anchor after step 2."""

    def go(run: Script) -> None:
        def held(names: tuple[str, ...]) -> Any:
            return {name: np.array([float(name in names)] * 3) for name in ("a", "b", "c")}, None

        digests = {name: word(f"{name}{name in differing}") for name in ("a", "b", "c")}
        run.go({"params": held(differing)}, leaves={"params": digests})
        run.go({"params": held(("a", "b", "c") if differing else ())})
        run.anchor_now()

    return go


def test_the_detail_is_that_of_the_tensor_that_is_named(tmp_path: Path) -> None:
    """The line of the step named one tensor, and element and numbers were those of another."""
    found, document = compared(*write_pair(tmp_path, leaves(), leaves("b")))
    first = document["first"]
    assert (first["tensor"], first["chunk"], first["detail"]["element"]) == ("params/b", 0, [0])
    assert found.first is not None
    assert found.first.leaf == "params/b"


def test_a_tensor_that_no_later_anchor_shows_has_no_detail_of_another(tmp_path: Path) -> None:
    def go(differing: bool) -> Act:
        def steps(run: Script) -> None:
            run.go({"params": float(differing)}, leaves={"params": {"gone": word(str(differing))}})
            run.anchor_now()

        return steps

    _, document = compared(*write_pair(tmp_path, go(False), go(True)))
    first = document["first"]
    assert (first["tensor"], first["chunk"]) == ("params/gone", None)
    assert (first["detail"]["element"], first["detail"]["a"], first["detail"]["b"]) == (None, None, None)
    assert first["detail"]["differing"] == 1


def test_the_first_sample_that_differs_is_named(tmp_path: Path) -> None:
    def go(*ids: int) -> Act:
        def steps(run: Script) -> None:
            run.begin(1, batch_size=2, length=len(ids))
            run.go(ids=ids, main=1, position=1)
            run.finish(1, ids, batches=1, batch_size=2, length=len(ids))

        return steps

    _, document = compared(*write_pair(tmp_path, go(1, 2), go(1, 3)))
    assert document["first"]["sample"] == {"pass": 1, "position": 1, "a": 2, "b": 3}


# Damage.


@pytest.mark.parametrize("name", ["environment.json", "source/parts/model.py"])
def test_damage_leaves_the_equality_of_digests_open(tmp_path: Path, name: str) -> None:
    """A kept text was read after the verdict was made, and its damage was told to nobody."""
    a, b = write_pair(tmp_path, act(), act())
    (b / name).write_bytes(b"{}\n")
    found, _ = compared(a, b)
    assert (found.verdict, found.exit_status) == ("inconclusive", 4)
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(f"B: {name}: ")


@pytest.mark.parametrize(
    "name",
    [
        "environment.json",
        "source/parts/model.py",
        "anchors/step-000006/tensors.safetensors",
        "anchors/step-000000/values.json",
    ],
)
def test_damage_is_noted_whoever_meets_it(tmp_path: Path, name: str) -> None:
    """Files that only the other detectors read were damaged unseen."""
    texts = {**PROGRAM, "train.py": b"other"}

    def random(extra: int) -> Act:
        def go(run: Script) -> None:
            run.put("stream.torch", ({"state": np.arange(4)}, None))
            act(float(extra))(run)

        return go

    a, b = write_pair(tmp_path, random(0), random(1), texts=texts)
    damaged = b
    if name == "anchors/step-000000/values.json":
        # Only the count of draws since the first anchor reads it, and reads A's.
        b, damaged = write_pair(tmp_path / "drawn", drawing(), act(), texts=texts)[::-1]
        a = damaged
    (damaged / name).write_bytes(b"{}\n")
    found, _ = compared(a, b)
    assert found.verdict == "different"
    assert all(cause.class_ != "corruption" for cause in found.causes), "no digest differs by it"
    label = "A" if damaged is a else "B"
    assert any(note.startswith(f"damage in {label}: {name}: ") for note in found.notes)


def test_the_damage_of_both_is_noted(tmp_path: Path) -> None:
    """Where A's environment was damaged nobody read B's, so that the order of the runs decided what was told."""
    a, b = write_pair(tmp_path, act(), act(0.5))
    for run in (a, b):
        (run / "environment.json").write_bytes(b"{}\n")
    for pair in ((a, b), (b, a)):
        found, _ = compared(*pair)
        assert [note.split(": ")[:2] for note in found.notes if note.startswith("damage")] == [
            ["damage in A", "environment.json"],
            ["damage in B", "environment.json"],
        ]
        assert not any(row.group == "numerics" for row in found.rows)


def drawing() -> Act:
    def go(run: Script) -> None:
        run.anchor_now("start")
        for number in range(1, 7):
            run.go({"params": number, "stream.torch": number + (number > 3)}, ids=[number])

    return go


# Hostile names, and equal bytes.


def test_names_of_any_kind_fit_the_document(tmp_path: Path) -> None:
    hostile = "params\x1b[31m\u202e\n"
    kinds = {hostile: "params", "\x00": "other"}

    def go(extra: float) -> Act:
        def steps(run: Script) -> None:
            run.go({hostile: extra, "\x00": extra})
            run.anchor_now()

        return steps

    found, document = compared(*write_pair(tmp_path, go(0), go(1), both={"sources": kinds}, argv=["\x1b[2J"]))
    assert found.verdict == "different"
    assert document["first"]["source"] == hostile


def test_equal_runs_give_equal_bytes_whatever_the_hash_seed_is(tmp_path: Path) -> None:
    """Files of the programs were told in the order of a set."""

    def go(extra: float) -> Act:
        def steps(run: Script) -> None:
            run.anchor_now("start")
            run.go({f"mine{k}": extra for k in range(9)} | {"params": extra, "stream.torch": extra}, ids=[int(extra)])
            run.anchor_now()

        return steps

    kinds = {"params": "params"} | {f"mine{k}": "other" for k in range(9)}
    files = {f"{letter}.py": b"1" for letter in "qwertyuiop"}
    texts = [{"train.py": b"x", **{name: text + letter for name, text in files.items()}} for letter in (b"1", b"2")]
    a, b = write_pair(tmp_path, go(0), go(1), both={"sources": kinds, "texts": texts[0]}, texts=texts[1])
    command = [sys.executable, "-m", "auditor.cli.main", "diff", str(a), str(b)]
    for options in (["--json"], []):
        answers = {
            subprocess.run([*command, *options], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True).stdout
            for seed in ("1", "2", "3")
        }
        assert len(answers) == 1
