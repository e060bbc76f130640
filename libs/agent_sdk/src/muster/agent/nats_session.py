"""A process-mode agent's presence on NATS: orders answered, beats and metrics sent, whatever becomes of the server."""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.nats_connection import open_nats_connection
from muster.agent.orders import Answers, Orders, Result
from muster.agent.process_heartbeat import ProcessHeartbeat
from muster.agent.process_metrics import METRICS_EVERY_S
from muster.common.clock import utc_now
from muster.common.contracts.agent_wire import AgentMeasured, ProcessHandoff
from muster.common.faults import Fault, Unavailable

if TYPE_CHECKING:
    from muster.common.bus.connection import Bus

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0

logger = logging.getLogger(__name__)


class NatsSession:
    """Run it beside the agent; `leave` ends it in good order."""

    def __init__(
        self,
        handoff: ProcessHandoff,
        activity: AgentActivity,
        changed: AutoResetEvent,
        *,
        counted: Callable[[], dict[str, Any]],
        measured: Callable[[], Awaitable[dict[str, float]]],
        commands: Answers,
        queries: Answers,
    ) -> None:
        self._handoff, self._activity, self._changed = handoff, activity, changed
        self._counted, self._measured = counted, measured
        self._commands, self._queries = commands, queries
        self._numbers = itertools.count(1)
        self._leaving = asyncio.Event()
        self._orders: Orders | None = None

    def leave(self) -> None:
        """The last beat goes out, what was asked is answered, and `run` returns."""
        self._leaving.set()

    async def run(self) -> None:
        """Until told to leave."""
        pause_s = _FIRST_PAUSE_S
        while not self._leaving.is_set():
            try:
                async with open_nats_connection(self._handoff) as bus:
                    pause_s = _FIRST_PAUSE_S
                    await self._attend(bus)
            except Unavailable as away:
                logger.warning("not connected to NATS; will retry", extra={"fields": {"why": str(away)}})
            except Exception:  # the agent goes on without it: a broken line is no reason to lose its work
                logger.exception("the line to NATS broke; will open it again")
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def tell(self, command: str, outcome: Result | Fault) -> None:
        """Publishes what became of an order that was answered before it was done."""
        if self._orders is None:
            logger.warning("an outcome was not told: not connected to NATS", extra={"fields": {"command": command}})
            return
        await self._orders.tell(self._orders.response(command, outcome))

    async def _attend(self, bus: "Bus") -> None:
        bus.on_reconnect(self._changed)
        pacemaker = ProcessHeartbeat(
            self._handoff, bus, self._activity, self._changed, numbers=self._numbers, counted=self._counted
        )
        commands, queries = self._commands, self._queries
        async with Orders(self._handoff, bus, utc_now, commands=commands, queries=queries) as orders:
            self._orders = orders
            try:
                async with asyncio.TaskGroup() as tasks:
                    loops = [tasks.create_task(pacemaker.run()), tasks.create_task(self._measure(bus))]
                    await self._leaving.wait()
                    for loop in loops:
                        loop.cancel()
                if bus.connected.is_set():
                    await pacemaker.beat()
            finally:
                self._orders = None

    async def _measure(self, bus: "Bus") -> None:
        while True:
            metrics = await self._measured()
            if bus.connected.is_set():
                told = self._handoff
                measured = AgentMeasured(agent_id=told.agent_id, launch=told.launch, at=utc_now(), metrics=metrics)
                await bus.publish(measured)
            await asyncio.sleep(METRICS_EVERY_S * random.uniform(0.9, 1.0))  # noqa: S311 - not all agents at once

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s * random.uniform(0.5, 1.0)):  # noqa: S311 - as above
                await self._leaving.wait()
        except TimeoutError:
            return
