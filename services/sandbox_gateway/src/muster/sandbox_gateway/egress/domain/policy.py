"""Decides which hosts a sandbox may reach. The operator's settings are the upper bound of every task and package.

The entries that a task and its package name are a claim of the sandbox's token, so the proxy reads no store. The
operator's list is checked again for each connection, so a shorter list applies to running sandboxes after a restart of
the gateway.
"""

from collections.abc import Sequence
from typing import get_args

from muster.common.contracts.task_spec import Network, NetworkMode
from muster.common.faults import Forbidden, InvalidMessage
from muster.common.host_rules import HostRules, parse_rule, rules_of, rules_of_entry, split_entries
from muster.sandbox_gateway.egress.domain.addresses import Address, is_never_reachable, is_public

_MODES: tuple[NetworkMode, ...] = get_args(NetworkMode)
_SETTING = "MUSTER_EGRESS_ALLOWED"
HOSTS = "$.network.hosts"


class NetworkPolicy:
    """The operator's settings for the network of sandboxes: the mode, the allowed hosts, and the private hosts."""

    def __init__(self, mode: NetworkMode, allowed: str, private: str) -> None:
        """Parse the settings. Raises `InvalidMessage` for a wrong entry of one of the lists."""
        self._mode: NetworkMode = mode
        self._allowed = rules_of(split_entries(allowed))
        self._private = HostRules(tuple(parse_rule(entry) for entry in split_entries(private)))

    def mode_of(self, network: Network | None) -> NetworkMode:
        """Return the network of a sandbox: the operator's, or a more restricted one that the task asks for.

        A task that only names hosts asks for the mode `allow-list`.
        """
        if network is None:
            return self._mode
        wanted = network.mode or ("allow-list" if network.hosts else self._mode)
        return _MODES[min(_MODES.index(wanted), _MODES.index(self._mode))]

    def claimed_hosts(self, network: Network | None) -> tuple[str, ...] | None:
        """Return the claim of a sandbox's token: None for no access to the proxy, and () for all allowed hosts."""
        if self.mode_of(network) != "allow-list":
            return None
        return () if network is None else tuple(network.hosts)

    def hosts(self, network: Network | None) -> list[str]:
        """Return the hosts that a sandbox may reach, for a provider that limits the network by its own means.

        A port other than 80 and 443 follows after a colon.
        """
        claim = self.claimed_hosts(network)
        if claim is None:
            return []
        chosen = [rule for rule in _claimed(claim).rules if self._mode == "host" or self._allowed.covers(rule)]
        return [str(rule) for rule in (chosen if claim else self._allowed.rules)]

    def check(self, network: Network | None) -> None:
        """Raise `InvalidMessage` if a task or its package asks for more than the operator allows."""
        if network is None:
            return
        if network.mode is not None and self.mode_of(network) != network.mode:
            raise InvalidMessage(
                f"sandboxes here have at most the network {self._mode}; an operator can set MUSTER_SANDBOX_NETWORK",
                field="$.network.mode",
            )
        if network.hosts and self.mode_of(network) == "none":
            raise InvalidMessage(
                "the task names hosts, but its sandbox has no network; set network.mode to allow-list, or ask an "
                "operator to set MUSTER_SANDBOX_NETWORK=allow-list",
                field=HOSTS,
            )
        for entry in network.hosts:
            self._check_entry(entry)

    def refusal(self, hosts: Sequence[str] | None, host: str, port: int) -> Forbidden | None:
        """Return why a sandbox with this claim may not connect to a port of a host, or None if it may."""
        if hosts is None:
            return Forbidden("this sandbox has no network")
        unbounded = hosts and self._mode == "host"  # The task restricts itself more than the operator does.
        if not unbounded and not self._allowed.allows(host, port):
            return Forbidden(f"{host}:{port} is not on the allow-list; an operator can add it ({_SETTING})")
        if hosts and not _claimed(tuple(hosts)).allows(host, port):
            return Forbidden(f"{host}:{port} is not among the hosts that the task or its package names")
        return None

    def reachable(self, host: str, port: int, addresses: Sequence[Address]) -> list[Address]:
        """Return the addresses of a host to which the proxy may connect: the public ones.

        For a host of the setting `MUSTER_EGRESS_PRIVATE`, also the private ones.
        """
        private_too = self._private.allows(host, port)
        return [
            address for address in addresses if is_public(address) or (private_too and not is_never_reachable(address))
        ]

    def _check_entry(self, entry: str) -> None:
        try:
            rules = rules_of_entry(entry)
        except InvalidMessage as error:
            raise InvalidMessage(str(error), field=HOSTS) from None
        if self._mode == "allow-list" and not all(map(self._allowed.covers, rules)):
            raise InvalidMessage(
                f"sandboxes here may not reach {entry}; an operator can allow it with `muster up --allow {entry}` or "
                f"{_SETTING}",
                field=HOSTS,
            )


def _claimed(hosts: tuple[str, ...]) -> HostRules:
    """Return the rules of a claim. An entry that this release cannot read allows nothing."""
    try:
        return rules_of(hosts)
    except InvalidMessage:
        return HostRules()
