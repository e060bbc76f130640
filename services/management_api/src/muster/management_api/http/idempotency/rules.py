"""The rules of `Idempotency-Key`: what a key is, when it is the same request, which answers are kept."""

import hashlib
from datetime import datetime, timedelta
from http import HTTPStatus

import msgspec

from muster.common.faults import Conflict

KEPT = timedelta(hours=24)
"""How long a key means its first request; after that it is a new one."""
LEASE = timedelta(seconds=20)
"""How long a request may be under way before a repetition takes it over. Longer than any request lasts."""
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
    """One request under a key: whose, and which."""

    principal: str
    key: str
    method: str
    path: str
    body_hash: bytes


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it was first given."""

    status: int
    headers: dict[str, str]
    body: bytes


def attempted(*, principal: str, key: str, method: str, path: str, body: bytes) -> Attempted:
    """The request that a key stands for."""
    return Attempted(principal=principal, key=key, method=method, path=path, body_hash=hashlib.sha256(body).digest())


def seed(request: Attempted, began: datetime) -> bytes:
    """What ids made under this key rest on. A repetition after a crash makes the same ids, tomorrow's reuse others.

    It begins with the time, so that ids made from it sort by time as all others do.
    """
    rests_on = f"{request.principal}\n{request.key}\n{began.isoformat()}".encode()
    milliseconds = int(began.timestamp() * 1000).to_bytes(_MILLISECONDS_BYTES, "big")
    return milliseconds + hashlib.sha256(rests_on).digest()[:10]


def keeps(status: int) -> bool:
    """Whether an answer is the request's last word, and not to be had otherwise later, or with another content type."""
    again = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in again
