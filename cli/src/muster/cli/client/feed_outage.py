"""Decides how long a feed keeps trying to reconnect, and tells the user once that it does.

An outage begins with the first failure and ends with the first new event, or with a connection that stood for
`STABLE_S`. A connection alone does not end it: a server that accepts connections and then fails would otherwise be
retried without limit.
"""

import asyncio

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.console.output import say

REPORT_AFTER_S = 1.0
"""Length of an outage in seconds after which the user is told about it."""
LONGEST_S = 60.0
"""Length of an outage in seconds after which the feed gives up."""
STABLE_S = 30.0
"""A connection that stood this many seconds ends the outage, even if it brought no event."""


class FeedOutage:
    """The state of one feed's outage: when it began, and whether the user knows about it."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._opened_s: float | None = None
        self._reported = False

    def record_event(self, *, new: bool) -> None:
        """Record that the connection delivered an event; a `new` one ends the outage."""
        if self._opened_s is None:
            self._opened_s = asyncio.get_running_loop().time()
        if new:
            self._end()

    def _end(self) -> None:
        self._since_s, self._reported = None, False

    def record_failure(self, error: ApiCallError) -> None:
        """Record that the connection failed. Raises `error` if a retry cannot help or `LONGEST_S` has passed."""
        now_s, opened_s, self._opened_s = asyncio.get_running_loop().time(), self._opened_s, None
        if opened_s is not None and now_s - opened_s > STABLE_S:
            self._end()
        # Time without events before the first failure does not count: a quiet feed is not an outage.
        self._since_s = now_s if self._since_s is None else self._since_s
        lasted_s = now_s - self._since_s
        if not error.retryable or lasted_s > LONGEST_S:
            raise error
        if lasted_s > REPORT_AFTER_S and not self._reported:
            self._reported = True
            say(f"muster: {error}; still trying")
