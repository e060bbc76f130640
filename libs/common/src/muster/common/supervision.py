"""Keep long-lived tasks running; give up loudly when they cannot be kept running."""

import asyncio
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

LONGEST_BACKOFF_S = 30.0


class GaveUpError(Exception):
    """A supervised task failed too often: the process should end and be replaced."""


class Intensity:
    """Restart intensity: how many failures within how many seconds are too many (Erlang's and Oban's rule)."""

    def __init__(self, most: int = 5, within_s: float = 60.0) -> None:
        self._most, self._within_s = most, within_s
        self._failures: deque[float] = deque(maxlen=most)

    def too_much(self, at_s: float) -> bool:
        """Count a failure at `at_s` (any monotonic clock) and say whether to give up."""
        self._failures.append(at_s)
        return len(self._failures) == self._most and at_s - self._failures[0] < self._within_s

    def delay_s(self, at_s: float) -> float:
        """Before the next try: none after a first failure, then 1, 2, 4 … seconds."""
        recent = sum(1 for failure in self._failures if at_s - failure < self._within_s)
        return 0.0 if recent <= 1 else min(LONGEST_BACKOFF_S, 2.0 ** (recent - 2))


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    most: int = 5,
    within_s: float = 60.0,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Run `run` for ever, again after each failure; raise `GaveUpError` after `most` failures in `within_s` seconds."""
    intensity, now = Intensity(most, within_s), asyncio.get_running_loop().time
    while True:
        try:
            await run()
        except Exception as error:
            if intensity.too_much(now()):
                raise GaveUpError(f"{name} failed {most} times in {within_s:.0f} s") from error
            log.exception("task failed", task=name)
            await asyncio.sleep(intensity.delay_s(now()) * (0.5 + jitter() / 2))
        else:
            raise GaveUpError(f"{name} returned, but should run for ever")


async def until_told_to_stop() -> None:
    """Return at SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
