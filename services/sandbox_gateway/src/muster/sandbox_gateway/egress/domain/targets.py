"""Reads the host and port that a request to the proxy asks for, and refuses every unusual way to write them."""

import re

import msgspec

from muster.common.faults import InvalidMessage
from muster.common.host_rules import host_name, split_port

_ABSOLUTE = re.compile(r"http://([^/?#]*)([^#]*)", re.IGNORECASE)
_HTTP_PORT = 80


class Target(msgspec.Struct, frozen=True):
    """The host and port of a request. `path` is the path and query of a plain HTTP request, and None for CONNECT."""

    host: str
    port: int
    path: str | None = None

    @property
    def authority(self) -> str:
        """The value of the header `Host` of a plain HTTP request to this target."""
        return self.host if self.port == _HTTP_PORT else f"{self.host}:{self.port}"


def target_of(method: str, text: str) -> Target:
    """Return the target of a request line with this method and target. Raises `InvalidMessage` with the reason."""
    if method == "CONNECT":
        host, port = _host_and_port(text)
        if port is None:
            raise InvalidMessage("CONNECT needs a host and a port, such as example.org:443", field="$.target")
        return Target(host, port)
    absolute = _ABSOLUTE.fullmatch(text)
    if absolute is None:
        raise InvalidMessage(
            "the proxy accepts CONNECT, and requests whose target begins with http://", field="$.target"
        )
    host, port = _host_and_port(absolute[1])
    path = absolute[2]
    return Target(host, _HTTP_PORT if port is None else port, path if path.startswith("/") else f"/{path}")


def _host_and_port(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise InvalidMessage("the target must not contain a user or a password", field="$.target")
    try:
        host, port = split_port(authority)
        return host_name(host), port
    except ValueError as error:
        raise InvalidMessage(f"the target {authority[:100]!r} is refused: {error}", field="$.target") from None
