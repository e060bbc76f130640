"""Limits the requests and bytes of each sandbox, so that one sandbox cannot slow down the others.

Each sandbox has a token bucket for requests, a token bucket for body bytes, and limits for the requests and bytes that
are open at the same time. A small body (such as a beat) takes no bytes from the bucket: a worker that sends a backlog
of events can still send beats, and is not taken for silent. Allowances are kept in memory, for each replica.
"""

from collections import OrderedDict
from collections.abc import Callable

from muster.common.faults import TooMany, Unavailable

REQUESTS_AT_ONCE = 32
REQUESTS_PER_S, MOST_REQUESTS = 250.0, 500.0
BYTES_AT_ONCE = 24 << 20
BYTES_PER_S, MOST_BYTES = float(8 << 20), float(32 << 20)
SMALL_BYTES = 16 << 10
ALL_BYTES_AT_ONCE = 256 << 20
"""Most bytes of request bodies, of all sandboxes together, that are in memory at the same time."""
CONNECTIONS = 2 * REQUESTS_AT_ONCE
"""Most connections of one sandbox. Beyond it, its connection that has been idle longest is closed."""
MOST_ANONYMOUS = 256
"""Most connections that have not sent a valid token. Beyond it, the oldest of them is closed."""
PENALTY_S = 0.25
"""Seconds by which a 429 is delayed, so that a worker that repeats the request at once gets no faster."""
MOST_WEIGHT = MOST_BYTES / 2
"""Most bytes that `weigh` takes from the bucket, so that every permitted body can be accepted at some time."""
_LIST_WEIGHT, _QUOTE_WEIGHT = 16, 4
"""Measured: to check 500 KB of empty lists takes 60 ms, of empty strings 50 ms, of plain text 1 ms."""
_REMEMBERED = 20_000


class OverAllowance(TooMany):
    """The sandbox has exceeded its allowance. The rest of the request's body is not read."""


def weight(body: bytes) -> int:
    """Return the time to decode a body's lists, objects and strings, as a number of bytes of plain text."""
    return _LIST_WEIGHT * (body.count(b"[") + body.count(b"{")) + _QUOTE_WEIGHT * body.count(b'"')


class TokenBucket:
    """A token bucket that holds up to `most` tokens and gains `per_s` tokens each second."""

    def __init__(self, most: float, per_s: float, now_s: float) -> None:
        self._most, self._per_s = most, per_s
        self._left, self._at_s = most, now_s

    def take(self, amount: float, now_s: float) -> bool:
        """Take `amount` tokens and return True; take nothing and return False if there are fewer."""
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True


class SandboxAllowance:
    """The token buckets of one sandbox, its open requests, and the bytes of their bodies."""

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
        """Begin a request of a sandbox; the caller must call `end` of what this returns. Raises `OverAllowance`."""
        allowance = self._of.get(sandbox_id)
        if allowance is None:
            allowance = self._of[sandbox_id] = SandboxAllowance(self.now_s())
        self._of.move_to_end(sandbox_id)
        if len(self._of) > _REMEMBERED:
            self._of.popitem(last=False)
        if allowance.open >= REQUESTS_AT_ONCE:
            raise OverAllowance(f"this sandbox has {REQUESTS_AT_ONCE} requests open; wait for an answer")
        if not allowance.requests.take(1.0, self.now_s()):
            raise OverAllowance(f"this sandbox sends over {REQUESTS_PER_S:g} requests a second; send fewer")
        allowance.open += 1
        return AllowanceUse(self, allowance)


class AllowanceUse:
    """One request of a sandbox, with the part of the allowance that the request uses until it ends."""

    def __init__(self, all_: SandboxAllowances, own: SandboxAllowance) -> None:
        self._all, self._own = all_, own
        self._expected = self._held = 0

    def expect(self, size: int) -> None:
        """Charge a body of `size` bytes, declared or received so far. Raises `OverAllowance`."""
        more = size - self._expected
        if more <= 0:
            return
        if self._own.expected + more > BYTES_AT_ONCE:
            raise OverAllowance(f"this sandbox has bodies of over {BYTES_AT_ONCE} bytes open; wait for an answer")
        cost = max(0, size - SMALL_BYTES) - max(0, self._expected - SMALL_BYTES)
        if not self._own.bytes.take(cost, self._all.now_s()):
            raise OverAllowance(f"this sandbox sends over {BYTES_PER_S:g} bytes a second; send the same again later")
        self._expected = size
        self._own.expected += more

    def hold(self, size: int) -> None:
        """Count `size` bytes of the body as held in memory.

        Raises `OverAllowance`, or `Unavailable` if all sandboxes together hold too much.
        """
        self.expect(size)
        more = size - self._held
        if size > SMALL_BYTES and self._all.held + more > ALL_BYTES_AT_ONCE:
            raise Unavailable("the gateway holds too many bytes of all sandboxes; send the same request again")
        self._held = size
        self._all.held += more

    def weigh(self, body: bytes) -> None:
        """Charge the time that a complete body takes to decode beyond its length. Raises `OverAllowance`."""
        if len(body) > SMALL_BYTES and not self._own.bytes.take(min(weight(body), MOST_WEIGHT), self._all.now_s()):
            raise OverAllowance(f"this sandbox sends over {BYTES_PER_S:g} bytes a second; send the same again later")

    def end(self) -> None:
        """End the request: free its open bytes and its place among the sandbox's open requests."""
        self._own.open -= 1
        self._own.expected -= self._expected
        self._all.held -= self._held
        self._expected = self._held = 0
