"""The address of a remote git repository: its parts, and the URL that git gets."""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

from muster.common.faults import InvalidMessage
from muster.common.git_urls import ssh_url

URL_FIELD: Final = "$.repo.url"
REF_FIELD: Final = "$.repo.ref"
Scheme = Literal["https", "http", "ssh"]
_PORTS: Final[dict[str, int]] = {"https": 443, "http": 80, "ssh": 22}
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_UNCLEAR_SEGMENT = re.compile(r"[/\\]\.{0,2}(?:;[^/\\]*)?(?=[/\\])|\\")
"""A segment that servers remove or resolve: an empty one, `.` or `..`, also with parameters. Some read `\\` as `/`."""
_EMBEDDED = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that contain an IPv4 address, to which a NAT64 router sends the packets."""


class RemoteAddress(msgspec.Struct, frozen=True):
    """A git repository on another host."""

    scheme: Scheme
    host: str
    port: int
    path: str
    user: str | None = None

    @property
    def host_and_port(self) -> str:
        """The host, and the port unless it is the usual port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the repository. It never contains a password."""
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.host_and_port}{quote(self.path, safe='/~+=@:!$,;')}"

    @property
    def name(self) -> str:
        """The path of the repository without slashes at its ends and without the ending `.git`."""
        return self.path.strip("/").removesuffix(".git")


def parsed(text: str) -> SplitResult:
    """Return the parts of a repository's URL. Raises `InvalidMessage` for text that is not a URL."""
    address = ssh_url(text) or text
    try:
        url = urlsplit(address)
        _ = url.port  # `urlsplit` validates the port of a URL only when the port is read
    except ValueError as error:
        raise InvalidMessage(f"the repository's URL is not valid: {error}", field=URL_FIELD) from None
    if _BLANK_OR_CONTROL.search(address):
        raise InvalidMessage("the repository's URL contains a space or a control character; remove it", field=URL_FIELD)
    return url


def remote_address(url: SplitResult) -> RemoteAddress:
    """Return the address in a URL. Raises `InvalidMessage` for another scheme, a password, or a wrong part."""
    host = (url.hostname or "").removesuffix(".")
    if url.scheme not in _PORTS or not _HOST.fullmatch(host):
        raise InvalidMessage(
            "a repository's URL must begin with file, https, http or ssh, or have the form user@host:path",
            field=URL_FIELD,
        )
    if url.password or (url.username and url.scheme != "ssh"):
        raise InvalidMessage("a repository's URL must not contain credentials; remove them", field=URL_FIELD)
    if url.username and not _USER.fullmatch(url.username):
        raise InvalidMessage("the user in the repository's URL is not valid", field=URL_FIELD)
    if url.query or url.fragment or url.path.strip("/") == "":
        raise InvalidMessage("a repository's URL must end with the repository's path", field=URL_FIELD)
    path = unquote(url.path)
    if _UNCLEAR_SEGMENT.search(f"{path.rstrip('/')}/"):
        # The server would see another path than the one that decides about the credential.
        raise InvalidMessage(
            "the path of a repository's URL must not contain //, /./, /../ or a backslash; remove them", field=URL_FIELD
        )
    scheme: Scheme = "https" if url.scheme == "https" else "http" if url.scheme == "http" else "ssh"
    return RemoteAddress(scheme, host.lower(), url.port or _PORTS[url.scheme], path, url.username or None)


def private_among(addresses: Iterable[str]) -> str | None:
    """Return the first of these IP addresses that is not a public one; None if all are public."""
    return next((text for text in addresses if not _is_public(text)), None)


def _is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _EMBEDDED:
            inner = ip_address(address.packed[-4:])
        if inner is not None:
            return _is_public(str(inner))
        if address.teredo is not None:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
