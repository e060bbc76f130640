"""Asking before something is gone for good."""

import sys
from collections.abc import Callable
from typing import Any

import click

from muster.cli.console.output import Exit, fail, say
from muster.common.terminal import printable_lines


def yes_option[F: Callable[..., Any]](command: F) -> F:
    """`--yes`, passed as `yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person; ends the command unless the answer is yes. Who cannot be asked has to say it beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is there to ask: give --yes", Exit.USAGE)
    if not asked(lambda: click.confirm(printable_lines(question), err=True)):
        fail("nothing was done", Exit.FAILURE)


def asked[T](ask: Callable[[], T]) -> T:
    """What the person answers; Ctrl-C ends the command."""
    try:
        return ask()
    except click.Abort:
        say("")
        sys.exit(Exit.INTERRUPTED)
