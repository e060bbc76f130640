"""A process-mode agent's beats: adaptive, and at once on a change."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.common.contracts.agent_wire import AgentBeat, ProcessHandoff
from muster.common.contracts.doors import Beat

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

MOST_STRETCH = 1.4
"""The TTL is three beats of the unstretched interval: with less than half as much again, one lost beat ends no TTL."""
_EARLIEST = 0.85
_BETWEEN_CHANGES_S = 0.25


def interval_s(base_s: float, load: float) -> float:
    """Slower on a machine with more to do than cores to do it (`load` 1.0 is all of them busy)."""
    return base_s * min(max(load, 1.0), MOST_STRETCH)


def load_per_core() -> float:
    """The machine's load of the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class ProcessHeartbeat:
    """Beats on one connection; `numbers` go on over all connections of this launch."""

    def __init__(
        self,
        handoff: ProcessHandoff,
        bus: "Bus",
        activity: AgentActivity,
        changed: AutoResetEvent,
        *,
        numbers: Iterator[int],
        counted: Callable[[], dict[str, Any]],
        load: Callable[[], float] = load_per_core,
    ) -> None:
        self._handoff, self._bus, self._activity, self._changed = handoff, bus, activity, changed
        self._numbers, self._counted, self._load = numbers, counted, load

    async def run(self) -> None:
        """Beats for as long as the connection lasts."""
        while True:
            within_s = self._interval_s
            if self._bus.connected.is_set():  # else they would pile up, and come late and all at once
                await self.beat()
            await asyncio.sleep(min(_BETWEEN_CHANGES_S, within_s / 2))
            try:
                # A little early, and not all agents of a fleet at the same moment.
                async with asyncio.timeout(within_s * random.uniform(_EARLIEST, 1.0) - _BETWEEN_CHANGES_S):  # noqa: S311
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def beat(self) -> None:
        """One beat."""
        activity, counted = self._activity, self._counted()
        done = counted["answered"] + counted["failed"]
        beat = Beat(
            state=activity.state,
            busy=activity.busy,
            since=activity.since,
            events=done + counted["waiting"],
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
                metadata=counted,
            )
        )

    @property
    def _interval_s(self) -> float:
        base_s = self._handoff.beat_idle_s if self._activity.state == "idle" else self._handoff.beat_running_s
        return interval_s(base_s, self._load())
