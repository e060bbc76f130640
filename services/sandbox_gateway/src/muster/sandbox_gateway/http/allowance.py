"""How much a sandbox may ask of the gateway at once and per second, so that none takes the time of the others.

Each sandbox has two token buckets, one of requests and one of body bytes, and a bound for what is open at the same
time. The body of a small request (a beat) costs nothing of the bytes: a worker that sends a backlog stays alive.
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
"""Bodies of all sandboxes together that are held in memory."""
CONNECTIONS = 2 * REQUESTS_AT_ONCE
"""Of one sandbox: beyond it the one that has been idle longest is closed."""
STRANGERS = 256
"""Connections that have not shown a valid token; beyond it the oldest is closed."""
PENALTY_S = 0.25
"""How long the answer to a request beyond the allowance waits: who asks again at once gets no faster."""
MOST_WEIGHT = MOST_BYTES / 2
"""So that no body is refused for ever."""
_LIST_WEIGHT, _QUOTE_WEIGHT = 16, 4
"""Measured: 500 KB of empty lists take 60 ms to check, of empty strings 50 ms, of text 1 ms."""
_REMEMBERED = 20_000


class OverAllowance(TooMany):
    """The sandbox asks for more than its share; what it sent was not read."""


def weight(body: bytes) -> int:
    """How many bytes of plain text would take the time that the lists, objects and strings of a body add."""
    return _LIST_WEIGHT * (body.count(b"[") + body.count(b"{")) + _QUOTE_WEIGHT * body.count(b'"')


class TokenBucket:
    """A token bucket: `most` at once, then `per_s`."""

    def __init__(self, most: float, per_s: float, now_s: float) -> None:
        self._most, self._per_s = most, per_s
        self._left, self._at_s = most, now_s

    def take(self, amount: float, now_s: float) -> bool:
        """Take `amount` unless there is less."""
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True


class SandboxAllowance:
    """What one sandbox has left."""

    def __init__(self, now_s: float) -> None:
        self.requests = TokenBucket(MOST_REQUESTS, REQUESTS_PER_S, now_s)
        self.bytes = TokenBucket(MOST_BYTES, BYTES_PER_S, now_s)
        self.open = self.expected = 0


class SandboxAllowances:
    """The allowances of all sandboxes. `now_s`: any monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.held = 0
        self._of: OrderedDict[str, SandboxAllowance] = OrderedDict()

    def visit(self, sandbox_id: str) -> "AllowanceUse":
        """Begin a request of a sandbox. Raises `OverAllowance`."""
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
    """One request of a sandbox, and what it holds until it ends."""

    def __init__(self, all_: SandboxAllowances, own: SandboxAllowance) -> None:
        self._all, self._own = all_, own
        self._expected = self._held = 0

    def expect(self, size: int) -> None:
        """Say how many bytes the body will have, or has so far. Raises `OverAllowance`."""
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
        """Say how many bytes of the body are in memory. Raises `OverAllowance`, or `Unavailable` because of others."""
        self.expect(size)
        more = size - self._held
        if size > SMALL_BYTES and self._all.held + more > ALL_BYTES_AT_ONCE:
            raise Unavailable("all sandboxes together send more than the gateway holds; send the same again")
        self._held = size
        self._all.held += more

    def weigh(self, body: bytes) -> None:
        """Charge what the whole body takes to decode beyond its length. Raises `OverAllowance`."""
        if len(body) > SMALL_BYTES and not self._own.bytes.take(min(weight(body), MOST_WEIGHT), self._all.now_s()):
            raise OverAllowance(f"this sandbox sends over {BYTES_PER_S:g} bytes a second; send the same again later")

    def end(self) -> None:
        """Give back what it holds."""
        self._own.open -= 1
        self._own.expected -= self._expected
        self._all.held -= self._held
        self._expected = self._held = 0
