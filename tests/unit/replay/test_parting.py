"""What is named where two executions part: one training gone on with from one anchor, with and without a defect."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auditor.artifact.canonical import canonical_bytes
from auditor.errors import InconclusiveError
from auditor.replay.parting import Place, first_difference
from tests.support import magnified
from tests.support.magnified import Line, lines_of

FILE = "magnified.jsonl"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMAUDIT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return magnified.record(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture(scope="module")
def untouched(recorded: Path) -> Path:
    return magnified.cell(recorded, recorded.parent / "cell") / FILE


def between(source: str, path: str | None = None) -> Place:
    return Place(9, "between steps", tensor=None if path is None else f"{source}/{path}", source=source)


def forward(module: str, call: int = 1) -> Place:
    return Place(9, "forward", module=module, call=call)


def update(path: str) -> Place:
    return Place(9, "update", tensor=f"params/{path}", source="params")


def backward(name: str) -> Place:
    return Place(9, "backward", tensor=f"gradients/{name}", source="gradients")


PLANTS = {
    "weight": (between("params", "block.inner.weight"), ""),
    "statistics": (between("bn", "norm.running_mean"), ""),
    "momentum": (between("optimizer.momentum_buffer", "first.weight"), ""),
    "momentum late": (between("optimizer.momentum_buffer", "head.weight"), "inside the loop's body"),
    "rate": (between("hyper.lr"), ""),
    "draw": (Place(9, "forward", source="stream.torch"), "after the first call of a module"),
    "inputs": (forward("model"), "already the inputs of model differ"),
    "between": (forward("model.block"), "the inputs of model.block.inner differ"),
    "scale": (forward("model"), "the inputs of model.block differ"),
    "shift": (forward("model.block"), ""),
    "dropout": (forward("model.block"), ""),
    "another call": (forward("model.head"), "A calls model and B calls model.head"),
    "loss": (backward("head.bias"), "8 of 8 gradients differ"),
    "clip": (backward("head.bias"), "8 of 8 gradients differ"),
    "one gradient": (backward("norm.weight"), "1 of 8 gradients differ"),
    "update": (update("first.weight"), ""),
    "after update": (update("head.bias"), "after the optimizer's last update"),
}


@pytest.mark.parametrize(("plant", "place", "note"), [(name, *rest) for name, rest in PLANTS.items()], ids=PLANTS)
def test_the_phase_the_module_and_the_tensor_of_a_planted_defect_are_named(
    recorded: Path, untouched: Path, tmp_path: Path, plant: str, place: Place, note: str
) -> None:
    planted = magnified.cell(recorded, tmp_path / "cell", "--plant", plant) / FILE
    found, notes = first_difference(untouched, planted)
    assert found == place
    assert [note in each for each in notes] == ([True] if note else [])
    assert first_difference(planted, untouched)[0] == place


def test_two_executions_of_one_training_do_not_part(recorded: Path, untouched: Path, tmp_path: Path) -> None:
    again = magnified.cell(recorded, tmp_path / "cell") / FILE
    assert again.read_bytes() == untouched.read_bytes()
    assert first_difference(untouched, again) == (None, [])


def test_inputs_given_by_keyword_are_told_from_what_a_module_computes(tmp_path: Path) -> None:
    run = magnified.record(tmp_path / "run", "--by-keyword")
    cells = [
        magnified.cell(run, tmp_path / f"cell-{plant}", "--by-keyword", "--plant", plant) / FILE
        for plant in ("", "inputs", "scale")
    ]
    place, notes = first_difference(cells[0], cells[1])
    assert place == forward("model")
    assert notes == ["already the inputs of model differ: the program computed them differently from equal batches"]
    place, notes = first_difference(cells[0], cells[2])
    assert place == forward("model")
    assert "model computed them in its own forward" in notes[0]


def test_the_mebibyte_of_a_large_tensor_is_named(tmp_path: Path) -> None:
    words = ("--width", "600")
    run = magnified.record(tmp_path / "run", *words)
    cells = [
        magnified.cell(run, tmp_path / f"cell-{plant}", *words, "--plant", plant) / FILE for plant in ("", "weight")
    ]
    place = first_difference(*cells)[0]
    # The weight at [3, 4] of 600 x 600 float32 lies in the first MiB, and the whole of it in two.
    assert place == Place(9, "between steps", tensor="params/block.inner.weight", chunk=0, source="params")


@pytest.mark.filterwarnings("ignore")
def test_what_was_compiled_is_named_as_not_seen(tmp_path: Path) -> None:
    words = ("--compiled", "wrapped")
    run = magnified.record(tmp_path / "run", *words)
    cells = [magnified.cell(run, tmp_path / f"cell-{plant}", *words, "--plant", plant) / FILE for plant in ("", "rate")]
    place, notes = first_difference(*cells)
    assert place == between("hyper.lr")
    assert notes == ["torch.compile ran model: the modules inside were not seen"]


def test_different_state_at_the_start_comes_before_different_batches(tmp_path: Path) -> None:
    runs = [magnified.record(tmp_path / f"run-{seed}", "--seed", seed) for seed in ("0", "1")]
    cells = [
        magnified.cell(run, tmp_path / f"cell-{index}", "--seed", str(index), begin=0, steps=1) / FILE
        for index, run in enumerate(runs)
    ]
    place, notes = first_difference(*cells)
    assert place is not None
    assert (place.step, place.phase) == (1, "between steps")
    assert str(place.source).startswith("stream.")
    assert notes == ["the two executions begin with different state"]


def changed(lines: list[Line], change: Callable[[list[Line]], object]) -> bytes:
    change(lines)
    return b"".join(canonical_bytes(line) + b"\n" for line in lines)


HOSTILE = {
    "no file": (None, "cannot be read"),
    "empty": (lambda lines: lines.clear(), "cut short"),
    "cut short": (lambda lines: lines.pop(), "cut short"),
    "no start": (lambda lines: lines.pop(0), "cannot be read"),
    "another start": (lambda lines: lines[0].update(step=3), "do not begin after the same step"),
    "another format": (lambda lines: lines[0].update(format="magnified-9"), "cannot be read"),
    "an unknown event": (lambda lines: lines[5].update(event="dance"), "cannot be read"),
    "a member too many": (lambda lines: lines[1].update(more=1), "cannot be read"),
    "a digest that is none": (lambda lines: lines[1]["streams"][0].__setitem__(1, "x"), "cannot be read"),
    "a line that is a list": (lambda lines: lines.insert(1, [1]), "cannot be read"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_not_what_it_should_be_is_inconclusive(
    untouched: Path, tmp_path: Path, change: Callable[[list[Line]], object] | None, message: str
) -> None:
    hostile = tmp_path / FILE
    if change is not None:
        hostile.write_bytes(changed(lines_of(untouched.parent), change))
    with pytest.raises(InconclusiveError, match=message):
        first_difference(untouched, hostile)


@pytest.mark.parametrize("text", [b"\xff\xfe\n", b'{"event":"start"', b'{"a":1,"a":2}\n', b"[" * 100_000 + b"\n"])
def test_bytes_that_are_no_json_are_inconclusive(untouched: Path, tmp_path: Path, text: bytes) -> None:
    hostile = tmp_path / FILE
    hostile.write_bytes(text)
    with pytest.raises(InconclusiveError):
        first_difference(untouched, hostile)


def test_a_source_that_cannot_be_read_in_one_of_them_is_no_crash(untouched: Path, tmp_path: Path) -> None:
    hostile = tmp_path / FILE

    def unread(lines: list[Line]) -> None:
        lines[1]["sources"][0].update(digest=None, leaves=None)

    hostile.write_bytes(changed(lines_of(untouched.parent), unread))
    place = first_difference(untouched, hostile)[0]
    assert place is not None
    assert place.source == json.loads(untouched.read_text().splitlines()[1])["sources"][0]["name"]
