"""Decides when the lease of another guardian has expired. All times are seconds of the caller's monotonic clock.

The clocks of two machines differ, so a time that another machine wrote is never compared with a local time. A lease has
expired if it stayed unchanged for a whole TTL while this process watched it: a holder that is alive renews it several
times within a TTL, and a holder that could not renew it has stopped leading by its own clock. A process that starts
has not watched the lease yet, so it waits a whole TTL.
"""


class WatchedLease:
    """The lease as this process last read it, and since when it has been unchanged."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._seen: object = None
        self._since_s = 0.0

    def left_s(self, seen: object, now_s: float) -> float:
        """Note that the lease was read as `seen`; return the seconds until it expires if it stays unchanged.

        0 or less means that it has expired.
        """
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return self._ttl_s - (now_s - self._since_s)
