"""The command `muster`: a table of subcommands, each imported only when it is called, so that `--help` is quick."""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, override

import click
from click.exceptions import Exit

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "up": Lazy("muster.cli.commands.stack.command", "up", "Start the whole stack on this machine."),
    "down": Lazy("muster.cli.commands.stack.command", "down", "Stop it."),
    "status": Lazy("muster.cli.commands.stack.command", "status", "Show its processes: state, memory, restarts."),
    "demo": Lazy("muster.cli.demo.command", "demo", "Three coding tasks on a stack of their own, proved at the end."),
    "doctor": Lazy("muster.cli.commands.doctor", "doctor", "Check this machine, and say what to do."),
    "task": Lazy("muster.cli.commands.task", "task", "Submit tasks, look at them, steer and cancel them."),
    "agent": Lazy(
        "muster.cli.commands.agent.command", "agent", "Register agents, start and stop them, see how they are."
    ),
    "events": Lazy("muster.cli.commands.events", "events", "Show everything that happens in a task, live."),
    "sandbox": Lazy("muster.cli.commands.sandbox", "sandbox", "Look at sandboxes, and prove their logs."),
    "guardian": Lazy("muster.cli.commands.guardian", "guardian", "See what the guardian found and did."),
    "auth": Lazy("muster.cli.commands.auth.command", "auth", "Log in; make and revoke keys; users."),
    "profile": Lazy("muster.cli.commands.profile", "profile", "Keep several APIs by name."),
    "api": Lazy("muster.cli.commands.api", "api", "Call any route of the API."),
}

INTERRUPTED, UNREAD = 130, 141
"""As in `output.Exit`, which `--help` does not wait for."""


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"muster {version('muster-cli')}")
        ctx.exit()


class Root(LazyGroup):
    """Where every command ends: nothing that a person does is a traceback."""

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _ended_quietly():  # `--help` is shown here
            return super().make_context(*args, **kwargs)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        with _ended_quietly():
            return super().invoke(ctx)


@contextmanager
def _ended_quietly() -> Generator[None]:
    """Without a word where the reader of stdout has gone, or the person has had enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has no reader, and must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(UNREAD) from None
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None


@click.group(cls=Root, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def muster() -> None:
    """Run fleets of coding agents, and keep them on course."""
