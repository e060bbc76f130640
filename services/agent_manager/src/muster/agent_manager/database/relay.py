"""Publishes the events of the outbox to JetStream: one replica at a time, events of each task or agent in order.

The outbox is a table of events that are stored together with the change that they announce.
"""

import asyncio
from itertools import groupby
from typing import Final

import structlog

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.outbox import OutboxRow, RelayLockState
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.tasks import TaskChanged
from muster.common.faults import Fault

log = structlog.get_logger()

AT_ONCE = 32
RETRY_S = 0.5

_TOLD: Final[dict[str, tuple[str, type[TaskChanged] | type[AgentChanged]]]] = {
    "task": ("TASKS", TaskChanged),
    "agent": ("AGENTS", AgentChanged),
}
"""The stream that stores events, and the type of their body, by the first token of the subject."""


class Relay:
    """Publishes events while this replica has the relay lock. Deletes outbox rows after JetStream's acknowledgement."""

    def __init__(
        self, database: ManagerDatabase, message_store: MessageStore, *, waker: asyncio.Event, recheck_s: float
    ) -> None:
        self._database, self._message_store = database, message_store
        self._waker, self._recheck_s = waker, recheck_s
        self._turn = outbox.RelayLock(database.url)

    async def run(self) -> None:
        """Publish events until cancelled; after an outage of PostgreSQL or NATS, try again every 0.5 s."""
        while True:
            try:
                async with self._turn.take() as held:
                    await self._while_held(held)
            except Fault as error:
                log.warning("outbox relay failed", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _while_held(self, held: RelayLockState) -> None:
        new = True
        while True:
            self._waker.clear()
            if await held.mine():
                letters = await outbox.oldest(self._database)
                if new and letters:
                    letters = await self._without_told(letters)
                new = False
                if letters:
                    await self._publish(letters)
                    continue
            try:
                async with asyncio.timeout(self._recheck_s):
                    await self._waker.wait()
            except TimeoutError:
                continue

    async def _without_told(self, letters: list[OutboxRow]) -> list[OutboxRow]:
        """Delete the outbox rows that an earlier relay published but did not delete; return the other rows."""
        told: dict[str, int] = {}
        for whose, letter in {_whose(letter): letter for letter in letters}.items():
            stream, contract = _destination(letter)
            last = await self._message_store.tail(stream, f"{whose}.event.>")
            told[whose] = 0 if last is None else decode(last.body, contract).version
        stale = [letter.id for letter in letters if letter.version <= told[_whose(letter)]]
        await outbox.delivered(self._database, stale)
        return [letter for letter in letters if letter.version > told[_whose(letter)]]

    async def _publish(self, letters: list[OutboxRow]) -> None:
        in_turn = sorted(letters, key=lambda letter: (_whose(letter), letter.id))
        slots = asyncio.Semaphore(AT_ONCE)
        delivered: list[int] = []

        async def tell(mine: list[OutboxRow]) -> None:
            async with slots:
                for letter in mine:
                    try:
                        await self._message_store.store(decode(letter.body, _destination(letter)[1]), letter.event_id)
                    except Fault as error:
                        failed.append(error)
                        return  # JetStream must not store later events of this task or agent first.
                    delivered.append(letter.id)

        failed: list[Fault] = []
        async with asyncio.TaskGroup() as tasks:
            for _, mine in groupby(in_turn, key=_whose):
                tasks.create_task(tell(list(mine)))
        await outbox.delivered(self._database, delivered)
        if failed:
            raise failed[0]


def _whose(letter: OutboxRow) -> str:
    """Return `task.<id>` or `agent.<id>` from the subject of an outbox row: versions of events are counted per id."""
    return letter.subject.partition(".event.")[0]


def _destination(letter: OutboxRow) -> tuple[str, type[TaskChanged] | type[AgentChanged]]:
    return _TOLD[letter.subject.partition(".")[0]]
