"""Limits how many refused requests are written to the audit log, so that many refusals cannot fill the disk."""

from muster.common.token_bucket import TokenBucket


class AuditRateLimit:
    """A token bucket for audit entries: at most `burst` at once, and on average `per_second` in each second.

    The bucket counts the entries that it refuses.
    """

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._bucket = TokenBucket(burst, per_second, now_s=0.0)
        self._refused = 0

    def take(self, at_s: float) -> int | None:
        """Take one token at the monotonic time `at_s`, in seconds.

        Returns None if the bucket is empty, so that the audit entry must be left out. Otherwise returns the number of
        entries that were left out since the last token.
        """
        if not self._bucket.take(1.0, at_s):
            self._refused += 1
            return None
        refused, self._refused = self._refused, 0
        return refused
