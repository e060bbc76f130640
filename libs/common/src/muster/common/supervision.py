"""Keeps long-lived tasks running, and ends the process if they cannot be kept running.

Every loop of every service runs under `supervise`. A `Fault` or `Transient` error comes from another service or server
(NATS or PostgreSQL is unreachable, a service restarts). It is logged and the loop is started again, without a limit.
Any other exception is a bug. After `most` bugs within `within_s` seconds the loop gives up, which ends its service. The
parent process then starts the service again.
"""

import asyncio
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import structlog

from muster.common.faults import Fault, Transient

log = structlog.get_logger()

LONGEST_BACKOFF_S = 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
"""Seconds before a failed loop runs again, doubled each time. So a loop continues soon after an outage."""


class GaveUpError(Exception):
    """A supervised task failed too often, so the process must end and be started again."""


class Intensity:
    """Counts failures, and decides whether too many happened within a period (the rule of Erlang and Oban)."""

    def __init__(self, most: int = 5, within_s: float = 60.0) -> None:
        self._most, self._within_s = most, within_s
        self._failures: deque[float] = deque(maxlen=most)

    def too_much(self, at_s: float) -> bool:
        """Count a failure at `at_s` (a monotonic clock) and return whether there were too many."""
        self._failures.append(at_s)
        return len(self._failures) == self._most and at_s - self._failures[0] < self._within_s

    def delay_s(self, at_s: float) -> float:
        """Return the seconds before the next try: 0 after the first failure, then 1, 2, 4 and so on."""
        recent = sum(1 for failure in self._failures if at_s - failure < self._within_s)
        return 0.0 if recent <= 1 else min(LONGEST_BACKOFF_S, 2.0 ** (recent - 2))


class Backoff:
    """Computes the seconds to wait before a failed loop runs again. They double at each failure, up to a maximum."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter, self._wait_s = jitter, FIRST_WAIT_S

    def delay_s(self, began_s: float, at_s: float) -> float:
        """Return the seconds to wait after a run from `began_s` to `at_s`. A long run resets the wait."""
        went_well = at_s - began_s > LONGEST_WAIT_S
        self._wait_s = FIRST_WAIT_S if went_well else self._wait_s
        wait_s, self._wait_s = self._wait_s, min(LONGEST_WAIT_S, 2 * self._wait_s)
        return wait_s * (0.5 + self._jitter() / 2)


def causes(error: Exception) -> list[BaseException]:
    """Return the exceptions inside an exception group, or the error itself."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    group = cast("ExceptionGroup[Exception]", error)
    return [cause for one in group.exceptions for cause in causes(one)]


async def supervise(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    most: int = 5,
    within_s: float = 60.0,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Call `run` without end: again after each fault and after each bug.

    Raises `GaveUpError` after `most` bugs in `within_s` seconds, or if `run` returns.
    """
    intensity, backoff, now = Intensity(most, within_s), Backoff(jitter), asyncio.get_running_loop().time
    while True:
        began_s = now()
        try:
            await run()
        except Exception as error:
            if all(isinstance(cause, Fault | Transient) for cause in causes(error)):
                delay_s, said = backoff.delay_s(began_s, now()), "; ".join(map(str, causes(error)))
                log.warning("background loop failed, restarting", task=name, error=said, delay_s=round(delay_s, 1))
                await asyncio.sleep(delay_s)
                continue
            if intensity.too_much(now()):
                raise GaveUpError(f"{name} failed {most} times in {within_s:.0f} s") from error
            log.exception("loop raised an unexpected error", task=name)
            await asyncio.sleep(intensity.delay_s(now()) * (0.5 + jitter() / 2))
        else:
            raise GaveUpError(f"{name} returned, but must run until cancelled")


async def until_told_to_stop() -> None:
    """Wait until the process receives SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
