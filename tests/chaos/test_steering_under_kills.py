"""2,000 steering messages, while the gateway and the worker are killed at random.

A message that the gateway has accepted is in the conversation once, or it expired before a worker could take it.
"""

import asyncio
import functools
import os
import random
import signal
import subprocess
from collections import Counter
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from muster.agent.steering import message_id
from muster.common.clock import utc_now
from muster.common.contracts.gateway import SendMessage
from muster.common.contracts.worker_api import Handoff
from muster.common.faults import TimedOut, Unavailable
from muster.common.ids import new_id
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner
from tests.support.doors_double import Doors, handoff_for, launch
from tests.support.eventually import eventually
from tests.support.gateway import Stack, without_shim
from tests.support.servers import Restartable

pytestmark = [pytest.mark.timeout(400), pytest.mark.stress]

MESSAGES, SENDERS, KILLS = 2000, 8, 12
SHORT_LIVED = 10
"""One message in so many expires so soon that a kill may keep the worker from taking it."""
NEVER = {"steps": [{"sleep_ms": 3_600_000}]}


class Steered:
    """A worker process that plays one long step, and the messages that were sent to it."""

    def __init__(self, stack: Stack, owner: LogOwner, handoff: Handoff, folder: Path) -> None:
        self._stack, self._owner, self._handoff, self._folder = stack, owner, handoff, folder
        self.sent: dict[str, SendMessage] = {}
        self.process = self._launched()

    def _launched(self) -> subprocess.Popen[bytes]:
        return launch("echo", self._handoff, self._folder)

    async def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    async def replace(self) -> None:
        """Kill the worker, and start another one on the same disk."""
        await self.kill()
        self.process = self._launched()

    async def send(self, count: int) -> None:
        """Send messages one after the other, each until the gateway has accepted it."""
        for _ in range(count):
            lives_s = 1.0 if len(self.sent) % SHORT_LIVED == 0 else 3_600.0
            message = SendMessage(
                sandbox_id=self._owner.sandbox_id,
                message_id=new_id("msg"),
                epoch=1,
                text="go on",
                sender="operator",
                expires_at=utc_now() + timedelta(seconds=lives_s),
            )
            self.sent[message.message_id] = message
            await eventually(functools.partial(self._accepted, message), within_s=60)

    async def _accepted(self, message: SendMessage) -> bool:
        try:
            stored = await self._stack.bus.request(message, timeout_s=2)
        except (Unavailable, TimedOut):
            return False
        return stored.message_id == message.message_id

    async def delivered(self) -> Counter[str]:
        """Return how often each message is in the sandbox's log."""
        events = [event for frame in await self._stack.frames(self._owner.sandbox_id) for event in frame.events]
        senders = (msgspec.json.decode(event.body).get("sender") for event in events if event.kind == "MessageEvent")
        return Counter(told for sender in senders if (told := message_id(sender)))

    async def settled(self) -> bool:
        """Return whether every message was delivered or has expired."""
        delivered, now = await self.delivered(), utc_now()
        return all(one in delivered or message.expires_at < now for one, message in self.sent.items())


async def kill_at_random(stack: Stack, steered: Steered, sending: asyncio.Future[list[None]]) -> int:
    """Kill the gateway and the worker in turns while messages are sent, and return the number of kills."""
    chance, kills = random.Random(8_622), 0
    while not sending.done() and kills < KILLS:
        due = MESSAGES * kills // KILLS
        await eventually(lambda due=due: sending.done() or len(steered.sent) > due, within_s=120)
        await asyncio.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.5:
            await stack.end(signal.SIGKILL)
            await stack.start()
        else:
            await steered.replace()
        kills += 1
    return kills


async def test_every_steering_message_has_one_end_although_gateway_and_worker_are_killed(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with without_shim(tmp_path, nats_server.url) as stack:
        owner, token = await stack.born()
        told = handoff_for(
            Doors(owner.sandbox_id), "http://gateway", tmp_path, token=token, metadata=NEVER, timeout_s=3600.0
        )
        steered = Steered(stack, owner, msgspec.structs.replace(told, gateway_socket=str(stack.socket)), tmp_path)
        try:
            sending = asyncio.gather(*(steered.send(MESSAGES // SENDERS) for _ in range(SENDERS)))
            assert await kill_at_random(stack, steered, sending) > KILLS // 2
            await sending
            await eventually(steered.settled, within_s=120)
        finally:
            await steered.kill()
        delivered = await steered.delivered()
    assert set(delivered) <= set(steered.sent), "a message is in the log that was never sent"
    assert max(delivered.values()) == 1, "a message was delivered twice"
    lost = {one for one, message in steered.sent.items() if one not in delivered and message.expires_at > utc_now()}
    assert not lost
    assert len(delivered) >= MESSAGES - MESSAGES // SHORT_LIVED
