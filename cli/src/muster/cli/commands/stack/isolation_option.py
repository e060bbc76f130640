"""`--isolation` of the commands that start a stack, and what they say of it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from muster.cli.console.output import fail, say
from muster.shim.protocol import IsolationChoice


def isolation_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option."""
    return click.option(
        "--isolation",
        type=click.Choice(("auto", "bubblewrap", "plain")),
        default="auto",
        help="How agents are isolated. `plain`: not at all; run only code that you trust.",
    )(command)


def refuse_without_isolation(wanted: IsolationChoice) -> None:
    """Try it before anything starts; end the command, saying what to do, where nothing isolates."""
    from muster.shim.isolation import IsolationMissing, IsolationSelector

    with tempfile.TemporaryDirectory(prefix="muster-isolation-") as state:
        try:
            IsolationSelector.probed(wanted, Path(state))
        except IsolationMissing as missing:
            fail(str(missing))


def warn_of(isolation: str) -> None:
    """Say at each start that there is no isolation."""
    if isolation == "plain":
        say(
            "Warning: agents run without isolation (--isolation plain). They can read and change all that this user "
            "can, other agents' work and keys included. Run only code that you trust."
        )
