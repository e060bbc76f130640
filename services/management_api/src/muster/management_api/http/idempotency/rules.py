"""The rules of `Idempotency-Key`: what a key is, when two requests are the same, which replies are stored."""

import hashlib
from datetime import datetime, timedelta
from http import HTTPStatus

import msgspec

from muster.common.faults import Conflict

KEPT = timedelta(hours=24)
"""How long a key stands for its first request; afterwards it is a new key."""
LEASE = timedelta(seconds=20)
"""How long a request may be under way before a repetition takes it over. No request lasts longer."""
FIELD = "Idempotency-Key"
KEPT_HEADERS = frozenset({"content-type", "location", "etag", "allow"})
_MILLISECONDS_BYTES = 6


class RequestUnderWay(Conflict):
    """The first request with this key has not been answered yet."""

    code = "request_under_way"

    def __init__(self, text: str = "", *, field: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(text, field=field)
        self.retry_after_s = retry_after_s


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """One request under a key: its caller, method, path and body."""

    principal: str
    key: str
    method: str
    path: str
    body_hash: bytes


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A reply as it was first sent."""

    status: int
    headers: dict[str, str]
    body: bytes


def attempted(*, principal: str, key: str, method: str, path: str, body: bytes) -> Attempted:
    """Return the request that a key stands for."""
    return Attempted(principal=principal, key=key, method=method, path=path, body_hash=hashlib.sha256(body).digest())


def seed(request: Attempted, began: datetime) -> bytes:
    """Return the seed of the ids made under this key. A repetition makes the same ids, a later use of the key others.

    The seed begins with the time, so that these ids sort by time as all others do.
    """
    rests_on = f"{request.principal}\n{request.key}\n{began.isoformat()}".encode()
    milliseconds = int(began.timestamp() * 1000).to_bytes(_MILLISECONDS_BYTES, "big")
    return milliseconds + hashlib.sha256(rests_on).digest()[:10]


def keeps(status: int) -> bool:
    """Return whether a reply is final, and would not differ for another content type."""
    again = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in again
