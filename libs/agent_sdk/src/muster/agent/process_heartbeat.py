"""Sends the heartbeats of a process-mode agent: after an interval that grows with the load, and after a change."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.contracts.agent_process import AgentBeat, ProcessHandoff
from muster.common.contracts.worker_api import Beat

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

MOST_STRETCH = 1.4
"""Greatest factor of the interval. The TTL is three base intervals, so below 1.5 one lost heartbeat does no harm."""
_EARLIEST = 0.85
"""Smallest share of the interval after which a heartbeat is sent."""
_BETWEEN_CHANGES_S = 0.25


def interval_s(base_s: float, load: float) -> float:
    """Return `base_s` seconds times the load per core, but at least `base_s` and at most 1.4 times `base_s`."""
    return base_s * min(max(load, 1.0), MOST_STRETCH)


def load_per_core() -> float:
    """Return the machine's load average of the last minute, divided by the number of cores."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class ProcessHeartbeat:
    """Sends heartbeats on one connection. `numbers` counts the heartbeats of all connections of this launch."""

    def __init__(
        self,
        handoff: ProcessHandoff,
        bus: "Bus",
        activity: AgentActivity,
        changed: AutoResetEvent,
        *,
        numbers: Iterator[int],
        message_counts: Callable[[], dict[str, Any]],
        load: Callable[[], float] = load_per_core,
    ) -> None:
        self._handoff, self._bus, self._activity, self._changed = handoff, bus, activity, changed
        self._numbers, self._message_counts, self._load = numbers, message_counts, load

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            within_s = self._interval_s
            # Without a connection, heartbeats would be queued and arrive late, all at the same time.
            if self._bus.connected.is_set():
                await self.beat()
            await asyncio.sleep(min(_BETWEEN_CHANGES_S, within_s / 2))
            try:
                # Wake at a random time a little before the interval ends, so that not all agents send at the same
                # moment.
                async with asyncio.timeout(within_s * random.uniform(_EARLIEST, 1.0) - _BETWEEN_CHANGES_S):  # noqa: S311
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def beat(self) -> None:
        """Publish one heartbeat."""
        activity, counts = self._activity, self._message_counts()
        done = counts["answered"] + counts["failed"]
        beat = Beat(
            state=activity.state,
            busy=activity.busy,
            since=activity.since,
            events=done + counts["waiting"],
            acked=done,
            epoch=self._handoff.launch,
        )
        await self._bus.publish(
            AgentBeat(
                agent_id=self._handoff.agent_id,
                launch=self._handoff.launch,
                n=next(self._numbers),
                beat=beat,
                next_within_s=self._interval_s,
                metadata=counts,
            )
        )

    @property
    def _interval_s(self) -> float:
        base_s = self._handoff.beat_idle_s if self._activity.state == "idle" else self._handoff.beat_running_s
        return interval_s(base_s, self._load())
