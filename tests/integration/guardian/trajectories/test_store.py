"""Folds of real logs: frames that another leader received, and writers with an old revision."""

import asyncio

import pytest

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import Frame, log_subject, partition
from muster.common.ids import new_id
from muster.guardian.journal.domain.inputs import Policy, SteerRequested
from muster.guardian.journal.store import GUARDIAN, GuardianLogs
from muster.guardian.trajectories.reconcilers import LogFollower
from muster.guardian.trajectories.store import Deposed, TrajectoryStore
from tests.support.eventually import eventually
from tests.support.guardian import Appended, assert_folds_again, unfoldable
from tests.support.sandbox_script import BEGAN, Script
from tests.support.servers import Restartable
from tests.support.streams import ensure_streams


async def logged(bus: Bus) -> tuple[Script, Appended]:
    await ensure_streams(bus)
    await ensure_stream(bus, GUARDIAN)
    script = Script(new_id("sbx"), new_id("tsk"))
    log = Appended(bus, script)
    await log.flush()
    return script, log


def courses(bus: Bus, *, epoch: int = 1) -> TrajectoryStore:
    return TrajectoryStore(GuardianLogs(bus), guardian_epoch=epoch, policy=Policy(), now=lambda: BEGAN)


async def placed(bus: Bus, script: Script) -> list[tuple[Frame, int]]:
    return [each async for each in GuardianLogs(bus).frames(script.sandbox_id)]


def steering(message_id: str) -> SteerRequested:
    return SteerRequested(message_id=message_id, text="t", sender="ada", urgent=False)


async def refolded(bus: Bus, script: Script) -> list[str]:
    return [one.kind for one in await assert_folds_again(GuardianLogs(bus), script.sandbox_id)]


async def test_frame_without_events_delivered_to_a_stopped_leader_is_not_skipped(
    nats_server: Restartable,
) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        script, log = await logged(bus)
        mine = courses(bus)
        await mine.load(script.sandbox_id)
        await mine.add_input(script.sandbox_id, lambda _: steering("msg_a"))
        script.says("muster:msg_a").seen("msg_a").step("ls", "a")
        await log.flush()
        _, said, seen, acted, observed = await placed(bus, script)

        await mine.take(*said, run=said[1])
        await mine.take(*acted, run=acted[1])  # `seen` was delivered to another guardian, which was stopped.
        await mine.take(*seen, run=acted[1])  # The frame is redelivered.
        await mine.take(*observed, run=acted[1])

        assert (await refolded(bus, script))[-3:] == ["delivered", "seen", "outcome"]


class NobodyListens:
    """A listener that ignores all frames."""

    def frame(self, frame: Frame) -> None:
        """Ignore a frame."""


async def test_log_that_cannot_be_folded_does_not_block_its_partition(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        broken, broken_log = await logged(bus)
        part = partition(broken.sandbox_id)
        healthy_id = next(one for one in iter(lambda: new_id("sbx"), "") if partition(one) == part)
        healthy = Script(healthy_id, new_id("tsk"))
        logs, last = GuardianLogs(bus), 0
        for record in unfoldable():
            last = await logs.append(broken.sandbox_id, record, last=last)
        for _ in range(10):
            broken.step("make", "error")
            healthy.step("make", "error")
        await broken_log.flush()
        for frame in healthy.frames:
            await bus.call(log_subject(healthy_id), encode(frame), timeout_s=5)

        watch = LogFollower(bus, courses(bus), NobodyListens(), lambda: True)
        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.consumers()[f"guardian-{part}"].run())
            await eventually(
                lambda: logs.records(healthy_id), lambda found: "finding" in [record.kind for record in found[0]]
            )
            watching.cancel()
        buried = [each async for each in MessageStore(bus).replay("DEAD_LETTERS", "deadletter.*")]

        assert len(buried) == len(broken.frames), "none is lost"


async def test_writer_with_an_old_revision_reads_again_and_a_former_leader_writes_nothing(
    nats_server: Restartable,
) -> None:
    async with open_bus(nats_server.url, "test") as bus:
        script, log = await logged(bus)
        old, new = courses(bus, epoch=1), courses(bus, epoch=2)
        await old.load(script.sandbox_id)
        await new.add_input(script.sandbox_id, lambda _: steering("msg_new"))
        with pytest.raises(Deposed):
            await old.add_input(script.sandbox_id, lambda _: steering("msg_old"))
        for number in range(4):
            script.step("make", f"error after {number}s")
        await log.flush()
        for frame, position in await placed(bus, script):
            with pytest.raises(Deposed):
                await old.take(frame, position, run=1)
            await new.take(frame, position, run=1)

        kinds = await refolded(bus, script)
        assert kinds == ["policy", "steer_requested", "issued", "finding", "issued"]
