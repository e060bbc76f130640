"""When the lease of another guardian has expired. Seconds are those of a monotonic clock the caller reads.

The clocks of two machines differ, so no time that another machine wrote is compared with a time of this one. A lease
has expired if it stayed unchanged for a whole time to live while this process watched it: its holder renews it several
times within that time, or has lost it by the holder's own clock. A process that starts has watched nothing yet and
waits a whole time to live.
"""


class WatchedLease:
    """The lease as this process last saw it, and since when it has looked the same."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._seen: object = None
        self._since_s = 0.0

    def left_s(self, seen: object, now_s: float) -> float:
        """Note that the lease looks like `seen` now; return for how long it must still stay so. 0 and less: expired."""
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return self._ttl_s - (now_s - self._since_s)
