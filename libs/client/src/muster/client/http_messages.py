"""Builds URLs, queries and headers of HTTP requests, and reads HTTP responses and connection failures."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from urllib.parse import quote, urlencode

import httpcore
import msgspec

from muster.common.clock import rfc3339

REDIRECT = 300
"""Lowest HTTP status that is not a success."""
ERROR = 400
"""Lowest HTTP status that is an error."""
CUT = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)
"""Failures of a connection that existed: the API may have received the request."""
FAILED = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError)
"""All failures of a connection except timeouts."""
_ERRNO_PREFIX = re.compile(r"^\[Errno -?\d+\] ")
_NOBODY_LISTENS = re.compile("All connection attempts failed|Connection refused")
"""The texts of anyio and of the system's own error."""
_IDEMPOTENCY_KEY = re.compile("[!-~]{1,255}")
_LARGEST_IN_HEADER = 0xFF
Query = Iterable[tuple[str, object]]
"""Names and values of query parameters. A parameter whose value is None is not sent."""


@dataclass(frozen=True)
class HttpReply:
    """Status, headers and body of a response. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """Seconds in the header `Retry-After`; None if the header is missing or contains a date."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() else None


def part(value: str) -> str:
    """Return `value` percent-encoded, so that it is one segment of a URL path."""
    return quote(value, safe="")


def idempotency(key: str | None) -> dict[str, str]:
    """Return the header `Idempotency-Key` for a POST; return no header if `key` is None.

    Raises `ValueError` unless the key consists of 1 to 255 printable ASCII characters without spaces.
    """
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no idempotency key: use 1 to 255 printable ASCII characters without spaces")
    return {} if key is None else {"Idempotency-Key": key}


def json_body(body: object) -> bytes:
    """Return a request body as JSON. Raises `ValueError` for a number that JSON cannot contain (NaN or infinity).

    Without this check such a number would be sent as null, and the API would take the field as not set.
    """
    _refuse_infinite(msgspec.to_builtins(body), "$")
    return msgspec.json.encode(body)


def _refuse_infinite(value: object, path: str) -> None:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{path} is {value}: send a finite number")
        case dict():
            for name, inner in cast("dict[str, object]", value).items():
                _refuse_infinite(inner, f"{path}.{name}")
        case list():
            for at, inner in enumerate(cast("list[object]", value)):
                _refuse_infinite(inner, f"{path}[{at}]")
        case _:
            pass


def filter_query(filters: Mapping[str, object], labels: Mapping[str, str] | None = None) -> list[tuple[str, object]]:
    """Return the query parameters for a list: one for each filter, and `label=NAME=VALUE` for each label."""
    return [*filters.items(), *(("label", f"{name}={value}") for name, value in (labels or {}).items())]


def target(url: str, path: str, query: Query) -> str:
    """Return the full URL of a request, with its query."""
    pairs = [(name, _query_text(value)) for name, value in query if value is not None]
    separator = "&" if "?" in path else "?"
    return url + path + (separator + urlencode(pairs) if pairs else "")


def _query_text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return rfc3339(value)
        case _:
            return str(value)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Encode the headers of a request for httpcore. Raises `ValueError` for a value that no header can contain."""
    for name, value in headers.items():
        if not value.isprintable() or any(ord(character) > _LARGEST_IN_HEADER for character in value):
            raise ValueError(f"the header {name} contains characters that HTTP cannot send: {value!r}")
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Decode the headers of a response from httpcore; make the names lower-case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def cause(error: Exception) -> str:
    """Describe the cause of a connection failure for a user, without the errno."""
    if isinstance(error, httpcore.ConnectError) and _NOBODY_LISTENS.search(str(error)):
        return "no server listens there"
    if isinstance(error, httpcore.ProtocolError):
        return "the server there does not speak HTTP, or it closed the connection"
    if "WRONG_VERSION_NUMBER" in str(error):
        return "the server there does not speak TLS; try http:// instead of https://"
    return _ERRNO_PREFIX.sub("", str(error)) or type(error).__name__
