"""Declares the option `--isolation` of commands that start a stack, and prints the messages about isolation."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from muster.cli.console.output import fail, say
from muster.common.configuration_file import ConfigurationError
from muster.common.faults import InvalidMessage
from muster.common.isolation_levels import LEVELS, STRONGEST
from muster.shim.protocol import IsolationChoice


def isolation_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--isolation`; the command receives its value as `isolation`."""
    return click.option(
        "--isolation",
        type=click.Choice(("auto", *LEVELS)),
        default="auto",
        help="Choose how agents are isolated. `auto` takes the strongest level that works and that "
        "MUSTER_ISOLATION_AT_LEAST permits. `plain` means without isolation: run only code that you trust.",
    )(command)


def refuse_without_isolation(wanted: IsolationChoice) -> None:
    """End the command with advice if this machine cannot isolate agents as `wanted` and as the settings require."""
    from muster.embedded.isolation_floor import required_isolation
    from muster.shim.isolation import IsolationMissing, IsolationSelector

    with tempfile.TemporaryDirectory(prefix="muster-isolation-") as state:
        try:
            IsolationSelector.probed(wanted, Path(state), required_isolation(os.environ))
        except (IsolationMissing, InvalidMessage, ConfigurationError) as missing:
            fail(str(missing))


def warn_if_not_isolated(isolation: str) -> None:
    """Print a warning if agents run without isolation (`plain`), or with less than the strongest level."""
    if isolation in ("landlock", "pid-namespace"):
        say(
            f"Warning: agents run at the isolation level {isolation}, which is weaker than {STRONGEST}. "
            "docs/security.md has a table of what each level promises."
        )
    if isolation == "plain":
        say(
            "Warning: agents run without isolation (--isolation plain). They can read and change every file that this "
            "user can, also other agents' work and keys. Run only code that you trust."
        )
