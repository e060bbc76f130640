"""Limits how often something may happen: a token bucket.

The bucket starts full. It gains tokens with the time until it is full again, and each use takes tokens out. So the
burst is bounded by the size of the bucket, and the long-term rate by the rate at which it gains tokens.
"""


class TokenBucket:
    """A bucket that holds up to `most` tokens and gains `per_s` tokens each second.

    All times are seconds of the caller's monotonic clock. `now_s` of the constructor is the time at which the bucket is
    full.
    """

    __slots__ = ("_at_s", "_left", "_most", "_per_s")

    def __init__(self, most: float, per_s: float, now_s: float) -> None:
        self._most, self._per_s = most, per_s
        self._left, self._at_s = most, now_s

    def take(self, amount: float, now_s: float) -> bool:
        """Take `amount` tokens and return True; take nothing and return False if the bucket has fewer."""
        self._refill(now_s)
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def take_on_credit(self, amount: float, now_s: float) -> bool:
        """Take `amount` tokens and return True if the bucket has any tokens. Otherwise return False.

        The number of tokens may become negative. This method is for amounts that cannot be divided and may be larger
        than the bucket.
        """
        self._refill(now_s)
        if self._left <= 0:
            return False
        self._left -= amount
        return True

    def _refill(self, now_s: float) -> None:
        self._left = min(self._most, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
