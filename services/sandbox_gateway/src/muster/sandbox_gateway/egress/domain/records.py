"""Adds up the connections of a sandbox to one host within a minute, so that a sandbox's log has few frames about them.

The first connection with a key (host, port, outcome) is recorded at once, so that a refusal is visible immediately. The
further ones of the same minute are added up. After 50 different keys in one minute, the rest is added up without the
names of the hosts. So a hostile client causes at most about a hundred frames a minute.
"""

from collections.abc import Iterator

import msgspec

from muster.common.contracts.sandbox_log import NetworkConnection

WINDOW_S = 60.0
MOST_KEYS = 50
OTHERS = "(other hosts)"

type _Key = tuple[str, int, bool, str]


class ConnectionWindow:
    """The connections of one sandbox within one minute. `now_s` is the start of the minute, in monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._ends_s = now_s + WINDOW_S
        self._sums: dict[_Key, NetworkConnection | None] = {}

    def over(self, now_s: float) -> bool:
        """Whether the minute has ended."""
        return now_s >= self._ends_s

    def add(self, made: NetworkConnection) -> NetworkConnection | None:
        """Return the connection if it must be recorded at once; otherwise add it to the sums and return None."""
        key = _key(made)
        if key not in self._sums:
            if len(self._sums) < MOST_KEYS:
                self._sums[key] = None
                return made
            made = msgspec.structs.replace(made, host=OTHERS, port=0)
            key = _key(made)
        before = self._sums.get(key)
        self._sums[key] = made if before is None else _sum(before, made)
        return None

    def take(self) -> Iterator[NetworkConnection]:
        """Yield the sums that were not recorded yet, and forget them."""
        for key, made in self._sums.items():
            if made is not None:
                self._sums[key] = None
                yield made


def _key(made: NetworkConnection) -> _Key:
    return made.host, made.port, made.allowed, "" if made.host == OTHERS else made.reason


def _sum(one: NetworkConnection, other: NetworkConnection) -> NetworkConnection:
    return msgspec.structs.replace(
        other,
        connections=one.connections + other.connections,
        sent_bytes=one.sent_bytes + other.sent_bytes,
        received_bytes=one.received_bytes + other.received_bytes,
        seconds=one.seconds + other.seconds,
    )
