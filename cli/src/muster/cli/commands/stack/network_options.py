"""Declares the options `--network` and `--allow` of `muster up`, which set the network of sandboxes."""

import os
from collections.abc import Callable
from typing import Any, get_args

import click

from muster.cli.console.output import Exit, fail, one_of
from muster.common.contracts.task_spec import NetworkMode
from muster.common.faults import InvalidMessage
from muster.common.host_rules import rules_of_entry
from muster.common.network_presets import DEFAULT


def network_options[F: Callable[..., Any]](command: F) -> F:
    """Add the options; the command receives their values as `network` and `allow`."""
    network = click.option(
        "--network",
        type=click.Choice(get_args(NetworkMode)),
        metavar="WORD",
        help=f"Limit what sandboxes reach: {one_of(get_args(NetworkMode))}. [MUSTER_SANDBOX_NETWORK]",
    )
    allow = click.option(
        "--allow",
        multiple=True,
        metavar="HOST",
        callback=_readable_hosts,
        help="Let sandboxes reach HOST too, a host or a preset such as github. May be repeated.",
    )
    return network(allow(command))


def network_variables(network: NetworkMode | None, allow: tuple[str, ...]) -> dict[str, str]:
    """Return the gateway's variables for these options. `--allow` adds to the allow-list that is configured."""
    variables = dict[str, str]()
    if network is not None:
        variables["MUSTER_SANDBOX_NETWORK"] = network
    if allow:
        before = os.environ.get("MUSTER_EGRESS_ALLOWED") or _configured() or DEFAULT
        variables["MUSTER_EGRESS_ALLOWED"] = ",".join((before, *allow))
    return variables


def _configured() -> str:
    from muster.common.configuration_file import ConfigurationError, configured_as

    try:
        return configured_as("sandbox_gateway", "egress_allowed", os.environ)
    except ConfigurationError as error:
        fail(str(error), Exit.USAGE)


def _readable_hosts(_: click.Context, __: click.Parameter, hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        try:
            rules_of_entry(host)
        except InvalidMessage as error:
            raise click.BadParameter(str(error)) from None
    return hosts
