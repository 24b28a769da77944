"""Two recorded programs run again, in processes of their own, until what parted first has a name."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from auditor.artifact.resources import validator
from auditor.cli.consent import refine_lines
from auditor.compare.divergence import first_divergence
from auditor.errors import InconclusiveError, MemauditError
from auditor.evidence.run_view import RunView
from auditor.replay.program import launch_of
from auditor.replay.refine import Refinement, refine
from tests.support.programs import ROOT, memaudit, run

PARTING = ROOT / "tests" / "support" / "parting.py"
HELD = {"reproduced": True, "first": None}


def record(cwd: Path, out: str, *words: object, program: Path = PARTING) -> RunView:
    answer = run(sys.executable, program, "--out", out, *words, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return RunView.open(cwd / out)


def refined(a: RunView, b: RunView, out: Path, **options: Any) -> Refinement:
    parted = first_divergence(a.steps(), b.steps())[0]
    assert parted is not None
    return again(a, b, first_step=parted.step, out=out, **options)


def again(a: RunView, b: RunView, **options: Any) -> Refinement:
    return refine(a, b, launches=(launch_of(a), launch_of(b)), **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refined")


@pytest.fixture(scope="module")
def plain(home: Path) -> RunView:
    return record(home, "plain")


FOUND = {
    "weight": {"phase": "between steps", "tensor": "params/block.inner.weight", "source": "params"},
    "momentum": {
        "phase": "between steps",
        "tensor": "optimizer.momentum_buffer/first.weight",
        "source": "optimizer.momentum_buffer",
    },
    "shift": {"phase": "forward", "module": "model.block", "call": 1},
    "clip": {"phase": "backward", "tensor": "gradients/head.bias", "source": "gradients"},
}
NOTHING = {"module": None, "call": None, "tensor": None, "chunk": None, "source": None}


@pytest.mark.parametrize("plant", FOUND)
def test_what_was_planted_in_one_of_two_programs_is_named(plain: RunView, home: Path, plant: str) -> None:
    other = record(home, plant, "--plant", plant)
    # All of them in one directory: what the untouched program does is not run again for each.
    found = refined(plain, other, home / "out").to_json()
    notes = found.pop("notes")
    assert found == {"from": 6, "to": 11, "a": HELD, "b": HELD, "first": {"step": 9, **NOTHING, **FOUND[plant]}}
    if plant == "clip":
        assert notes == [
            "8 of 8 gradients differ just before the update, every module's outputs are equal",
            "the losses are equal: the backward pass, or what was done to gradients after it, such as clipping, parts",
        ]
    else:
        assert notes == []


def test_what_is_written_follows_its_schemas_and_a_second_call_runs_nothing(plain: RunView, home: Path) -> None:
    told: list[str] = []
    once = again(plain, plain, first_step=9, out=home / "twice", progress=told.append)
    assert once.first is None
    assert (once.a.reproduced, once.b.reproduced) == (True, True)
    assert once.notes == ("the two executions do not part",)
    assert told == [f"run {name}: steps 7 to 11, from anchors/step-000006" for name in "AB"]
    cells = sorted((home / "twice").glob("[ab]/*"))
    assert len(cells) == 2
    for cell in cells:
        validator("cell").validate(json.loads((cell / "cell.json").read_text()))
        validator("cell-result").validate(json.loads((cell / "result.json").read_text()))
    before = [(path, path.stat().st_mtime_ns) for path in sorted((home / "twice").rglob("*"))]
    assert again(plain, plain, first_step=9, out=home / "twice") == once
    assert [(path, path.stat().st_mtime_ns) for path in sorted((home / "twice").rglob("*"))] == before


def test_a_program_that_draws_from_the_systems_entropy_is_said_not_to_repeat_itself(home: Path, plain: RunView) -> None:
    other = record(home, "entropy", "--plant", "entropy")
    found = refined(plain, other, home / "out")
    assert found.a.reproduced
    assert not found.b.reproduced
    assert found.b.first is not None
    assert found.b.first.step == 7
    assert found.first is not None
    assert (found.first.step, found.first.phase) == (7, "backward")
    assert found.begin == 0, "an anchor nearer to it did no better, so both were run from their start"
    assert any("run B does not repeat itself" in note for note in found.notes)
    both = again(other, other, first_step=7, out=home / "out", most_from_start=6)
    assert both.begin == 6
    assert any("neither repeats" in note and "environment variables" in note for note in both.notes)


def test_a_program_that_counts_by_itself_is_run_from_its_start(home: Path, plain: RunView) -> None:
    other = record(home, "counted", "--plant", "counted")
    found = refined(plain, other, home / "out")
    assert (found.begin, found.a.reproduced, found.b.reproduced) == (0, True, True)
    assert found.first is not None
    assert (found.first.step, found.first.tensor) == (9, "params/block.inner.weight")
    assert any("a counter of its own" in note for note in found.notes)


def test_a_program_that_fails_when_entered_in_the_middle_is_run_from_its_start(home: Path, plain: RunView) -> None:
    other = record(home, "checked", "--plant", "checked")
    found = again(plain, other, first_step=9, out=home / "out")
    assert (found.begin, found.first) == (0, None)
    assert found.notes[0].startswith("going on from step 6 failed: the program of run B")


def test_a_run_without_the_step_and_a_place_that_cannot_be_used_are_refused(plain: RunView, home: Path) -> None:
    with pytest.raises(InconclusiveError, match="run A has no step 19") as caught:
        again(plain, plain, first_step=19, out=home / "nowhere")
    assert caught.value.exit_status == 4
    with pytest.raises(MemauditError, match="cannot lie inside a run"):
        again(plain, plain, first_step=9, out=plain.path / "inside")
    with pytest.raises(MemauditError, match="is a file"):
        again(plain, plain, first_step=9, out=PARTING)
    assert not (home / "nowhere").exists()


def test_runs_that_can_only_be_entered_at_their_start_are_run_from_there(home: Path) -> None:
    runs = [record(home, f"bare-{plant}", "--no-epochs", "--plant", plant) for plant in ("none", "rate")]
    found = refined(runs[0], runs[1], home / "out-bare", further=0).to_json()
    assert (found["from"], found["to"], found["a"], found["b"]) == (0, 9, HELD, HELD)
    assert found["first"] == {"step": 9, **NOTHING, "phase": "between steps", "source": "hyper.lr"}


def test_of_a_program_that_was_edited_since_the_text_that_the_run_keeps_is_run(home: Path, plain: RunView) -> None:
    script = home / "mine.py"
    script.write_text(PARTING.read_text())
    other = record(home, "mine", program=script)
    for change in (lambda: script.write_text("raise SystemExit('another')"), script.unlink):
        change()
        with pytest.raises(MemauditError, match=r"not the one that was recorded|not here") as caught:
            launch_of(other)
        assert "mine.py" in str(caught.value.where)
        launches = launch_of(plain), launch_of(other, home / "text")
        assert launches[1].script == str(home / "text" / "mine.py")
        assert f"the text that the run keeps; {script} is another" in "\n".join(refine_lines(plain, other, launches, 9))
    found = refine(plain, other, launches=launches, first_step=9, out=home / "out-mine").to_json()
    assert (found["a"], found["b"], found["first"]) == (HELD, HELD, None)


def test_a_program_that_fails_when_run_again_is_inconclusive_and_its_log_is_named(home: Path, plain: RunView) -> None:
    needed = home / "needed.txt"
    needed.write_text("here")
    script = home / "needing.py"
    script.write_text(f"import pathlib\npathlib.Path({str(needed)!r}).read_text()\n" + PARTING.read_text())
    other = record(home, "needing", program=script)
    needed.unlink()
    with pytest.raises(InconclusiveError) as caught:
        again(plain, other, first_step=9, out=home / "out")
    assert "run B" in caught.value.what
    assert "FileNotFoundError" in Path(str(caught.value.where)).read_text()


def test_what_will_run_is_told_for_both_programs(plain: RunView) -> None:
    lines = refine_lines(plain, plain, (launch_of(plain), launch_of(plain)), 9)
    assert sum(str(PARTING) in line for line in lines) == 2
    assert sum(plain.environment["program"]["sha256"] in line for line in lines) == 2
    assert sum(str(plain.path.parent) in line and line.startswith("in ") for line in lines) == 2
    assert lines[-2] == "steps     7 to about 11, once for each run, one after the other"


def test_diff_refine_asks_and_then_names_tensor_and_phase(home: Path, plain: RunView) -> None:
    other = record(home, "weight-again", "--plant", "weight")
    words = ("diff", plain.path, other.path, "--refine")
    refused = memaudit(*words, cwd=home)
    assert refused.returncode == 2
    assert "nobody consented" in refused.stderr
    assert str(PARTING) in refused.stderr
    answer = memaudit(*words, "--trust-code", "--json", cwd=home)
    assert answer.returncode == 1, answer.stderr
    document = json.loads(answer.stdout)
    validator("diff").validate(document)
    assert document["refined"]["first"]["phase"] == "between steps"
    assert document["refined"]["first"]["tensor"] == "params/block.inner.weight"
    assert document["first"]["source"] == "optimizer.momentum_buffer"  # what the trace can tell: it follows at once
    told = memaudit(*words, "--trust-code", cwd=home).stdout
    assert "run again: both, from step 7 to" in told
    assert "between steps: params/block.inner.weight" in told


def test_diff_refine_of_equal_runs_runs_nothing(home: Path, plain: RunView) -> None:
    answer = memaudit("diff", plain.path, plain.path, "--refine", cwd=home)
    assert answer.returncode == 0
    assert "nothing to refine" in answer.stderr
