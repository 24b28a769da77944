"""``memaudit replay``: re-execute a training from an anchor, with named interventions."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.consent import check_run, consent, program_lines
from auditor.errors import MemauditError

if TYPE_CHECKING:
    from auditor.replay.plan import Plan
    from auditor.replay.study import Progress, Study


@click.command(
    "replay", epilog="Exit status: 0 complete, gate and nulls passed · 1 a null failed · 2 usage · 4 the gate failed."
)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A plan in YAML."
)
@click.option("--at", type=click.IntRange(0), metavar="STEP", help="Fork after this step.")
@click.option("--do", multiple=True, metavar="SOURCE=ACTION", help="One arm; + joins several interventions in it.")
@click.option(
    "--horizon",
    "horizons",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    help="Measure N steps after the fork. [default: 100]",
)
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True, help="How many units (fork seeds).")
@click.option("--out", type=click.Path(path_type=Path), help="The study directory. [default: RUN-study]")
@click.option("--jobs", type=click.IntRange(1), help="Cells at a time. [default: one a core and thread]")
@click.option("--dry-run", is_flag=True, help="Say what would run and what it could detect, and stop.")
@click.option("--trust-code", is_flag=True, help="Run the recorded program without asking.")
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Sign the study with this private key."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--json", "form", flag_value="json", help="Short for --format json.")
def command(
    run: Path | None,
    plan_file: Path | None,
    at: int | None,
    do: tuple[str, ...],
    horizons: tuple[int, ...],
    seeds: int,
    out: Path | None,
    jobs: int | None,
    dry_run: bool,
    trust_code: bool,
    key: Path | None,
    form: str,
) -> None:
    """Re-execute a training from an anchor, with named interventions.

    \b
    Examples:
      memaudit replay runs/digits --at 120 --do optimizer.momentum_buffer=reset --horizon 20 --horizon 60
      memaudit replay --plan plan.yaml --out study --trust-code
      memaudit replay runs/digits --at 120 --do optimizer=reset,how=zero --dry-run

    Replay runs the recorded program: it shows what will run and asks first. A study that was stopped goes on where
    it was when the same command is given again.
    """
    from auditor.evidence.run_view import RunView
    from auditor.replay.study import Study

    plan, text = _plan(run, plan_file, at, do, horizons, seeds)
    view = RunView.open(Path(plan.run))
    check_run(view)
    study = Study(plan, view, out or Path(f"{plan.run.rstrip('/')}-study"))
    if dry_run:
        _describe(study, err=False)
        return
    _describe(study, err=True)
    consent("replay", [study.launch.script], trusted=trust_code)
    estimate = _execute(study, jobs, key, text)
    if form == "json":
        click.echo(_json(estimate))
    else:
        from auditor.causal.text import lines

        click.echo("\n".join(lines(estimate)))
        click.echo(f"\nnext: memaudit report {plan.run} {study.out} -o report.html")
    sys.exit({"complete": 0, "null failed": 1, "gate failed": 4}[estimate["verdict"]])


def _plan(
    run: Path | None, plan_file: Path | None, at: int | None, do: tuple[str, ...], horizons: tuple[int, ...], seeds: int
) -> tuple[Plan, bytes | None]:
    from auditor.replay.plan import from_options, from_yaml

    if plan_file is not None:
        if at is not None or do or horizons:
            raise MemauditError("--plan says everything about the study", next_step="drop --at, --do and --horizon")
        plan = from_yaml(plan_file)
        if run is not None and run.resolve() != Path(plan.run).resolve():
            raise MemauditError(f"the plan is about {plan.run}, not {run}", next_step="name one of them")
        return plan, plan_file.read_bytes()
    if run is None or at is None:
        raise MemauditError(
            "replay needs a run and a step, or a plan",
            next_step="memaudit replay RUN --at STEP --do SOURCE=ACTION, or memaudit replay --plan PLAN.yaml",
        )
    return from_options(str(run), at, list(do), list(horizons or (100,)), seeds, {}, 0), None


def _describe(study: Study, *, err: bool) -> None:
    """Show what will run, how much it is, and what it could detect."""
    from auditor.causal.power import detectable

    plan, launch, reached = study.plan, study.launch, study.reached
    steps = plan.at + max(plan.horizons) - reached.anchor["step"]
    predicate = study.run.predicate or {}
    seconds = len(study.cells) * steps * predicate["seconds"] / max(predicate["steps"], 1)
    smallest = detectable(len(plan.seeds))
    for line in (
        *program_lines(study.run, launch, each="each cell"),
        f"fork      after step {plan.at}, from {reached.anchor['path']}; horizons {', '.join(map(str, plan.horizons))}",
        f"arms      carry; {'; '.join(arm.name for arm in plan.arms) or '(no other)'}",
        f"cells     {len(study.cells)} of {steps} steps: {len(plan.seeds)} units, the gate, and carry once more",
        f"CPU time  about {max(seconds, 1):.0f} s of steps, and each cell's start-up",
        f"power     {len(plan.seeds)} units detect a difference of {smallest:.2f} standard deviations (power .8)"
        if smallest is not None
        else f"power     {len(plan.seeds)} units are too few to detect anything",
    ):
        click.echo(line, err=err)


def _execute(study: Study, jobs: int | None, key: Path | None, text: bytes | None) -> dict[str, Any]:
    from auditor.evidence.keys import load_or_create_default, load_private
    from auditor.replay.executors.forkserver import ForkserverExecutor

    threads = study.run.environment["numerics"]["threads"]
    workers = jobs or max(1, (os.cpu_count() or 1) // threads)
    signer = load_or_create_default() if key is None else load_private(key)
    tell = _Teller()
    executor = ForkserverExecutor(workers)
    try:
        return study.execute(executor, signer, plan_text=text, progress=tell)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the same command goes on in {study.out} where it stopped", err=True)
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        tell.close()


class _Teller:
    """Progress on stderr: one line rewritten on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._told = 0

    def __call__(self, progress: Progress) -> None:
        text = f"cells {progress.done}/{progress.total}  {progress.cell}"
        if self._terminal:
            click.echo(f"\r\x1b[2K{text}", err=True, nl=False)
        elif progress.done * 10 // progress.total > self._told or progress.done == progress.total:
            self._told = progress.done * 10 // progress.total
            click.echo(text, err=True)

    def close(self) -> None:
        if self._terminal:
            click.echo("", err=True)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
