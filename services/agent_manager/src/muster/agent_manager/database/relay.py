"""Publishes the events of the outbox: one replica at a time, those of each task or agent in order of version."""

import asyncio
from itertools import groupby
from typing import Final

import structlog

from muster.agent_manager.database import outbox
from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.outbox import OutboxRow, RelayLockState
from muster.common.bus.journal import Journal
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
"""By the first token of a subject: the stream that stores it, and the type of its body."""


class Relay:
    """Publishes while this replica holds the lock. Deletes a row after the stream has acknowledged its event."""

    def __init__(self, database: ManagerDatabase, journal: Journal, *, waker: asyncio.Event, recheck_s: float) -> None:
        self._database, self._journal = database, journal
        self._waker, self._recheck_s = waker, recheck_s
        self._turn = outbox.RelayLock(database.url)

    async def run(self) -> None:
        """Publish through outages of PostgreSQL and NATS, until cancelled."""
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
        """Delete rows that an earlier relay published but did not delete; return the others."""
        told: dict[str, int] = {}
        for whose, letter in {_whose(letter): letter for letter in letters}.items():
            stream, contract = _destination(letter)
            last = await self._journal.tail(stream, f"{whose}.event.>")
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
                        await self._journal.store(decode(letter.body, _destination(letter)[1]), letter.event_id)
                    except Fault as error:
                        failed.append(error)
                        return  # the later events of this task or agent must not overtake it
                    delivered.append(letter.id)

        failed: list[Fault] = []
        async with asyncio.TaskGroup() as tasks:
            for _, mine in groupby(in_turn, key=_whose):
                tasks.create_task(tell(list(mine)))
        await outbox.delivered(self._database, delivered)
        if failed:
            raise failed[0]


def _whose(letter: OutboxRow) -> str:
    """Return `task.<id>` or `agent.<id>`: the entity whose versions are counted."""
    return letter.subject.partition(".event.")[0]


def _destination(letter: OutboxRow) -> tuple[str, type[TaskChanged] | type[AgentChanged]]:
    return _TOLD[letter.subject.partition(".")[0]]
