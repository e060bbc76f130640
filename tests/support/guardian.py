"""Runs the guardian as a process, with doubles of the services that the guardian needs."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import jetstream
from muster.common.clock import utc_now
from muster.common.contract import Command, decode, encode
from muster.common.contracts.guardian import GetReport, GuardianRecord, GuardianReport, GuardianTold
from muster.common.contracts.sandbox_log import log_stream, log_subject, partition
from muster.common.faults import Unavailable
from muster.common.ids import new_id
from muster.guardian.journal.domain.decisions import read_decision
from muster.guardian.journal.domain.inputs import Policy, SteerRequested
from muster.guardian.journal.domain.refolding import Refold
from muster.guardian.journal.store import GuardianLogs
from tests.support.eventually import eventually
from tests.support.neighbours_double import NeighboursDouble
from tests.support.prefork import Started, started
from tests.support.sandbox_script import BEGAN, Script
from tests.support.streams import ensure_streams

QUICK = {"MUSTER_LEASE_TTL_S": "1", "MUSTER_LOG_LEVEL": "DEBUG"}
FAST_BEATS = QUICK | {
    "MUSTER_BEAT_TTL_RUNNING_S": "1.5",
    "MUSTER_BEAT_TTL_STARTING_S": "1.5",
    "MUSTER_GATEWAY_ALIVE_S": "1",
}


class _Standing(msgspec.Struct):
    num_pending: int
    num_ack_pending: int


class Appended:
    """A script of frames; `flush` appends the new frames to a real sandbox log."""

    def __init__(self, bus: Bus, script: Script) -> None:
        self.script = script
        self._message_store, self._last, self._sent = MessageStore(bus), 0, 0

    async def flush(self) -> None:
        for frame in self.script.frames[self._sent :]:
            subject = log_subject(frame.sandbox_id)
            self._last = await self._message_store.append(subject, encode(frame), last=self._last)
            self._sent += 1


class Guardian:
    """The guardian process that is tested."""

    def __init__(self, url: str, log: Path, env: dict[str, str]) -> None:
        self._env = os.environ | {"MUSTER_NATS_URL": url} | env
        self._log = log
        self._process: Started | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.to_thread(
                lambda: started("muster.guardian", env=self._env, stdout=log, stderr=log)
            )

    def hurt(self, number: signal.Signals) -> None:
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        self.hurt(number)
        assert self._process
        return await asyncio.to_thread(self._process.wait)

    def said(self) -> str:
        return self._log.read_text()


class World:
    """A bus connection, doubles of gateway and manager, and a guardian process."""

    def __init__(self, bus: Bus, neighbours: NeighboursDouble, guardian: Guardian) -> None:
        self.bus, self.neighbours, self.guardian, self.logs = bus, neighbours, guardian, GuardianLogs(bus)

    def sandbox(self) -> tuple[Script, Appended]:
        script = Script(new_id("sbx"), new_id("tsk"), began=utc_now())
        self.neighbours.works_on(script)
        return script, Appended(self.bus, script)

    async def records(self, script: Script) -> list[GuardianRecord]:
        records, _ = await self.logs.records(script.sandbox_id)
        return records

    async def kinds(self, script: Script) -> list[str]:
        return [record.kind for record in await self.records(script)]

    async def report(self, script: Script) -> GuardianReport:
        return await self.asked(GetReport(task_id=script.task_id))

    async def told(self, script: Script) -> list[GuardianTold]:
        subject = f"guardian.event.*.{script.task_id}"
        return [decode(each.body, GuardianTold) async for each in MessageStore(self.bus).replay("GUARDIAN", subject)]

    async def until(self, holds: Callable[[], Awaitable[bool]], *, wait_s: float = 60) -> None:
        try:
            await eventually(lambda: _quietly(holds), within_s=wait_s)
        except AssertionError:
            raise AssertionError(f"still false after {wait_s} s; the guardian's log:\n{self.guardian.said()}") from None

    async def until_kinds(self, script: Script, *wanted: str) -> None:
        async def there() -> bool:
            return set(wanted) <= set(await self.kinds(script))

        await self.until(there)

    async def until_all_acknowledged(self, script: Script) -> None:
        """Wait until all frames of the partition are acknowledged, so that the next guardian receives none again."""
        part = partition(script.sandbox_id)

        async def there() -> bool:
            named = f"CONSUMER.INFO.{log_stream(part)}.guardian-{part}"
            standing = decode(await jetstream(self.bus, named, {}), _Standing)
            return standing.num_pending == standing.num_ack_pending == 0

        await self.until(there)

    async def asked[R](self, command: Command[R]) -> R:
        """Send a command and return the reply; retry until a guardian has started and become leader."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.bus.request(command)
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def assert_folds_again(self, script: Script) -> None:
        """Assert invariant I9, and that each decision was published exactly once."""
        records = await assert_folds_again(self.logs, script.sandbox_id)
        decided = [read_decision(one).id for one in records if one.role == "decision"]
        assert len(set(decided)) == len(decided)
        assert sorted(told.event_id for told in await self.told(script)) == sorted(decided)


async def _quietly(holds: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await holds()
    except Unavailable:  # The guardian has not created the stream yet.
        return False


@asynccontextmanager
async def world(url: str, log: Path, env: dict[str, str] = QUICK) -> AsyncGenerator[World]:
    async with open_bus(url, "test") as bus:
        await ensure_streams(bus)
        neighbours, guardian = NeighboursDouble(bus), Guardian(url, log, env)
        async with neighbours.gateway, neighbours.manager:
            await guardian.start()
            try:
                yield World(bus, neighbours, guardian)
            finally:
                await guardian.end(signal.SIGKILL)


@asynccontextmanager
async def words(world: World) -> AsyncGenerator[None]:
    """Publish the heartbeat of a gateway every 0.2 s, until the end of the block."""

    async def say() -> None:
        while True:
            await world.neighbours.alive()
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as tasks:
        saying = tasks.create_task(say())
        yield
        saying.cancel()


async def assert_folds_again(logs: GuardianLogs, sandbox_id: str) -> list[GuardianRecord]:
    """Assert invariant I9: a new fold of sandbox log and guardian's log gives the same records, byte by byte."""
    records, _ = await logs.records(sandbox_id)
    refold = Refold(sandbox_id, records)
    async for frame, position in logs.frames(sandbox_id):
        refold.frame(frame, position)
    refold.end()
    assert [encode(one) for one in refold.folded] == [encode(one) for one in records]
    return records


def unfoldable() -> list[GuardianRecord]:
    """Return records that make the fold raise an arithmetic error, which no contract allows, like a bug."""
    return [
        GuardianRecord(
            n=n,
            after_seq=1,
            after_position=0,
            at=BEGAN,
            kind=said.KIND,
            role="input",
            guardian_epoch=1,
            body=msgspec.Raw(encode(said)),
        )
        for n, said in enumerate(
            (
                Policy(message_ttl_s=1e300),
                SteerRequested(message_id=new_id("msg"), text="x", sender="ada", urgent=False),
            ),
            1,
        )
    ]


async def play_to_the_end(world: World, script: Script, log: Appended, *, pause_s: float = 0.0) -> str:
    """Play an agent that repeats a command, receives a steering message, changes its course and finishes.

    Returns the id of the message."""
    for number in range(4):
        script.step("pytest -q", f"1 failed in 0.{number}s")
        await log.flush()
        await asyncio.sleep(pause_s)

    async def sent() -> bool:
        return any(one.sandbox_id == script.sandbox_id for one in world.neighbours.sent)

    await world.until(sent)
    message_id = next(one.message_id for one in world.neighbours.sent if one.sandbox_id == script.sandbox_id)
    for go_on in (
        lambda: script.says(f"muster:{message_id}"),
        lambda: script.seen(message_id),
        lambda: script.step("cat setup.py", "import x"),
        script.finished,
    ):
        go_on()
        await log.flush()
        await asyncio.sleep(pause_s)
    return message_id
