"""Six trainings of different kinds, recorded by the real command: they learn, verify, and show what they remember.

A source's kind is the first word of its name, so the names say both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from auditor.artifact.resources import validator
from tests.support.programs import ROOT, memaudit, run


@dataclass(frozen=True)
class Example:
    program: str
    words: tuple[str, ...]
    metric: str
    """A regular expression for the last line printed; its first group is a number."""
    learned: tuple[float, float]
    """What that number must lie between, even after the few steps of ``--quick``."""
    sources: str
    streams: str


AVERAGES = """
    params bn optimizer.momentum_buffer
    hyper.bn_momentum hyper.dampening hyper.dropout hyper.initial_lr hyper.lr hyper.maximize hyper.momentum
    hyper.nesterov hyper.swa_lr hyper.weight_decay scheduler[cosine] scheduler[swalr] ema swa
"""
EXAMPLES = {
    "averages": Example(
        "averages.py",
        (),
        r"test accuracy ([\d.]+) EMA [\d.]+ SWA [\d.]+",
        (0.9, 1.0),
        AVERAGES,
        "python numpy torch",
    ),
    "averages-amp": Example(
        "averages.py",
        ("--amp",),
        r"test accuracy ([\d.]+) EMA [\d.]+ SWA [\d.]+",
        (0.9, 1.0),
        AVERAGES + "scaler",
        "python numpy torch",
    ),
    "momentum-contrast": Example(
        "momentum_contrast.py",
        (),
        r"linear-probe accuracy ([\d.]+), before training [\d.]+",
        (0.9, 1.0),
        """
        params bn optimizer.momentum_buffer
        hyper.bn_momentum hyper.dampening hyper.initial_lr hyper.lr hyper.maximize hyper.momentum hyper.nesterov
        hyper.weight_decay scheduler teacher queue[model] queue[recent_queue] augment
        """,
        "python numpy torch",
    ),
    "gan": Example(
        "gan.py",
        (),
        r"energy distance ([\d.]+), before training [\d.]+",
        (0.0, 2.0),
        """
        params[generator] params[discriminator] bn buffers ema
        optimizer[generator_adam].exp_avg optimizer[generator_adam].exp_avg_sq optimizer[generator_adam].step
        optimizer[discriminator_adam].exp_avg optimizer[discriminator_adam].exp_avg_sq
        optimizer[discriminator_adam].step
        hyper[generator_adam].amsgrad hyper[generator_adam].betas hyper[generator_adam].eps
        hyper[generator_adam].lr hyper[generator_adam].maximize hyper[generator_adam].weight_decay
        hyper[discriminator_adam].amsgrad hyper[discriminator_adam].betas hyper[discriminator_adam].eps
        hyper[discriminator_adam].lr hyper[discriminator_adam].maximize hyper[discriminator_adam].weight_decay
        hyper.bn_momentum
        """,
        "python numpy torch noise",
    ),
    "language-model": Example(
        "language_model.py",
        (),
        r"bits per character ([\d.]+), before training [\d.]+",
        (2.0, 4.5),
        """
        params optimizer.exp_avg optimizer.exp_avg_sq optimizer.step
        hyper.amsgrad hyper.betas hyper.dropout hyper.eps hyper.initial_lr hyper.lr hyper.maximize
        hyper.weight_decay scheduler order other
        """,
        "python numpy torch",
    ),
    "lbfgs": Example(
        "lbfgs.py",
        (),
        r"test accuracy ([\d.]+), last learning rate [\d.]+",
        (0.9, 1.0),
        """
        params optimizer.H_diag optimizer.al optimizer.d optimizer.func_evals optimizer.n_iter optimizer.old_dirs
        optimizer.old_stps optimizer.prev_flat_grad optimizer.prev_loss optimizer.ro optimizer.t
        hyper.history_size hyper.line_search_fn hyper.lr hyper.max_eval hyper.max_iter hyper.tolerance_change
        hyper.tolerance_grad scheduler
        """,
        "python numpy torch",
    ),
    "distillation": Example(
        "distillation.py",
        (),
        r"test accuracy ([\d.]+), of the teacher [\d.]+",
        (0.7, 1.0),
        """
        params optimizer.square_avg optimizer.momentum_buffer optimizer.step
        hyper.alpha hyper.centered hyper.dropout hyper.eps hyper.initial_lr hyper.lr hyper.maximize hyper.momentum
        hyper.weight_decay scheduler teacher[teacher] teacher[self_teacher] queue order
        """,
        "python numpy torch sampler.generator",
    ),
}


@dataclass(frozen=True)
class Recorded:
    example: Example
    folder: Path
    answer: subprocess.CompletedProcess[str]

    def metric(self) -> str:
        """Return the line that says how good the training got."""
        return next(line for line in self.answer.stdout.splitlines() if re.fullmatch(self.example.metric, line))

    def census(self) -> dict[str, Any]:
        answer = memaudit("inspect", "run", "--format", "json", cwd=self.folder)
        assert answer.returncode == 0, answer.stderr
        document: dict[str, Any] = json.loads(answer.stdout)
        return document


@pytest.fixture(scope="module", params=EXAMPLES)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    example = EXAMPLES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    program = ROOT / "examples" / example.program
    answer = memaudit(
        "record", "--out", "run", "--seed", "0", "--", sys.executable, program, "--quick", *example.words, cwd=folder
    )
    assert answer.returncode == 0, answer.stderr
    assert "recording stopped" not in answer.stderr
    return Recorded(example, folder, answer)


def test_it_learns(recorded: Recorded) -> None:
    found = re.fullmatch(recorded.example.metric, recorded.metric())
    assert found is not None
    low, high = recorded.example.learned
    assert low <= float(found[1]) <= high


def test_it_verifies(recorded: Recorded) -> None:
    answer = memaudit("verify", "run", cwd=recorded.folder)
    assert answer.returncode == 0, answer.stdout


def test_the_census_names_all_that_it_remembers(recorded: Recorded) -> None:
    census = recorded.census()
    validator("census").validate(census)
    assert sorted(source["name"] for source in census["sources"]) == sorted(recorded.example.sources.split())
    for source in census["sources"]:
        assert source["kind"] == re.match("[a-z]+", source["name"])[0], source
        assert source["captured"], source
    assert [stream["name"] for stream in census["streams"]] == recorded.example.streams.split()


def test_recording_changes_nothing(recorded: Recorded) -> None:
    program = ROOT / "examples" / recorded.example.program
    words = ("--quick", "--seed", "0", *recorded.example.words)
    answer = run(sys.executable, program, *words, cwd=recorded.folder, MEMAUDIT="off")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [recorded.metric()]
