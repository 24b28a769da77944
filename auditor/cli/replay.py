"""``memaudit replay``: re-execute a training from an anchor, with named interventions."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.consent import check_run, consent, program_lines
from auditor.errors import MemauditError

if TYPE_CHECKING:
    from auditor.evidence.run_view import RunView
    from auditor.replay.executors.choice import Executors
    from auditor.replay.plan import Execution, Plan
    from auditor.replay.study import Study


@click.command(
    "replay",
    epilog="Exit status: 0 complete, gate and nulls passed · 1 a null failed · 2 usage · 4 the gate or cells failed.",
)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A plan in YAML."
)
@click.option("--at", multiple=True, type=click.IntRange(0), metavar="STEP", help="Fork after this step.")
@click.option("--do", multiple=True, metavar="SOURCE=ACTION", help="One arm; + joins several interventions in it.")
@click.option(
    "--horizon",
    "horizons",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    help="Measure N steps after the fork. [default: 100]",
)
@click.option("--seeds", type=click.IntRange(1), help="How many units (fork seeds). [default: 10]")
@click.option("--out", type=click.Path(path_type=Path), help="The study directory. [default: RUN-study]")
@click.option(
    "--reach",
    type=click.Choice(["auto", "restore", "rerun", "fork"]),
    help="How cells come to the fork: from an anchor, from the program's start, or forked from one live process.",
)
@click.option("--jobs", type=click.IntRange(1), help="Cells at a time. [default: one a core and thread]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="What a cell may take.")
@click.option("--memory", metavar="SIZE", help="What a cell's processes may hold, such as 4GiB.")
@click.option("--in-process", is_flag=True, help="Run the cells in this process, one after the other, for a debugger.")
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
    at: tuple[int, ...],
    do: tuple[str, ...],
    horizons: tuple[int, ...],
    seeds: int | None,
    out: Path | None,
    reach: str | None,
    jobs: int | None,
    timeout: float | None,
    memory: str | None,
    in_process: bool,
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
    from auditor.replay.executors.choice import IN_THIS_PROCESS, Executors
    from auditor.replay.study import Study

    plan, text = _plan(run, plan_file, at, do, horizons, seeds, reach)
    execution = _execution(plan.execution, jobs, timeout, memory, in_process=in_process)
    views = {path: RunView.open(Path(path)) for path in dict.fromkeys(fork.run for fork in plan.forks)}
    if execution.kind == "in-process" and not dry_run:
        _begin_with_hash_seed(next(iter(views.values())))
    out = out or _default_out(plan, plan_file)
    threads = max(view.environment["numerics"]["threads"] for view in views.values())
    with Executors(execution, out, threads) as executors:
        if trust_code and not dry_run and plan.reach != "fork":
            executors.warm(next(iter(views.values())))
        for view in views.values():
            check_run(view)
        study = Study(plan, [views[fork.run] for fork in plan.forks], out)
        for fork in study.forks:
            if execution.kind == "in-process" and fork.reached.way == "fork":
                fork.refuse("fork", IN_THIS_PROCESS)
        _describe(study, execution, err=not dry_run)
        if dry_run:
            return
        consent("replay", [fork.launch.script for fork in study.forks], trusted=trust_code)
        estimate = _execute(study, executors, key, text, live=execution.kind != "in-process")
    if form == "json":
        import json

        click.echo(json.dumps(estimate, indent=2, ensure_ascii=False, sort_keys=True))
    else:
        from auditor.causal.text import lines

        click.echo("\n".join(lines(estimate)))
        paths = " ".join([*views, str(study.out)])
        click.echo(f"\nnext: memaudit report {paths} -o report.html")
    sys.exit({"complete": 0, "null failed": 1, "gate failed": 4}[estimate["verdict"]])


def _begin_with_hash_seed(run: RunView) -> None:
    """Begin this command anew with the recorded hash seed, if it has another: it is fixed when a process starts."""
    name = "PYTHONHASHSEED"
    recorded = run.environment["flags"][name]
    if recorded not in (None, "random", os.environ.get(name)):
        words = [sys.executable, "-m", "auditor.cli.main", *sys.argv[1:]]
        os.execve(sys.executable, words, {**os.environ, name: recorded})  # noqa: S606 - this very command


def _plan(
    run: Path | None,
    plan_file: Path | None,
    at: tuple[int, ...],
    do: tuple[str, ...],
    horizons: tuple[int, ...],
    seeds: int | None,
    reach: str | None,
) -> tuple[Plan, bytes | None]:
    from auditor.replay.plan import from_options
    from auditor.replay.plan_file import from_yaml

    if plan_file is not None:
        given = {"--at": at, "--do": do, "--horizon": horizons, "--seeds": seeds, "--reach": reach}
        doubled = [name for name, value in given.items() if value]
        if doubled:
            raise MemauditError(
                f"{' and '.join(doubled)} cannot stand beside --plan",
                why="a plan says everything that determines the study",
                next_step="write it into the plan, or leave out --plan",
            )
        plan = from_yaml(plan_file)
        if run is not None and {run.resolve()} != {Path(fork.run).resolve() for fork in plan.forks}:
            runs = ", ".join(dict.fromkeys(fork.run for fork in plan.forks))
            raise MemauditError(f"the plan is about {runs}, not {run}", next_step="leave the run out")
        return plan, plan_file.read_bytes()
    if run is None or not at:
        raise MemauditError(
            "replay needs a run and a step, or a plan",
            next_step="memaudit replay RUN --at STEP --do SOURCE=ACTION, or memaudit replay --plan PLAN.yaml",
        )
    return from_options(str(run), at, do, horizons or (100,), seeds or 10, reach=reach or "auto"), None


def _execution(
    declared: Execution, jobs: int | None, timeout: float | None, memory: str | None, *, in_process: bool
) -> Execution:
    """Return how the cells are run: as the plan says, but for what the command line says."""
    from auditor.replay.plan import bytes_of

    size = None if memory is None else bytes_of(memory)
    if memory is not None and not size:
        raise MemauditError(
            f"{memory!r} is no amount of memory", where="--memory", next_step="write 4GiB, 500MB, or a number of bytes"
        )
    return replace(
        declared,
        kind="in-process" if in_process else declared.kind,
        jobs=jobs or declared.jobs,
        timeout=timeout or declared.timeout,
        memory=size or declared.memory,
    )


def _default_out(plan: Plan, plan_file: Path | None) -> Path:
    """Return RUN-study, or beside a plan of several runs a directory of the plan's name."""
    runs = list(dict.fromkeys(fork.run for fork in plan.forks))
    if len(runs) == 1 or plan_file is None:
        return Path(f"{runs[0].rstrip('/')}-study")
    return plan_file.with_name(f"{plan_file.stem}-study")


def _describe(study: Study, execution: Execution, *, err: bool) -> None:
    """Show what will run, how much it is, and what it could detect."""
    from auditor.replay.dry_run import cost_lines

    plan, told = study.plan, set[str]()
    for fork in study.forks:
        lines = program_lines(fork.run, fork.launch, each="each cell")
        for line in lines if str(fork.run.path) not in told else []:
            click.echo(line, err=err)
        told.add(str(fork.run.path))
    for line in cost_lines(study, execution):
        click.echo(line, err=err)
    click.echo(f"plan      {plan.sha256} (SHA-256)", err=err)


def _execute(study: Study, executors: Executors, key: Path | None, text: bytes | None, *, live: bool) -> dict[str, Any]:
    from auditor.cli.progress import LiveProgress
    from auditor.evidence.keys import load_or_create_default, load_private

    signer = load_or_create_default() if key is None else load_private(key)
    try:
        # With cells in this process a debugger may be on the terminal: nothing is redrawn there.
        with LiveProgress(live=None if live else False) as progress:
            return study.execute(executors, signer, plan_text=text, observer=progress)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the same command goes on in {study.out} where it stopped", err=True)
        raise
