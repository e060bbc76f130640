"""Reads the events of an agent from a position of the stream `AGENTS`, and then waits for later events."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import StreamIdentity, stream_state, when_stored
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged
from muster.common.faults import InvalidMessage, TimedOut, Unavailable
from muster.management_api.agents.domain.agent_cursor import AgentCursor

AGENTS = "AGENTS"
GONE = "deleted"
"""The kind of an agent's last event. Only an agent that is registered again with the same id has later events."""
RECHECK_S = 5.0
"""Seconds between two reads of the stream without a wake-up: in a cluster a direct get may return old data."""
RETRY_S = 0.25


class AgentFeed:
    """The events of one agent for one client. `place` is the cursor after the last event that was yielded."""

    def __init__(self, bus: Bus, place: AgentCursor) -> None:
        self._bus, self._message_store = bus, MessageStore(bus)
        self.place = place
        self._subject = f"agent.{place.agent_id}.event.*"

    async def to_the_present(self) -> AsyncGenerator[AgentChanged]:
        """Yield the agent's events up to now. Raises `Unavailable` or `TimedOut` if the stream cannot be read."""
        async for stored in self._message_store.replay(AGENTS, self._subject, after=self.place.position):
            self.place = msgspec.structs.replace(self.place, position=stored.position)
            try:
                changed = decode(stored.body, AgentChanged)
            except InvalidMessage:
                continue  # An event of a newer release is skipped; the client sees a gap in the versions.
            yield changed

    async def follow(self) -> AsyncGenerator[AgentChanged | None]:
        """Yield the agent's present and later events, until the agent is deleted.

        Yields None after each read of the stream. Raises `Unavailable` if the stream was lost and created again: the
        client then resumes, and all events are sent to it again.
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
    """Return whether a client's cursor can belong to the stream `AGENTS`. A cursor after the stream's end cannot."""
    return not place.position or (await stream_state(bus, AGENTS)).last_seq >= place.position


async def at_the_end(bus: Bus, agent_id: str) -> AgentCursor:
    """Return the cursor at the present end of an agent's events. Only later events are after this cursor."""
    return AgentCursor(agent_id, (await stream_state(bus, AGENTS)).last_seq)


async def was_heard_of(bus: Bus, agent_id: str) -> bool:
    """Return whether the stream `AGENTS` contains an event of the agent, which shows that the agent has existed."""
    return bool(await MessageStore(bus).last_of_each(AGENTS, f"agent.{agent_id}.event.*"))
