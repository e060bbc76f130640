"""Declares the option `--isolation` of commands that start a stack, and prints the messages about isolation."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from muster.cli.commands.stack.provider_option import DOUBLE_ISOLATION
from muster.cli.console.output import fail, say_wrapped
from muster.common.configuration_file import ConfigurationError
from muster.common.faults import InvalidMessage
from muster.common.isolation_levels import LEVELS, STRONGEST
from muster.embedded.ready import Ready
from muster.shim.protocol import IsolationChoice

_NO_TMP = "They cannot use /tmp and /dev/shm, and find their own directory for such files in TMPDIR. "


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


def sandbox_isolation(ready: Ready) -> str:
    """Return what isolates the stack's sandboxes, such as `bubblewrap`, or `bubblewrap (local), daytona`."""
    by_provider = ready.provider_isolation or {"local": ready.isolation}
    named = [
        isolation if isolation == name or len(by_provider) == 1 else f"{isolation} ({name})"
        for name, isolation in by_provider.items()
    ]
    return ", ".join(filter(None, named)) or "none: no shim"


def isolation_text(ready: Ready) -> str:
    """Return what isolates the stack's sandboxes, and its process agents if something else isolates them."""
    isolation = sandbox_isolation(ready)
    if not ready.isolation or "local" in ready.provider_isolation or not ready.provider_isolation:
        return isolation
    return f"{isolation}; process agents: {ready.isolation}"


def warn_of_weak_isolation(ready: Ready) -> None:
    """Print a warning for each part of the stack that runs agents without isolation, or with a weak level."""
    if DOUBLE_ISOLATION in ready.provider_isolation.values():
        say_wrapped(
            "Warning: sandboxes have no isolation, because a double of Daytona runs them as ordinary processes of the "
            "user who started the stack. Run only code that you trust."
        )
    warn_if_not_isolated(ready.isolation)


def warn_if_not_isolated(isolation: str) -> None:
    """Print a warning if agents run without isolation (`plain`), or with less than the strongest level."""
    if isolation in ("landlock", "pid-namespace"):
        say_wrapped(
            f"Warning: agents run at the isolation level {isolation}, which is weaker than {STRONGEST}. "
            f"{_NO_TMP if isolation == 'landlock' else ''}docs/security.md has a table of what each level promises."
        )
    if isolation == "plain":
        say_wrapped(
            "Warning: agents run without isolation (--isolation plain). They can read and change every file that this "
            "user can, also other agents' work and keys. Run only code that you trust."
        )
