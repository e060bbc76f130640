"""Keeps long-lived tasks running, and ends the process when they cannot be kept running.

Every loop of every service runs under `supervise`, so one rule holds for all: a refusal (`Fault`) or a `Transient` is
the state of another part and may pass (NATS or PostgreSQL is away, a service restarts), so it is logged and the loop
runs again, for as long as it takes. Any other exception is a bug: after `most` of them within `within_s` seconds the
loop gives up, which ends its service, and the parent process starts the service again.
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
"""Seconds before a refused loop runs again, doubled each time. The end of an outage is noticed within the longest wait.
"""


class GaveUpError(Exception):
    """A supervised task failed too often: the process must end and be replaced."""


class Intensity:
    """Restart intensity: how many failures within how many seconds are too many (Erlang's and Oban's rule)."""

    def __init__(self, most: int = 5, within_s: float = 60.0) -> None:
        self._most, self._within_s = most, within_s
        self._failures: deque[float] = deque(maxlen=most)

    def too_much(self, at_s: float) -> bool:
        """Count a failure at `at_s` (a monotonic clock) and return whether to give up."""
        self._failures.append(at_s)
        return len(self._failures) == self._most and at_s - self._failures[0] < self._within_s

    def delay_s(self, at_s: float) -> float:
        """Return the seconds before the next try: 0 after the first failure, then 1, 2, 4 and so on."""
        recent = sum(1 for failure in self._failures if at_s - failure < self._within_s)
        return 0.0 if recent <= 1 else min(LONGEST_BACKOFF_S, 2.0 ** (recent - 2))


class Backoff:
    """How long to wait before a refused loop runs again."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter, self._wait_s = jitter, FIRST_WAIT_S

    def delay_s(self, began_s: float, at_s: float) -> float:
        """Return the wait after a run from `began_s` to `at_s`; after a long good run it is the first wait again."""
        went_well = at_s - began_s > LONGEST_WAIT_S
        self._wait_s = FIRST_WAIT_S if went_well else self._wait_s
        wait_s, self._wait_s = self._wait_s, min(LONGEST_WAIT_S, 2 * self._wait_s)
        return wait_s * (0.5 + self._jitter() / 2)


def causes(error: Exception) -> list[BaseException]:
    """Return the exceptions inside the error of a task group, or the error itself."""
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
    """Run `run` without end: again after each refusal, and after a bug.

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
                log.warning("loop failed, runs again", task=name, error=said, delay_s=round(delay_s, 1))
                await asyncio.sleep(delay_s)
                continue
            if intensity.too_much(now()):
                raise GaveUpError(f"{name} failed {most} times in {within_s:.0f} s") from error
            log.exception("loop raised a bug", task=name)
            await asyncio.sleep(intensity.delay_s(now()) * (0.5 + jitter() / 2))
        else:
            raise GaveUpError(f"{name} returned, but should run for ever")


async def until_told_to_stop() -> None:
    """Return at SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
