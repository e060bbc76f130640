"""The worker's beat: alive, and busy with what. A change is told at once: a slow tool must not look like silence."""

import asyncio
import logging

from muster.agent.exits import Unreachable
from muster.agent.link import Link
from muster.agent.outbox import Outbox
from muster.agent.pulse import AgentActivity
from muster.agent.wake import Wake
from muster.common.contracts.doors import Beat, Handoff

_BETWEEN_CHANGES_S = 0.5

logger = logging.getLogger(__name__)


class Heart:
    """Sends the beats of one worker."""

    def __init__(self, pulse: AgentActivity, changed: Wake, link: Link, outbox: Outbox, handoff: Handoff) -> None:
        self._pulse, self._changed, self._link, self._outbox = pulse, changed, link, outbox
        self._handoff = handoff

    @property
    def _interval_s(self) -> float:
        return self._handoff.beat_idle_s if self._pulse.state == "idle" else self._handoff.beat_running_s

    async def run(self) -> None:
        """Beats at the interval of the state, and at every change (changes within half a second are one)."""
        while True:
            await self._beat()
            await asyncio.sleep(min(_BETWEEN_CHANGES_S, self._interval_s))
            try:
                async with asyncio.timeout(max(self._interval_s - _BETWEEN_CHANGES_S, 0)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        pulse = self._pulse
        beat = Beat(
            state=pulse.state,
            busy=pulse.busy,
            since=pulse.since,
            events=self._outbox.written,
            acked=self._outbox.acked,
            epoch=self._handoff.epoch,
        )
        try:
            await self._link.beat(beat)
        except Unreachable as away:
            logger.info("a beat was lost", extra={"fields": {"why": str(away)}})
