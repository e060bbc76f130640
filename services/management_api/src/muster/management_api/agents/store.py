"""Events of an agent: replayed from a position of the stream `AGENTS`, then followed."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.journal import Journal
from muster.common.bus.streams import StreamIdentity, stream_state, when_stored
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged
from muster.common.faults import InvalidMessage, TimedOut, Unavailable
from muster.management_api.agents.domain.agent_cursor import AgentCursor

AGENTS = "AGENTS"
GONE = "deleted"
"""The kind of an agent's last event, until its id is registered again."""
RECHECK_S = 5.0
"""Seconds between looks when nothing wakes the feed: on a cluster a direct get may return old data."""
RETRY_S = 0.25


class AgentFeed:
    """One client's way through the events of one agent. `place` is the cursor after the last event given."""

    def __init__(self, bus: Bus, place: AgentCursor) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self.place = place
        self._subject = f"agent.{place.agent_id}.event.*"

    async def to_the_present(self) -> AsyncGenerator[AgentChanged]:
        """Yield everything up to now. Raises `Unavailable` or `TimedOut` if the stream cannot be read."""
        async for stored in self._journal.replay(AGENTS, self._subject, after=self.place.position):
            self.place = msgspec.structs.replace(self.place, position=stored.position)
            try:
                changed = decode(stored.body, AgentChanged)
            except InvalidMessage:
                continue  # the event of a newer release: its clients know it, and the versions show the gap
            yield changed

    async def follow(self) -> AsyncGenerator[AgentChanged | None]:
        """Yield everything and then later events, until the agent is deleted; None at intervals while nothing happens.

        Raises `Unavailable` if the stream was lost and created again: the client resumes, and is told to begin again.
        """
        stream = StreamIdentity(self._bus, AGENTS)
        async with self._bus.woken_by(when_stored(self._subject)) as woken:
            while True:
                woken.clear()
                wait_s, last = RECHECK_S, ""
                await stream.refuse_changed()
                try:
                    async for changed in self.to_the_present():
                        yield changed
                        last = changed.kind
                    if last == GONE:
                        return
                except (Unavailable, TimedOut):
                    wait_s = RETRY_S
                yield None
                try:
                    async with asyncio.timeout(wait_s):
                        await woken.wait()
                except TimeoutError:
                    continue


async def knows(bus: Bus, place: AgentCursor) -> bool:
    """Return whether a cursor of a client can belong to this stream: not beyond its end."""
    return not place.position or (await stream_state(bus, AGENTS)).last_seq >= place.position


async def at_the_end(bus: Bus, agent_id: str) -> AgentCursor:
    """Return the cursor at the present end."""
    return AgentCursor(agent_id, (await stream_state(bus, AGENTS)).last_seq)


async def was_heard_of(bus: Bus, agent_id: str) -> bool:
    """Return whether the stream has an event of the agent."""
    return bool(await Journal(bus).last_of_each(AGENTS, f"agent.{agent_id}.event.*"))
