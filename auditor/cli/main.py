"""The command ``memaudit``: a group that imports a command only when it runs, and prints errors once."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

import auditor
from auditor.cli.output import ReaderLeft
from auditor.errors import MemauditError

# Command: (module, its line in --help). The line stands here so that --help imports nothing.
COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("auditor.cli.record", "Run a training under the recorder."),
    "verify": ("auditor.cli.verify", "Check a run or study directory without executing anything of it."),
    "replay": ("auditor.cli.replay", "Fork a run at a step, change one memory source, measure the effect."),
    "lint": ("auditor.cli.lint", "Apply every rule to all runs and studies below a path."),
    "report": ("auditor.cli.report", "Write one HTML page about runs and studies."),
    "diff": ("auditor.cli.diff", "Find where two runs part, and why."),
    "seal": ("auditor.cli.seal", "Close a run that was interrupted, with the key that recorded it."),
    "inspect": ("auditor.cli.inspect", "Show a run's census, its RNG contract and a summary."),
    "rule": ("auditor.cli.rule", "Say what a rule checks, why, and how to mend it."),
    "key": ("auditor.cli.key", "Make, trust, list and remove signing keys."),
    "demo": ("auditor.cli.demo", "Record, verify, replay and report a small real training."),
}

DEFECT = 5
STOPPED = 130
"""By Ctrl-C, as shells have it: 128 and the signal's number."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101 - what every command's file exposes
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise MemauditError(
                f"there is no command {args[0]!r}",
                why=f"did you mean {near[0]}?" if near else None,
                next_step=f"memaudit {near[0]}" if near else "memaudit --help",
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(auditor.__version__, prog_name="memaudit")
def memaudit() -> None:
    """Record, verify and replay what a training remembers.

    \b
    Examples:
      memaudit record --out runs/a -- python train.py
      memaudit verify runs/a
      memaudit replay runs/a --at 400 --do optimizer.momentum_buffer=reset
      memaudit report runs/a -o report.html
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status (design §7).

    0 holds, 1 findings, 2 usage, 3 nothing to audit, 4 inconclusive, 5 a defect in memaudit.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(arguments))


def _interrupt(*_: object) -> None:
    """Stop at the first Ctrl-C, and take no other: one that came while processes are being ended would leave them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        result = memaudit.main(
            args=None if arguments is None else list(arguments), prog_name="memaudit", standalone_mode=False
        )
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except MemauditError as error:
        _print_error(error)
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("memaudit: stopped", err=True)
        return STOPPED
    except ReaderLeft:
        # Not a defect, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _defect(error)


def _print_error(error: MemauditError) -> None:
    from auditor.cli.output import style_for
    from auditor.findings.formats.text import escape

    style = style_for(sys.stderr)
    lines = [f"{style.paint('error:', '1', '31')} {escape(error.what)}"]
    if error.where:
        lines.append(f"  --> {escape(error.where)}")
    if error.why:
        lines.append(f"  because {escape(error.why)}")
    if error.next_step:
        lines.append(f"  try: {escape(error.next_step)}")
    click.echo("\n".join(lines), err=True, color=style.colour)


def _defect(error: Exception) -> int:
    if os.environ.get("MEMAUDIT_TRACEBACK") == "1":
        import traceback

        traceback.print_exception(error)
    from auditor.findings.formats.text import escape

    click.echo(
        f"memaudit: a defect in memaudit itself ({escape(type(error).__name__)}: {escape(str(error)[:300])})\n"
        "  This is not a verdict on what was examined.\n"
        "  try: MEMAUDIT_TRACEBACK=1 with the same command, and report what it prints",
        err=True,
    )
    return DEFECT


if __name__ == "__main__":
    main()
