"""Parses host names and the entries of an allow-list of hosts. Pure functions; no name is resolved.

An entry is the name of a preset (`pypi`), a host (`example.org`), all subdomains of a host (`*.example.org`), or an IP
address. A port may follow (`example.org:8443`, `[2001:db8::1]:443`). Without a port, an entry means the ports 80 and
443. A host name is compared in lower case and without the dot at its end.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import msgspec

from muster.common.faults import InvalidMessage
from muster.common.network_presets import PRESETS

WEB_PORTS = (80, 443)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_PORT = re.compile(r"[0-9]{1,5}")
_LONGEST_NAME = 253
_LONGEST_PORT = 65_535


class HostRule(msgspec.Struct, frozen=True):
    """One entry of an allow-list. `host` is a host, or with `subdomains` the domain whose subdomains are meant."""

    host: str
    subdomains: bool = False
    ports: tuple[int, ...] = WEB_PORTS

    def __str__(self) -> str:
        """Return the entry of an allow-list that means this rule."""
        name = f"*.{self.host}" if self.subdomains else self.host
        return name if self.ports == WEB_PORTS else f"{name}:{self.ports[0]}"

    def names(self, host: str) -> bool:
        """Whether the rule is about this host, a host name in its normal form."""
        return host.endswith(f".{self.host}") if self.subdomains else host == self.host

    def covers(self, other: "HostRule") -> bool:
        """Whether this rule allows every host and port that `other` allows."""
        inside = self.names(other.host) or (
            other.subdomains and self == msgspec.structs.replace(other, ports=self.ports)
        )
        return inside and (self.subdomains or not other.subdomains) and set(other.ports) <= set(self.ports)


class HostRules(msgspec.Struct, frozen=True):
    """An allow-list of hosts and ports. The empty list allows nothing."""

    rules: tuple[HostRule, ...] = ()

    def allows(self, host: str, port: int) -> bool:
        """Whether a rule allows this port of this host, a host name in its normal form."""
        return any(rule.names(host) and port in rule.ports for rule in self.rules)

    def covers(self, other: HostRule) -> bool:
        """Whether the list allows every host and port that `other` allows. Two rules may allow one port each."""
        return all(
            any(rule.covers(msgspec.structs.replace(other, ports=(port,))) for rule in self.rules)
            for port in other.ports
        )


@lru_cache(1024)
def rules_of(entries: tuple[str, ...]) -> HostRules:
    """Return the rules of these entries, with the hosts of each preset. Raises `InvalidMessage` for a wrong entry."""
    return HostRules(tuple(rule for entry in entries for rule in rules_of_entry(entry)))


def rules_of_entry(entry: str) -> tuple[HostRule, ...]:
    """Return the rules of one entry: those of a preset, or the one of a host. Raises `InvalidMessage`."""
    if hosts := PRESETS.get(entry.lower()):
        return tuple(HostRule(host) for host in hosts)
    return (parse_rule(entry),)


def split_entries(text: str) -> tuple[str, ...]:
    """Return the entries of a setting, in which commas or spaces separate entries."""
    return tuple(filter(None, re.split(r"[,\s]+", text)))


def parse_rule(text: str) -> HostRule:
    """Parse one entry that is not the name of a preset. Raises `InvalidMessage` with the reason."""
    try:
        host, port = split_port(text)
        subdomains = host.startswith("*.")
        name = host_name(host.removeprefix("*."))
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if subdomains and (name.startswith("[") or is_address(name)):
        raise _wrong(text, "an IP address has no subdomains")
    if "." not in name and not name.startswith("[") and port is None:
        known = ", ".join(PRESETS)
        raise _wrong(text, f"there is no such preset, and a host without a dot needs a port; presets are {known}")
    return HostRule(name, subdomains, WEB_PORTS if port is None else (port,))


def split_port(text: str) -> tuple[str, int | None]:
    """Return the host of `host`, `host:port` or `[address]:port`, and the port. Raises `ValueError`."""
    head, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    if ":" in head and not (head.startswith("[") and head.endswith("]")):
        raise ValueError("an IPv6 address needs brackets, as in [2001:db8::1]:443")
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= _LONGEST_PORT:
        raise ValueError("the port must be a number from 1 to 65535")
    return head, int(port)


def host_name(text: str) -> str:
    """Return the normal form of a host: lower case, no dot at its end, and an IPv6 address in brackets.

    Raises `ValueError` with the reason. A host whose last label is a number must be a complete IPv4 address in decimal
    numbers, because programs read `2130706433`, `0x7f.1` and `127.1` as addresses (WHATWG URL, "ends in a number").
    """
    if text.startswith("[") and text.endswith("]"):
        return f"[{_ipv6(text[1:-1])}]"
    if not text.isascii():
        raise ValueError("write an international name in its ASCII form, which begins with xn--")
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("this is not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except AddressValueError:
            raise ValueError("write an IPv4 address as four decimal numbers") from None
    return name


def _ipv6(text: str) -> IPv6Address:
    if "%" in text:
        raise ValueError("an IPv6 address must not have a zone")
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise ValueError("this is not an IPv6 address") from None


def is_address(host: str) -> bool:
    """Whether a host in its normal form is an IP address and not a name."""
    return host.startswith("[") or host.rpartition(".")[2].isdigit()


def _wrong(text: str, why: str) -> InvalidMessage:
    return InvalidMessage(f"{text[:100]!r} cannot be an entry of an allow-list of hosts: {why}", field="$.hosts")
