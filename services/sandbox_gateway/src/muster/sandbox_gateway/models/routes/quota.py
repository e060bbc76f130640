"""Limits how many model calls of a sandbox run at the same time, and how many start in a minute (a token bucket)."""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from muster.common.faults import TooMany
from muster.common.token_bucket import TokenBucket

REMEMBERED = 20_000


class _SandboxQuota:
    def __init__(self, per_minute: int, now_s: float) -> None:
        self.running = 0
        self.calls = TokenBucket(per_minute, per_minute / 60, now_s)


class ModelQuota:
    """The quotas for model calls of all sandboxes at this replica. `clock` is a monotonic clock, in seconds."""

    def __init__(self, *, most_parallel: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_parallel, self._per_minute, self._clock = most_parallel, per_minute, clock
        self._of = OrderedDict[str, _SandboxQuota]()

    @contextmanager
    def running_call(self, sandbox_id: str) -> Generator[None]:
        """Count a running model call until the context ends. Raises `TooMany` if the sandbox makes too many calls."""
        quota = self._quota(sandbox_id)
        if quota.running >= self._most_parallel:
            raise TooMany(f"this sandbox already runs {self._most_parallel} model calls; wait until one of them ends")
        if not quota.calls.take(1.0, self._clock()):
            raise TooMany(f"this sandbox made {self._per_minute} model calls in a minute; try again in a few seconds")
        quota.running += 1
        try:
            yield
        finally:
            quota.running -= 1

    def _quota(self, sandbox_id: str) -> _SandboxQuota:
        quota = self._of.get(sandbox_id)
        if quota is None:
            quota = self._of[sandbox_id] = _SandboxQuota(self._per_minute, self._clock())
        self._of.move_to_end(sandbox_id)
        if len(self._of) > REMEMBERED:
            oldest = next(iter(self._of.values()))
            if not oldest.running:
                self._of.popitem(last=False)
        return quota
