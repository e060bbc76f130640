"""Counts the open connections of each sandbox, limits them, and cuts them when the sandbox's epoch ends."""

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

from muster.common.contracts.sandbox_log import NetworkConnection
from muster.common.faults import TooMany, Unavailable
from muster.common.token_bucket import TokenBucket
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner

PER_SANDBOX, IN_ALL = 64, 1_024
"""The most open connections of one sandbox, and of all sandboxes together."""
NEW_PER_S, MOST_NEW = 20.0, 128.0
BYTES_PER_S, MOST_BYTES = float(32 << 20), float(64 << 20)
"""The rate of a sandbox's bytes in both directions together, and the most bytes at once."""
ALL_BYTES_PER_S, MOST_ALL_BYTES = float(96 << 20), float(96 << 20)
"""The same for all sandboxes together, so that copying leaves the gateway enough time for heartbeats and leases."""
LOOKUPS = 4
"""The most names that the proxy looks up for one sandbox at the same time."""


class OpenConnection:
    """One connection of a sandbox to a host. `deadline` ends it, `sent` and `received` are its bytes so far."""

    def __init__(self, host: str, port: int, now_s: float, deadline: asyncio.Timeout) -> None:
        self.host, self.port, self._deadline = host, port, deadline
        self.sent = self.received = 0
        self.reported_s = now_s
        self.recorded = asyncio.Event()
        """Set when the connection has ended and was recorded."""
        self.is_cut = False
        self._reported, self._sent, self._received = False, 0, 0

    def cut(self) -> None:
        """End the connection at once."""
        self.is_cut = True
        with suppress(RuntimeError):  # The connection may be ending already.
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def report(self, now_s: float, *, still_open: bool, reason: str = "") -> NetworkConnection:
        """Return the bytes and seconds since the last report. Only the first report counts the connection."""
        made = NetworkConnection(
            host=self.host,
            port=self.port,
            allowed=True,
            reason=reason,
            connections=0 if self._reported else 1,
            open=1 if still_open else 0,
            sent_bytes=self.sent - self._sent,
            received_bytes=self.received - self._received,
            seconds=round(now_s - self.reported_s, 3),
        )
        self._reported, self._sent, self._received, self.reported_s = True, self.sent, self.received, now_s
        return made


class ConnectionUse:
    """The connections of one sandbox at this replica, and the limits of their number and their bytes."""

    def __init__(self, owner: LogOwner, now_s: float, all_bytes: TokenBucket) -> None:
        self.owner, self.all_bytes = owner, all_bytes
        self.admitted = 0
        self.open = set[OpenConnection]()
        self.lookups = asyncio.Semaphore(LOOKUPS)
        self.new = TokenBucket(MOST_NEW, NEW_PER_S, now_s)
        self.bytes = TokenBucket(MOST_BYTES, BYTES_PER_S, now_s)


class OpenConnections:
    """The connections of all sandboxes at this replica. `now_s` is a monotonic clock, in seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._uses: dict[str, ConnectionUse] = {}
        self._admitted = 0
        self._bytes = TokenBucket(MOST_ALL_BYTES, ALL_BYTES_PER_S, now_s())

    @contextmanager
    def admitted(self, owner: LogOwner) -> Generator[ConnectionUse]:
        """Count a request of a sandbox while the block runs. Raises `TooMany` or `Unavailable` at a limit."""
        use = self._uses.get(owner.sandbox_id)
        if use is None:
            self._forget_idle()
            use = self._uses[owner.sandbox_id] = ConnectionUse(owner, self._now_s(), self._bytes)
        if use.admitted >= PER_SANDBOX:
            raise TooMany(f"this sandbox has {PER_SANDBOX} open connections; close one first")
        if not use.new.take(1.0, self._now_s()):
            raise TooMany(f"this sandbox opens over {NEW_PER_S:g} connections a second; wait")
        if self._admitted >= IN_ALL:
            raise Unavailable("the sandboxes of this gateway have too many open connections; try again later")
        use.admitted += 1
        self._admitted += 1
        try:
            yield use
        finally:
            use.admitted -= 1
            self._admitted -= 1

    def uses(self) -> Iterable[ConnectionUse]:
        """Return the sandboxes that have connections, or had some lately."""
        return list(self._uses.values())

    def of(self, sandbox_id: str) -> list[OpenConnection]:
        """Return the open connections of a sandbox."""
        use = self._uses.get(sandbox_id)
        return list(use.open) if use else []

    def cut(self, sandbox_id: str) -> None:
        """End all connections of a sandbox at once."""
        for connection in self.of(sandbox_id):
            connection.cut()

    def _forget_idle(self) -> None:
        """Forget sandboxes without connections, if there are many. Their limits of rates then begin anew."""
        if len(self._uses) < 2 * IN_ALL:
            return
        for sandbox_id in [key for key, use in self._uses.items() if not use.admitted]:
            del self._uses[sandbox_id]
