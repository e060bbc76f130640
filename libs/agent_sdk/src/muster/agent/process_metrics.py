"""A process-mode agent's numbers: its own, and those that every agent has."""

import asyncio
import logging
import math
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

METRICS_EVERY_S = 15.0
ANSWER_DEADLINE_S = 1.5

logger = logging.getLogger(__name__)


class ProcessMetrics:
    """Reads them all, however the agent's own code behaves."""

    def __init__(self, counted: Callable[[], dict[str, Any]]) -> None:
        self._counted = counted
        self._began = time.monotonic()

    @property
    def uptime_s(self) -> float:
        """Since this process began to serve."""
        return time.monotonic() - self._began

    async def read(self, own: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
        """Everyone's numbers win over the agent's of the same name: they mean the same in a whole fleet."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        everyones: dict[str, float] = {
            "uptime_s": self.uptime_s,
            "cpu_s": used.ru_utime + used.ru_stime,
            "rss_bytes": _rss_bytes(),
            **{f"messages_{name}": number for name, number in self._counted().items()},
        }
        return {**await self._own(own), **everyones}

    async def _own(self, own: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                numbers = {name: float(number) for name, number in (await own()).items()}
        except Exception:  # the rest is still worth telling
            logger.exception("the agent has no metrics")
            return {}
        return {name: number for name, number in numbers.items() if math.isfinite(number)}


async def health_of(own: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """`status` is `ok`, unless the agent says otherwise, raises, or does not answer in time."""
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            return {"status": "ok", **await own()}
    except TimeoutError:
        return {"status": "failing", "error": f"health() took longer than {ANSWER_DEADLINE_S:g} s"}
    except Exception as error:
        logger.exception("the health check failed")
        return {"status": "failing", "error": f"{type(error).__name__}: {error}"[:500]}


def _rss_bytes() -> float:
    """Of now, where the kernel says so; the most that it ever was elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
