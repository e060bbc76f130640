"""Defines the option `--provider` of `muster up` and `muster demo`, and starts the double of Daytona for it."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from muster.cli.console.output import say_wrapped

ProviderChoice = Literal["local", "daytona", "daytona-double"]
_GATEWAY = "sandbox_gateway"
DOUBLE_ISOLATION = "none (double of Daytona)"
"""The isolation of sandboxes at the double of Daytona, as `muster up`, `status` and `demo` show it."""


def provider_option[F: Callable[..., Any]](command: F) -> F:
    """Add the option `--provider` to a command."""
    return click.option(
        "--provider",
        type=click.Choice(["local", "daytona", "daytona-double"]),
        help="Make the sandboxes with this provider: local processes, Daytona (MUSTER_DAYTONA_API_KEY), or a double "
        "of Daytona that runs here. [MUSTER_PROVIDERS]",
    )(command)


def provider_isolation(provider: ProviderChoice | None) -> Mapping[str, str]:
    """Return what isolates the sandboxes of the provider, if it is neither the shim nor the provider itself."""
    return {"daytona": DOUBLE_ISOLATION} if provider == "daytona-double" else {}


@contextmanager
def provider_environment(provider: ProviderChoice | None, root: Path) -> Generator[Mapping[str, Mapping[str, str]]]:
    """Yield the variables, by part, with which a stack uses this provider. The double runs while the block runs.

    `root` is the directory of the double's sandboxes. Their isolation is that of ordinary processes.
    """
    if provider is None:
        yield {}
        return
    if provider != "daytona-double":
        second = ",local" if provider == "daytona" else ""
        yield {_GATEWAY: {"MUSTER_PROVIDERS": provider + second}}
        return
    from muster.daytona_double import serving

    with serving(root) as double:
        say_wrapped(
            f"A double of Daytona answers at {double.url}. It isolates nothing: "
            "agents run as ordinary processes of your user."
        )
        yield {
            _GATEWAY: {
                "MUSTER_PROVIDERS": "daytona",
                "MUSTER_DAYTONA_API_KEY": double.key,
                "MUSTER_DAYTONA_API_URL": double.url,
            }
        }
