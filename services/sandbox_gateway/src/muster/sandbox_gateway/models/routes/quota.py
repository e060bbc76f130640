"""Limits the model calls of one sandbox: how many at once, and by a token bucket how many a minute."""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from muster.common.faults import TooMany

REMEMBERED = 20_000


class _SandboxQuota:
    def __init__(self, left: float, at: float) -> None:
        self.running, self.left, self.at = 0, left, at


class ModelQuota:
    """The quotas of all sandboxes at this replica. `clock` is a monotonic clock, in seconds."""

    def __init__(self, *, most_parallel: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_parallel, self._per_minute, self._clock = most_parallel, per_minute, clock
        self._accounts = OrderedDict[str, _SandboxQuota]()

    @contextmanager
    def running_call(self, sandbox_id: str) -> Generator[None]:
        """Count a call while the context is open. Raises `TooMany` if the sandbox makes too many calls."""
        account = self._refilled(sandbox_id)
        if account.running >= self._most_parallel:
            raise TooMany(f"this sandbox already makes {self._most_parallel} model calls; wait for one of them")
        if account.left < 1:
            raise TooMany(f"this sandbox made {self._per_minute} model calls in a minute; try again in a few seconds")
        account.left -= 1
        account.running += 1
        try:
            yield
        finally:
            account.running -= 1

    def _refilled(self, sandbox_id: str) -> _SandboxQuota:
        now, most = self._clock(), float(self._per_minute)
        account = self._accounts.setdefault(sandbox_id, _SandboxQuota(most, now))
        account.left = min(most, account.left + (now - account.at) * most / 60)
        account.at = now
        self._accounts.move_to_end(sandbox_id)
        if len(self._accounts) > REMEMBERED:
            oldest = next(iter(self._accounts.values()))
            if not oldest.running:
                self._accounts.popitem(last=False)
        return account
