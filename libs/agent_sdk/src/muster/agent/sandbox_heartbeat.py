"""Sends the heartbeats of a worker to the gateway.

A change of state or of the current call is sent at once. Otherwise a slow tool call would look like silence.
"""

import asyncio
import logging

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.exit_codes import Unreachable
from muster.agent.gateway_client import GatewayClient
from muster.agent.outbox import Outbox
from muster.common.contracts.worker_api import Beat, Handoff

_BETWEEN_CHANGES_S = 0.5

logger = logging.getLogger(__name__)


class SandboxHeartbeat:
    """Sends heartbeats of one worker: its state, and the numbers of its written and acknowledged events."""

    def __init__(
        self, activity: AgentActivity, changed: AutoResetEvent, gateway: GatewayClient, outbox: Outbox, handoff: Handoff
    ) -> None:
        self._activity, self._changed, self._gateway, self._outbox = activity, changed, gateway, outbox
        self._handoff = handoff

    @property
    def _interval_s(self) -> float:
        return self._handoff.beat_idle_s if self._activity.state == "idle" else self._handoff.beat_running_s

    async def run(self) -> None:
        """Send a heartbeat per interval and per change, until cancelled. Changes within 0.5 s are sent as one."""
        while True:
            await self._beat()
            await asyncio.sleep(min(_BETWEEN_CHANGES_S, self._interval_s))
            try:
                async with asyncio.timeout(max(self._interval_s - _BETWEEN_CHANGES_S, 0)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        activity = self._activity
        beat = Beat(
            state=activity.state,
            busy=activity.busy,
            since=activity.since,
            events=self._outbox.written,
            acked=self._outbox.acked,
            epoch=self._handoff.epoch,
        )
        try:
            await self._gateway.beat(beat)
        except Unreachable as away:
            logger.info("gateway did not accept a heartbeat", extra={"fields": {"why": str(away)}})
