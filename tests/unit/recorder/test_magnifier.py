"""What a cell that magnifies writes, and that it changes nothing: real trainings in this process."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer

from auditor.artifact.resources import validator
from auditor.compare.divergence import first_divergence
from auditor.evidence.run_view import RunView, resolve_steps
from auditor.evidence.trace_reader import read_trace
from tests.support import magnified, parting
from tests.support.magnified import Line, lines_of

COMPILED = {"as written": [], "wrapped": ["--compiled", "wrapped"], "in place": ["--compiled", "in place"]}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMAUDIT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return magnified.record(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture(scope="module")
def lines(recorded: Path) -> list[Line]:
    return lines_of(magnified.cell(recorded, recorded.parent / "cell"))


def words_of(line: Line) -> str:
    match line["event"]:
        case "state":
            return f"{line['moment']} {line['of'] or ''}".strip()
        case "call" | "answer":
            return f"{line['event']} {line['module']} {line['call']}"
        case other:
            return str(other)


@pytest.mark.parametrize("words", COMPILED.values(), ids=COMPILED.keys())
@pytest.mark.filterwarnings("ignore")
def test_a_magnified_cell_takes_the_very_steps_of_one_that_is_not_and_of_the_recording(
    tmp_path: Path, words: list[str]
) -> None:
    run = magnified.record(tmp_path / "run", *words)
    traces = [
        (magnified.cell(run, tmp_path / f"cell-{magnify}", *words, magnify=magnify) / "trace.jsonl").read_bytes()
        for magnify in (True, False)
    ]
    assert traces[0] == traces[1]
    taken = list(resolve_steps(read_trace(traces[0]).events))
    recorded = [step for step in RunView.open(run).steps() if 6 < step.step <= 10]
    assert first_divergence(recorded, taken) == (None, 4)


def test_a_step_is_told_in_the_order_in_which_it_happens(lines: list[Line]) -> None:
    assert [words_of(line) for line in lines if line["event"] in ("start", "end") or line["step"] == 7] == [
        *("start", "entry", "batch"),
        *("before call model.norm", "call model.norm 1", "answer model.norm 1"),
        *("before call model", "call model 1"),
        *("call model.first 1", "answer model.first 1", "call model.norm 2", "answer model.norm 2"),
        *("call model.block 1", "call model.block.inner 1", "answer model.block.inner 1", "answer model.block 1"),
        *("call model.head 1", "answer model.head 1", "answer model 1"),
        # The program's optimizer calls the step of the class it comes from: an update inside an update.
        *(["gradients", "before update optimizer"] * 2),
        *("after update optimizer", "after update optimizer", "end", "end"),
    ]


def test_every_line_follows_its_schema(lines: list[Line]) -> None:
    check = validator("magnified-line")
    for line in lines:
        check.validate(line)
    assert [line["step"] for line in lines if line["event"] == "state" and line["moment"] == "end"] == [7, 8, 9, 10]


def test_data_classes_and_keyword_arguments_have_digests(lines: list[Line]) -> None:
    answers = {line["module"]: line for line in lines if line["event"] == "answer"}
    assert all(line["outputs"] is not None for line in answers.values())
    assert {name for name, line in answers.items() if line["keywords"] is not None} == {"model.block"}
    assert all(line["inputs"] is not None for line in lines if line["event"] == "call")


def test_gradients_stand_under_their_parameters_names_in_the_order_of_the_groups(lines: list[Line]) -> None:
    found = next(line for line in lines if line["event"] == "gradients")
    assert [name for name, _ in found["leaves"]] == [name for name, _ in parting.Net(12).named_parameters()]
    assert all(digest is not None for _, digest in found["leaves"])


def test_tensors_of_a_source_that_has_not_changed_are_written_once(lines: list[Line]) -> None:
    told = [
        (line["moment"], source["leaves"] is not None)
        for line in lines
        if line["event"] == "state" and line["step"] == 7
        for source in line["sources"]
        if source["name"] == "params"
    ]
    assert [moment for moment, written in told if written] == ["entry", "after update"]
    assert len(told) == 8


def test_a_tensor_of_several_mebibytes_has_a_digest_for_each(tmp_path: Path) -> None:
    run = magnified.record(tmp_path / "run", "--width", "600")
    lines = lines_of(magnified.cell(run, tmp_path / "cell", "--width", "600", steps=1))
    params = next(source for source in lines[1]["sources"] if source["name"] == "params")
    assert {path: len(chunks) for path, chunks in params["chunks"].items()} == {"block.inner.weight": 2}
    gradients = next(line for line in lines if line["event"] == "gradients")
    assert {path: len(chunks) for path, chunks in gradients["chunks"].items()} == {"block.inner.weight": 2}


def test_hooks_are_gone_when_a_cell_has_ended(recorded: Path, tmp_path: Path) -> None:
    def hooks() -> list[int]:
        held = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
        of_updates = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)
        return [len(each) for each in (*held, *of_updates)]

    before = hooks()
    magnified.cell(recorded, tmp_path / "cell")
    assert hooks() == before


def test_a_call_that_raises_leaves_no_mark_on_the_calls_after_it(
    recorded: Path, tmp_path: Path, lines: list[Line]
) -> None:
    refused = lines_of(magnified.cell(recorded, tmp_path / "cell", "--plant", "refused"))
    assert refused == lines, "what is not watched is not told, and nothing is taken for a part of it"


def test_what_another_thread_calls_is_left_out(
    recorded: Path, tmp_path: Path, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = parting.Net.forward

    def aside(self: parting.Net, inputs: torch.Tensor) -> parting.Answer:
        thread = threading.Thread(target=self.head, args=(torch.zeros(1, 12),))
        thread.start()
        thread.join()
        answer: parting.Answer = forward(self, inputs)
        return answer

    monkeypatch.setattr(parting.Net, "forward", aside)
    assert lines_of(magnified.cell(recorded, tmp_path / "cell")) == lines, "nor does it count as a call"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("how", "seen"), [("wrapped", {"model", "model._orig_mod.norm"}), ("in place", {"model.norm"})]
)
def test_what_torch_compile_runs_is_not_seen_and_that_is_told(tmp_path: Path, how: str, seen: set[str]) -> None:
    run = magnified.record(tmp_path / "run", "--compiled", how)
    lines = lines_of(magnified.cell(run, tmp_path / "cell", "--compiled", how))
    assert {line["module"] for line in lines if line["event"] == "answer"} == seen
    assert lines[-1]["compiled"] == ["model"]
    assert {line["event"] for line in lines} == {"start", "state", "batch", "call", "answer", "gradients", "end"}


def test_a_cell_measures_nothing_and_says_so_in_its_result(recorded: Path, tmp_path: Path) -> None:
    result = json.loads((magnified.cell(recorded, tmp_path / "cell") / "result.json").read_text())
    validator("cell-result").validate(result)
    assert result["horizons"] == {}
