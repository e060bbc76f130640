"""Metrics of a process-mode agent: those of every agent (time, CPU, memory, messages), and the agent's own."""

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
    """Reads the metrics of an agent, also if the agent's own `metrics()` fails or hangs."""

    def __init__(self, message_counts: Callable[[], dict[str, Any]]) -> None:
        self._message_counts = message_counts
        self._began = time.monotonic()

    @property
    def uptime_s(self) -> float:
        """Return the seconds since this process created its agent."""
        return time.monotonic() - self._began

    async def read(self, own: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
        """Return all metrics. A common metric replaces a metric of the agent that has the same name."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        common: dict[str, float] = {
            "uptime_s": self.uptime_s,
            "cpu_s": used.ru_utime + used.ru_stime,
            "rss_bytes": _rss_bytes(),
            **{f"messages_{name}": number for name, number in self._message_counts().items()},
        }
        return {**await self._own(own), **common}

    async def _own(self, own: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                numbers = {name: float(number) for name, number in (await own()).items()}
        except Exception:  # If the agent's own metrics fail, the other metrics are still sent.
            logger.exception("agent raised an error in metrics")
            return {}
        return {name: number for name, number in numbers.items() if math.isfinite(number)}


async def health_of(own: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Return the answer of `own` with a status: "failing" if `own` raises or takes over 1.5 s, or "ok" by default."""
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            return {"status": "ok", **await own()}
    except TimeoutError:
        return {"status": "failing", "error": f"health() took longer than {ANSWER_DEADLINE_S:g} s"}
    except Exception as error:
        logger.exception("agent raised an error in health")
        return {"status": "failing", "error": f"{type(error).__name__}: {error}"[:500]}


def _rss_bytes() -> float:
    """Return the resident memory of this process in bytes. Without `/proc`, return the maximum so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
