"""A feed that is cut: told once, and waited for a while."""

import asyncio

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.console.output import say

TOLD_AFTER_S = 1.0
LONGEST_S = 60.0
STOOD_S = 30.0
"""A connection that stood for so long was a good one, though it brought nothing."""


class FeedOutage:
    """From the first failure on, however long there was nothing to hear before it, to the next word."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._opened_s: float | None = None
        self._told = False

    def heard(self, *, new: bool) -> None:
        """There is a connection; it is over where that brought something new, which a broken feed does not."""
        if self._opened_s is None:
            self._opened_s = asyncio.get_running_loop().time()
        if new:
            self._over()

    def _over(self) -> None:
        self._since_s, self._told = None, False

    def bear(self, refusal: ApiCallError) -> None:
        """One more failure. Raises it where it will not pass, or has lasted too long."""
        now_s, opened_s, self._opened_s = asyncio.get_running_loop().time(), self._opened_s, None
        if opened_s is not None and now_s - opened_s > STOOD_S:
            self._over()
        self._since_s = now_s if self._since_s is None else self._since_s
        lasted_s = now_s - self._since_s
        if not refusal.passing or lasted_s > LONGEST_S:
            raise refusal
        if lasted_s > TOLD_AFTER_S and not self._told:
            self._told = True
            say(f"muster: {refusal}; still trying")
