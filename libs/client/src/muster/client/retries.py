"""Decides whether a client sends a failed request again, and after which pause."""

from collections.abc import Callable
from dataclasses import dataclass

from muster.client.errors import RETRYABLE
from muster.client.http_messages import HttpReply

REPEATABLE = frozenset({"GET", "HEAD", "POST"})
"""Methods that are safe to send again if it is unknown whether the API acted. The idempotency key makes a POST safe."""
_CONFLICT, _TOO_MANY = 409, 429


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Rules for sending a request again. The call's deadline limits all tries together.

    If the connection is cut before the response, a request whose method is in `REPEATABLE` is sent again at once. After
    a response with one of `statuses`, the request is sent again when the response's `Retry-After` has passed. Without
    this header the pause is a random part of `first_pause_s`, doubled for each further try up to `longest_pause_s`
    (exponential backoff with full jitter), so that many clients do not retry at the same moment. PUT, PATCH and DELETE
    are sent again only after status 429, because the API sends 429 before it performs a request.
    """

    max_tries: int = 3
    statuses: frozenset[int] = RETRYABLE
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0

    def after_cut(self, method: str, tries: int) -> bool:
        """Return whether to send a request again after its connection was cut; `tries` counts the tries so far."""
        return method in REPEATABLE and tries < self.max_tries

    def after_reply(self, method: str, reply: HttpReply, tries: int, chance: Callable[[], float]) -> float | None:
        """Return the pause in seconds before the request is sent again; None if `reply` is the result of the call."""
        may_repeat = method in REPEATABLE or reply.status == _TOO_MANY
        if reply.status not in self.statuses or not may_repeat or tries >= self.max_tries:
            return None
        if reply.retry_after_s is not None:
            return reply.retry_after_s
        return chance() * min(self.longest_pause_s, self.first_pause_s * 2 ** (tries - 1))


DEFAULT_RETRIES = Retries()
AFTER_CUTS_ONLY = Retries(statuses=frozenset())
"""Return every response at once, also one that says that the API is busy."""


def is_under_way(reply: HttpReply, tries: int) -> bool:
    """Return whether the API still performs an earlier try of the request. A later try will get the result."""
    return tries > 1 and reply.status == _CONFLICT and reply.retry_after_s is not None
