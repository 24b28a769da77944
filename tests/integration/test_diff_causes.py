"""Each cause planted, one at a time, into a real training: `memaudit diff` names step, source and class."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from auditor.artifact.resources import validator

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "planted.py"
TEXT = PROGRAM.read_text("utf-8")


@dataclass(frozen=True)
class Plant:
    """One cause: what is changed, and what diff must say first."""

    name: str
    step: int | None
    """None where chance decides it."""
    source: str
    class_: str
    old: str = ""
    new: str = ""
    arguments: tuple[str, ...] = ()
    twice: bool = False
    """Whether both runs are of the changed program."""
    says: str = ""
    """What the evidence must hold."""


def line(mark: str, code: str) -> dict[str, str]:
    """Put a line of code in a comment's place."""
    return {"old": f"# {mark}\n", "new": f"{code}\n"}


PLANTS = [
    Plant(
        "momentum dropped at step 11",
        11,
        "optimizer.momentum_buffer",
        "state",
        **line("the update comes", "if step == 11: optimizer.state.clear()"),
        says="after 10 equal steps",
    ),
    Plant(
        "scheduler not stepped at step 11",
        11,
        "scheduler",
        "hyper",
        old="scheduler.step()",
        new="step == 11 or scheduler.step()",
        says="changed in A and not in B",
    ),
    Plant(
        "scheduler one step behind",
        1,
        "scheduler",
        "hyper",
        old="scheduler.step()",
        new="step == 1 or scheduler.step()",
        says="hyper.lr: B is where A was 1 step before",
    ),
    Plant(
        "sampler's generator seeded anew each pass",
        7,
        "stream.sampler",
        "stream-reseeded",
        **line("a pass begins", "generator.manual_seed(5)"),
        says="in B it is back where it stood before step 1",
    ),
    Plant(
        "one more random draw at step 11",
        11,
        "stream.torch",
        "stream-shifted",
        **line("the step ends", "step == 11 and torch.rand(1)"),
        says="B is 1 draw ahead",
    ),
    Plant(
        "a stream that nobody drew from",
        11,
        "stream.numpy",
        "stream-consumed",
        **line("the step ends", "import numpy; step == 11 and numpy.random.rand()"),
        says="B drew from it and A did not",
    ),
    Plant("two workers", 1, "stream.torch", "augmentation", arguments=("--workers", "2"), says="0 in A, 2 in B"),
    Plant(
        "two threads",
        1,
        "optimizer.momentum_buffer",
        "numerics",
        arguments=("--threads", "2"),
        says="threads: 1 in A, 2 in B",
    ),
    Plant("stronger augmentation", 1, "batch", "augmentation", arguments=("--noise", "0.06"), says="24 of 24 batches"),
    Plant(
        "one sample twice",
        1,
        "ids",
        "data",
        **line(
            "the data are there", "inputs, targets = torch.cat([inputs, inputs[:1]]), torch.cat([targets, targets[:1]])"
        ),
        says="48 in A, 49 in B",
    ),
    Plant(
        "one label flipped",
        6,
        "batch",
        "data",
        **line("the data are there", "targets[17] = (targets[17] + 1) % 3"),
        says="no equal batch does: 17",
    ),
    Plant(
        "one weight one ulp off",
        11,
        "params",
        "state",
        **line(
            "the step ends",
            "w = model[0].weight.data[0]; w[7] = torch.nextafter(w[7], torch.tensor(9.0)) if step == 11 else w[7]",
        ),
        says="the optimizer's state does not",
    ),
    Plant(
        "BatchNorm's momentum",
        0,
        "hyper.bn_momentum",
        "hyper",
        old="momentum=0.1)",
        new="momentum=0.2)",
        says="0.1 and 0.2",
    ),
    Plant("the average's decay", 2, "ema", "hyper", old="_fn(0.9)", new="_fn(0.8)", says="half-life"),
    Plant(
        "the queue's pointer stuck",
        11,
        "queue",
        "state",
        old="queue.put(outputs.detach())",
        new="queue.put(outputs.detach()); step < 11 or queue.pointer.fill_(0)",
        says="queue/pointer, after step 12: 16 in A, 0 in B",
    ),
    Plant(
        "clipping threshold",
        1,
        "optimizer.momentum_buffer",
        "hyper",
        arguments=("--clip", "0.25"),
        says="argument --clip: 0.5 in A, 0.25 in B",
    ),
    Plant("batch size", 1, "ids", "order", arguments=("--batch-size", "16"), says="batch_size: 8 in A, 16 in B"),
    Plant("another learning rate", 0, "hyper.initial_lr", "hyper", old="lr=0.05", new="lr=0.04", says="0.05 and 0.04"),
    Plant(
        "a fused optimizer",
        2,
        "optimizer.momentum_buffer",
        "numerics",
        old="momentum=0.9)",
        new="momentum=0.9, fused=True)",
    ),
    Plant(
        "a kernel that adds in another order each time",
        None,  # two orders may give one sum
        "optimizer.momentum_buffer",
        "nondeterminism",
        old="loss = F.cross_entropy(outputs, labels)",
        new="import random; loss = sum(random.SystemRandom().sample(list(F.cross_entropy(outputs, labels, "
        "reduction='none')), len(labels))) ** 2",
        twice=True,
        says="the size of rounding",
    ),
]


def arguments(plant: Plant | None = None) -> list[str]:
    given = dict(DEFAULTS)
    if plant is not None:
        given.update(zip(plant.arguments[::2], plant.arguments[1::2], strict=True))
    return [word for pair in given.items() for word in pair]


DEFAULTS = {"--clip": "0.5", "--batch-size": "8", "--workers": "0", "--noise": "0.05", "--threads": "1"}


def record(folder: Path, text: str, words: list[str], name: str = "run") -> Path:
    """Record a program's text through the real command, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(text, "utf-8")
    program = [sys.executable, "train.py", *words]
    command = [sys.executable, "-m", "auditor.cli.main", "record", "--out", name, "--seed", "0", "--", *program]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return folder / name


def diff(a: Path, b: Path, *options: str) -> tuple[int, dict]:
    command = [sys.executable, "-m", "auditor.cli.main", "diff", str(a), str(b), "--format", "json", *options]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode in (0, 1, 4), answer.stderr
    document = json.loads(answer.stdout)
    validator("diff").validate(document)
    return answer.returncode, document


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("base"), TEXT, arguments())


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_planted_cause_is_named(plant: Plant, base: Path, tmp_path: Path) -> None:
    assert plant.old in TEXT
    text = TEXT.replace(plant.old, plant.new, 1) if plant.old else TEXT
    a = record(tmp_path / "first", text, arguments()) if plant.twice else base
    b = record(tmp_path, text, arguments(plant))
    status, found = diff(a, b)
    assert (status, found["verdict"], found["comparable"]) == (1, "different", True)
    step = found["first"]["step"] if plant.step is None else plant.step
    assert (found["first"]["step"], found["first"]["source"]) == (step, plant.source)
    cause = found["causes"][0]
    assert cause["class"] == plant.class_, found["causes"]
    assert plant.says in " ".join(cause["evidence"])
    assert found["compared"]["equal"] == max(step - 1, 0)


def test_equal_runs_have_no_cause(base: Path, tmp_path: Path) -> None:
    status, found = diff(base, record(tmp_path, TEXT, arguments()))
    assert (status, found["verdict"], found["first"], found["causes"]) == (0, "equal", None, [])
    assert found["compared"] == {"equal": 24, "steps": 24}


def test_runs_recorded_otherwise_are_equal(base: Path, tmp_path: Path) -> None:
    """Other anchors, per-tensor digests, hashes for ids, another key: the training is the same."""
    text = TEXT.replace('record("run", seed=0)', 'record("run", seed=0, anchor_every=4, leaves_every=3, order="hash")')
    assert text != TEXT
    status, found = diff(base, record(tmp_path, text, arguments()))
    assert (status, found["verdict"], found["causes"]) == (0, "equal", [])


def test_another_model_is_not_comparable(base: Path, tmp_path: Path) -> None:
    status, found = diff(base, record(tmp_path, TEXT.replace("1100", "1000"), arguments()))
    assert (status, found["verdict"], found["comparable"]) == (4, "not comparable", False)
    assert found["first"] is None
    assert found["causes"] == []
    assert "params/0.bias is float32[1100] in A and float32[1000] in B" in found["reasons"][0]
