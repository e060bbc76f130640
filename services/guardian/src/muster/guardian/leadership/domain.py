"""Decides when the lease of another guardian has expired. All times are seconds of this process's monotonic clock.

The clocks of two machines differ, so a time that another machine wrote is never compared with a local time. A lease has
expired if it stayed unchanged for a whole TTL while this process watched it. A holder that runs renews the lease
several times within a TTL; a holder that cannot renew it stops leading by its own clock. A process that has just
started has not watched the lease yet, so the process waits a whole TTL.
"""


class WatchedLease:
    """The lease of the leader as this process last read it, and the time since which the lease is unchanged."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._seen: object = None
        self._since_s = 0.0

    def left_s(self, seen: object, now_s: float) -> float:
        """Return the seconds until the lease expires; `seen` is the lease as this process has just read it.

        If the lease has changed since the last read, the TTL starts again. A result of 0 or less means that the lease
        has expired.
        """
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return self._ttl_s - (now_s - self._since_s)
