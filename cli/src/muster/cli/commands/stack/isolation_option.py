"""Declares the option `--isolation` of commands that start a stack, and prints the messages about isolation."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from muster.cli.console.output import fail, say
from muster.shim.protocol import IsolationChoice


def isolation_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--isolation`; the command receives its value as `isolation`."""
    return click.option(
        "--isolation",
        type=click.Choice(("auto", "bubblewrap", "plain")),
        default="auto",
        help="Choose how agents are isolated. `plain` means without isolation: run only code that you trust.",
    )(command)


def refuse_without_isolation(wanted: IsolationChoice) -> None:
    """End the command with advice if this machine cannot isolate agents with the method `wanted`."""
    from muster.shim.isolation import IsolationMissing, IsolationSelector

    with tempfile.TemporaryDirectory(prefix="muster-isolation-") as state:
        try:
            IsolationSelector.probed(wanted, Path(state))
        except IsolationMissing as missing:
            fail(str(missing))


def warn_if_not_isolated(isolation: str) -> None:
    """Print a warning if agents run without isolation (`plain`)."""
    if isolation == "plain":
        say(
            "Warning: agents run without isolation (--isolation plain). They can read and change every file that this "
            "user can, also other agents' work and keys. Run only code that you trust."
        )
