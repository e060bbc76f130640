"""Defines the root command `muster` and the table of its subcommands.

The table holds the help line and the module of each subcommand. The module is imported only when its subcommand is
called, so that `muster --help` is fast. The root command also decides how every command ends: an interrupt (Ctrl-C)
and a closed stdout end the process with their exit codes and without a traceback.
"""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, override

import click
from click.exceptions import Exit

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "up": Lazy("muster.cli.commands.stack.up", "up", "Start the whole stack on this machine."),
    "down": Lazy("muster.cli.commands.stack.running", "down", "Stop the stack on this machine."),
    "status": Lazy("muster.cli.commands.stack.running", "status", "Show the stack's processes and addresses."),
    "ps": Lazy("muster.cli.commands.stack.running", "ps", "Show each part of the stack: state, uptime, port."),
    "logs": Lazy("muster.cli.commands.stack.logs", "logs", "Show the logs of the stack's parts."),
    "restart": Lazy("muster.cli.commands.stack.restart", "restart", "Restart parts of the stack."),
    "demo": Lazy("muster.cli.demo.command", "demo", "Run three coding tasks on a temporary stack and verify them."),
    "doctor": Lazy("muster.cli.commands.doctor", "doctor", "Check whether this machine can run a stack."),
    "model": Lazy("muster.cli.commands.model.command", "model", "Store, list, test and remove models."),
    "task": Lazy("muster.cli.commands.task.command", "task", "Submit, show, follow, steer and cancel tasks."),
    "agent": Lazy("muster.cli.commands.agent.command", "agent", "Register, start, stop and inspect agents."),
    "events": Lazy("muster.cli.commands.events", "events", "Show the events of a task, live."),
    "sandbox": Lazy("muster.cli.commands.sandbox", "sandbox", "Show sandboxes, verify logs, run commands in them."),
    "guardian": Lazy("muster.cli.commands.guardian", "guardian", "Show the guardian's findings and interventions."),
    "auth": Lazy("muster.cli.commands.auth.command", "auth", "Log in; manage keys and users; read the audit log."),
    "profile": Lazy(
        "muster.cli.commands.profile", "profile", "Save API addresses under names and choose between them."
    ),
    "api": Lazy("muster.cli.commands.api", "api", "Call any route of the API."),
    "completion": Lazy("muster.cli.commands.completion", "completion", "Print a completion script for a shell."),
    "help": Lazy("muster.cli.commands.help", "help_", "Show the help of a command."),
}

INTERRUPTED, UNREAD = 130, 141
"""Exit codes, equal to those in `output.Exit`. The numbers are repeated, because `--help` must not import `output`."""


def _print_version(ctx: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        click.echo(f"muster {version('muster-cli')}")
        ctx.exit()


class RootGroup(LazyGroup):
    """The command `muster`; ends the process without a traceback on Ctrl-C and when stdout is closed."""

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        # Click prints the text of `--help` here. The write fails if the reader of stdout has closed the pipe.
        with _exits_without_traceback():
            return super().make_context(*args, **kwargs)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        with _exits_without_traceback():
            return super().invoke(ctx)


@contextmanager
def _exits_without_traceback() -> Generator[None]:
    """Exit with 141 if the reader of stdout has closed the pipe, and with 130 on Ctrl-C; print nothing."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit. With the closed pipe this flush would fail and print a second error,
        # so stdout is replaced by /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(UNREAD) from None
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None


@click.group(cls=RootGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    *("--version",),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def muster() -> None:
    """Run fleets of coding agents, watch their work and correct it."""
