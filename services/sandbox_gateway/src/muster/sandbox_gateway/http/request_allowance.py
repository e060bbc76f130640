"""Limits the requests and bytes of each sandbox, so that one sandbox cannot slow down the others.

Each sandbox has a token bucket for requests and a token bucket for bytes of request bodies. The number of its open
requests and the bytes of their bodies are limited too. A body of up to 16 KiB, such as a heartbeat, takes no bytes from
the bucket. So a worker that sends many delayed events can still send heartbeats, and the guardian does not report the
worker as silent. Each replica of the gateway keeps its own allowances, in memory.
"""

from collections import OrderedDict
from collections.abc import Callable

from muster.common.faults import TooMany, Unavailable
from muster.common.token_bucket import TokenBucket

REQUESTS_AT_ONCE = 32
REQUESTS_PER_S, MOST_REQUESTS = 250.0, 500.0
BYTES_AT_ONCE = 24 << 20
BYTES_PER_S, MOST_BYTES = float(8 << 20), float(32 << 20)
SMALL_BYTES = 16 << 10
ALL_BYTES_AT_ONCE = 256 << 20
"""Most bytes of request bodies, of all sandboxes together, that are in memory at the same time."""
CONNECTIONS = 2 * REQUESTS_AT_ONCE
"""Most connections of one sandbox. If there are more, the sandbox's connection that has been idle longest is closed."""
MOST_ANONYMOUS = 256
"""Most connections that have not sent a valid token. If there are more, the oldest of these connections is closed."""
PENALTY_S = 0.25
"""Seconds by which a 429 is delayed, so that a worker that repeats the request at once gets no faster."""
MOST_WEIGHT = MOST_BYTES / 2
"""Most bytes that `weigh` takes from the bucket, so that every permitted body can be accepted at some time."""
_LIST_WEIGHT, _QUOTE_WEIGHT = 16, 4
"""Measured: to check 500 KB of empty lists takes 60 ms, of empty strings 50 ms, of plain text 1 ms."""
_REMEMBERED = 20_000


class OverAllowance(TooMany):
    """A sandbox has exceeded its allowance of requests or bytes. The rest of the request's body is not read."""


def weight(body: bytes) -> int:
    """Return the time to decode the lists, objects and strings of a JSON body.

    The unit is the time to decode one byte of plain text.
    """
    return _LIST_WEIGHT * (body.count(b"[") + body.count(b"{")) + _QUOTE_WEIGHT * body.count(b'"')


class SandboxAllowance:
    """The token buckets of one sandbox, the number of its open requests, and the bytes of their bodies."""

    def __init__(self, now_s: float) -> None:
        self.requests = TokenBucket(MOST_REQUESTS, REQUESTS_PER_S, now_s)
        self.bytes = TokenBucket(MOST_BYTES, BYTES_PER_S, now_s)
        self.open = self.expected = 0


class SandboxAllowances:
    """The allowances of all sandboxes at this replica. `now_s` is a monotonic clock, in seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.held = 0
        self._of: OrderedDict[str, SandboxAllowance] = OrderedDict()

    def begin(self, sandbox_id: str) -> "AllowanceUse":
        """Count a new open request of a sandbox. Raises `OverAllowance` if the sandbox has too many.

        The caller must call `end` of the returned object when the request ends.
        """
        allowance = self._of.get(sandbox_id)
        if allowance is None:
            allowance = self._of[sandbox_id] = SandboxAllowance(self.now_s())
        self._of.move_to_end(sandbox_id)
        if len(self._of) > _REMEMBERED:
            self._of.popitem(last=False)
        if allowance.open >= REQUESTS_AT_ONCE:
            raise OverAllowance(f"this sandbox already has {REQUESTS_AT_ONCE} open requests; wait for a response")
        if not allowance.requests.take(1.0, self.now_s()):
            raise OverAllowance(f"this sandbox sends over {REQUESTS_PER_S:g} requests a second; send fewer")
        allowance.open += 1
        return AllowanceUse(self, allowance)


class AllowanceUse:
    """One open request of a sandbox, with the bytes of its body that count against the sandbox's allowance."""

    def __init__(self, all_: SandboxAllowances, own: SandboxAllowance) -> None:
        self._all, self._own = all_, own
        self._expected = self._held = 0

    def expect(self, size: int) -> None:
        """Charge the sandbox for a body of `size` bytes, which the client has declared or sent so far.

        Raises `OverAllowance`.
        """
        more = size - self._expected
        if more <= 0:
            return
        if self._own.expected + more > BYTES_AT_ONCE:
            raise OverAllowance(f"this sandbox's open requests have over {BYTES_AT_ONCE} bytes; wait for a response")
        cost = max(0, size - SMALL_BYTES) - max(0, self._expected - SMALL_BYTES)
        if not self._own.bytes.take(cost, self._all.now_s()):
            raise OverAllowance(f"this sandbox sends over {BYTES_PER_S:g} bytes a second; send the same request later")
        self._expected = size
        self._own.expected += more

    def hold(self, size: int) -> None:
        """Count the first `size` bytes of the request's body, which the gateway now keeps in memory.

        Raises `OverAllowance`, or `Unavailable` if the bodies of all sandboxes together take too much memory.
        """
        self.expect(size)
        more = size - self._held
        if size > SMALL_BYTES and self._all.held + more > ALL_BYTES_AT_ONCE:
            raise Unavailable("requests of all sandboxes take too much of the gateway's memory; send the request again")
        self._held = size
        self._all.held += more

    def take(self, size: int) -> bool:
        """Charge the sandbox for `size` bytes of a body that is not kept in memory.

        Returns False, and charges nothing, while the sandbox may not send so many bytes.
        """
        return self._own.bytes.take(size, self._all.now_s())

    def weigh(self, body: bytes) -> None:
        """Charge the sandbox for the time to decode a complete body, in addition to the charge for its length.

        Raises `OverAllowance`.
        """
        if len(body) > SMALL_BYTES and not self._own.bytes.take(min(weight(body), MOST_WEIGHT), self._all.now_s()):
            raise OverAllowance(f"this sandbox sends over {BYTES_PER_S:g} bytes a second; send the same request later")

    def end(self) -> None:
        """Subtract the ended request and the bytes of its body from the open requests and bytes of the sandbox."""
        self._own.open -= 1
        self._own.expected -= self._expected
        self._all.held -= self._held
        self._expected = self._held = 0
