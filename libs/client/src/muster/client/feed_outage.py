"""Decides how long a feed tries to reconnect during an outage, and reports each outage once.

An outage begins with the first failure. The outage ends with the first new event, or with a connection that lasted
longer than `STABLE_S`. A new connection alone does not end the outage, because a feed would otherwise reconnect without
limit to a server that accepts connections and then fails.
"""

from collections.abc import Callable

from muster.client.errors import ApiCallError

REPORT_AFTER_S = 1.0
"""Length of an outage in seconds after which it is reported."""
LONGEST_S = 60.0
"""Length of an outage in seconds after which the feed gives up."""
STABLE_S = 30.0
"""A connection that lasted this many seconds ends the outage, even if it delivered no event."""

OnOutage = Callable[[ApiCallError], object]
"""Called once in each outage, with the error of the last try."""


class FeedOutage:
    """The current outage of a feed: the time of its first failure, and whether the outage was reported."""

    def __init__(self, monotonic: Callable[[], float], on_outage: OnOutage | None = None) -> None:
        self._monotonic, self._on_outage = monotonic, on_outage
        self._since_s: float | None = None
        self._opened_s: float | None = None
        self._reported = False

    def record_event(self, *, new: bool) -> None:
        """Record that the connection delivered an event.

        The feed's outage ends if the event is `new`: the feed has not yielded the event before.
        """
        if self._opened_s is None:
            self._opened_s = self._monotonic()
        if new:
            self._end()

    def _end(self) -> None:
        self._since_s, self._reported = None, False

    def record_failure(self, error: ApiCallError) -> None:
        """Record that the connection failed. Raises `error` if a retry is useless or the outage is too long."""
        now_s, opened_s, self._opened_s = self._monotonic(), self._opened_s, None
        if opened_s is not None and now_s - opened_s > STABLE_S:
            self._end()
        # The outage begins with the first failure and not with the last event, because a feed may be quiet for long.
        self._since_s = now_s if self._since_s is None else self._since_s
        lasted_s = now_s - self._since_s
        if not error.retryable or lasted_s > LONGEST_S:
            raise error
        if lasted_s > REPORT_AFTER_S and not self._reported:
            self._reported = True
            if self._on_outage:
                self._on_outage(error)
