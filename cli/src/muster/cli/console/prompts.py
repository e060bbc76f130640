"""Asks the user for confirmation before a command does something that cannot be undone."""

import sys
from collections.abc import Callable
from typing import Any

import click

from muster.cli.console.output import Exit, fail, say
from muster.common.terminal import printable_lines


def yes_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--yes`; the command receives its value as `yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Skip the confirmation prompt.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the user a question unless `yes` is set; end the command unless the answer is yes.

    If stdin is not a terminal, the command ends with an error that asks for the option `--yes`.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Stdin is not a terminal, so confirm with --yes", Exit.USAGE)
    if not ask_user(lambda: click.confirm(printable_lines(question), err=True)):
        fail("nothing was changed, because the answer was no", Exit.FAILURE)


def ask_user[T](prompt: Callable[[], T]) -> T:
    """Show a click prompt and return the answer; on Ctrl-C or end of input, end the command with exit code 130."""
    try:
        return prompt()
    except click.Abort:
        say("")
        sys.exit(Exit.INTERRUPTED)
