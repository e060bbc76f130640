"""Limits how often refusals are written to the audit, so that a flood of them cannot fill the disk."""


class AuditAllowance:
    """A token bucket: `burst` at once, `per_second` in the long run. It counts what it refuses."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left, self._at_s = float(burst), 0.0
        self._refused = 0

    def take(self, at_s: float) -> int | None:
        """Take one at `at_s` (a monotonic clock); None if it is left out, else how many were left out before."""
        self._left = min(self._burst, self._left + max(0.0, at_s - self._at_s) * self._per_second)
        self._at_s = at_s
        if self._left < 1:
            self._refused += 1
            return None
        self._left -= 1
        refused, self._refused = self._refused, 0
        return refused
