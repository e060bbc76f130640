"""Keeps a process-mode agent connected to NATS. Answers the manager's requests, sends heartbeats and metrics.

The agent continues to work while NATS is unreachable. No message is queued for a later connection, because a new
heartbeat replaces old ones. Requests of the manager are called orders.

    connect --ok--> attend: orders, heartbeats, metrics --leave()--> last heartbeat --> end
       ^  |                |
       |  +--refused-------+--connection broken--> pause 0.25 to 5 s --+
       +---------------------------------------------------------------+
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.agent_commands import Answers, Orders
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.nats_connection import open_nats_connection
from muster.agent.outcome_delivery import OutcomeDelivery
from muster.agent.process_heartbeat import ProcessHeartbeat
from muster.agent.process_metrics import METRICS_EVERY_S
from muster.common.clock import utc_now
from muster.common.contracts.agent_process import AgentMeasured, ProcessHandoff
from muster.common.faults import Unavailable

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0

logger = logging.getLogger(__name__)


class NatsSession:
    """The NATS connection of one agent process. `run` runs while the agent works, and `leave` ends it."""

    def __init__(
        self,
        handoff: ProcessHandoff,
        activity: AgentActivity,
        changed: AutoResetEvent,
        *,
        message_counts: Callable[[], dict[str, Any]],
        read_metrics: Callable[[], Awaitable[dict[str, float]]],
        commands: Answers,
        queries: Answers,
    ) -> None:
        self._handoff, self._activity, self._changed = handoff, activity, changed
        self._message_counts, self._read_metrics = message_counts, read_metrics
        self._commands, self._queries = commands, queries
        self._numbers = itertools.count(1)
        self._leaving = asyncio.Event()
        self.outcomes = OutcomeDelivery()

    def leave(self) -> None:
        """End `run` after the current requests are answered and a last heartbeat is sent."""
        self._leaving.set()

    async def run(self) -> None:
        """Connect, and connect again after each loss, until `leave` is called."""
        pause_s = _FIRST_PAUSE_S
        while not self._leaving.is_set():
            try:
                async with open_nats_connection(self._handoff) as bus:
                    pause_s = _FIRST_PAUSE_S
                    await self._attend(bus)
            except Unavailable as away:
                logger.warning("agent could not connect to nats, retrying", extra={"fields": {"why": str(away)}})
            except Exception:  # A broken connection must not end the agent's work.
                logger.exception("agent connection to nats failed, reconnecting")
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _attend(self, bus: "Bus") -> None:
        bus.on_reconnect(self._changed)
        heartbeat = ProcessHeartbeat(
            self._handoff,
            bus,
            self._activity,
            self._changed,
            numbers=self._numbers,
            message_counts=self._message_counts,
        )
        commands, queries = self._commands, self._queries
        async with Orders(self._handoff, bus, utc_now, commands=commands, queries=queries):
            async with asyncio.TaskGroup() as tasks:
                running = (heartbeat.run(), self._send_metrics(bus), self.outcomes.run(bus))
                loops = [tasks.create_task(loop) for loop in running]
                await self._leaving.wait()
                for loop in loops:
                    loop.cancel()
            if bus.connected.is_set():
                await heartbeat.beat()
                await self.outcomes.flush(bus)

    async def _send_metrics(self, bus: "Bus") -> None:
        while True:
            metrics = await self._read_metrics()
            if bus.connected.is_set():
                agent_id, launch = self._handoff.agent_id, self._handoff.launch
                await bus.publish(AgentMeasured(agent_id=agent_id, launch=launch, at=utc_now(), metrics=metrics))
            await asyncio.sleep(METRICS_EVERY_S * random.uniform(0.9, 1.0))  # noqa: S311 - spreads the agents of a fleet over the interval

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311 - as above
                await self._leaving.wait()
        except TimeoutError:
            return
