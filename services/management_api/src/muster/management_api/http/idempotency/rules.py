"""The rules of the header `Idempotency-Key`: which requests count as the same, and which replies are stored."""

import hashlib
from datetime import datetime, timedelta
from http import HTTPStatus

import msgspec

from muster.common.faults import Conflict

KEPT = timedelta(hours=24)
"""Time for which a key belongs to its first request. After that, the key can be used for a new request."""
LEASE = timedelta(seconds=20)
"""Time after which a repeated request is executed although the first one has no reply. No request takes longer."""
FIELD = "Idempotency-Key"
KEPT_HEADERS = frozenset({"content-type", "location", "etag", "allow"})
_MILLISECONDS_BYTES = 6


class RequestUnderWay(Conflict):
    """The first request with this `Idempotency-Key` has no reply yet."""

    code = "request_under_way"

    def __init__(self, text: str = "", *, field: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(text, field=field)
        self.retry_after_s = retry_after_s


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a request with an `Idempotency-Key`: its caller, key, method, path and body."""

    principal: str
    key: str
    method: str
    path: str
    body_hash: bytes


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A stored reply, with the status, headers and body that were sent to the first request."""

    status: int
    headers: dict[str, str]
    body: bytes


def attempted(*, principal: str, key: str, method: str, path: str, body: bytes) -> Attempted:
    """Return the identity of a request with an `Idempotency-Key`. Of the body only a digest is kept."""
    return Attempted(principal=principal, key=key, method=method, path=path, body_hash=hashlib.sha256(body).digest())


def seed(request: Attempted, began: datetime) -> bytes:
    """Return the seed for the ids that a request creates.

    A repeated request has the same seed and so creates the same ids. A new request with an expired key has another
    seed. The seed begins with the time in milliseconds, so that the ids sort by time, as all other ids do.
    """
    rests_on = f"{request.principal}\n{request.key}\n{began.isoformat()}".encode()
    milliseconds = int(began.timestamp() * 1000).to_bytes(_MILLISECONDS_BYTES, "big")
    return milliseconds + hashlib.sha256(rests_on).digest()[:10]


def keeps(status: int) -> bool:
    """Return whether a reply with this status is stored.

    A reply is not stored if a repeated request may get another reply: after an internal error (5xx), after too many
    requests (429), or after a wrong content type (415).
    """
    again = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in again
