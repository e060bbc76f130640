"""A worker continues its task when a hint, a delivery or a diff fails."""

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.exit_codes import EpochFenced
from muster.agent.gateway_client import GatewayClient
from muster.agent.inbox import Inbox
from muster.agent.outbox import Outbox
from muster.agent.workspace import MAX_OUTPUT_BYTES, GitFailed, Workspace
from muster.common.clock import utc_now
from muster.common.contracts.sandbox_log import LoggedEvent
from muster.common.contracts.worker_api import InboxMessage
from tests.support.doors_double import Doors, handoff_for
from tests.support.eventually import eventually


class ThreeEvents:
    """A source of three events in memory."""

    def count(self) -> int:
        return 3

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        return [
            LoggedEvent(
                seq=index + 1,
                event_id=f"evt_{index}",
                kind="MessageEvent",
                at=utc_now(),
                source="agent",
                body=msgspec.Raw(b"{}"),
            )
            for index in range(start, min(start + limit, 3))
        ]


@pytest.fixture
def doors() -> Doors:
    return Doors()


def message(position: int, *, urgent: bool = False) -> InboxMessage:
    return InboxMessage(
        position=position,
        kind="steer",
        message_id=f"msg_{position}",
        text="turn left",
        sender="guardian",
        epoch=1,
        urgent=urgent,
        expires_at=utc_now() + timedelta(hours=1),
    )


async def test_events_are_sent_although_the_cursor_cannot_be_written(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "cursor.new").mkdir()  # Every write fails, as on a full disk.
    try:
        async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
            outbox = Outbox(ThreeEvents(), link, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor")
            await outbox.drain()
            assert outbox.acked == 3
    finally:
        doors.stop()
    assert [event.seq for event in doors.events] == [1, 2, 3]


async def test_outbox_starts_from_the_first_event_when_the_cursor_cannot_be_read(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "cursor").mkdir()
    async with GatewayClient(handoff_for(doors, "http://127.0.0.1:9", tmp_path)) as link:
        assert Outbox(ThreeEvents(), link, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor").acked == 0


@pytest.mark.parametrize("urgent", [False, True])
async def test_failed_delivery_is_not_repeated_and_later_messages_arrive(
    doors: Doors, tmp_path: Path, urgent: bool
) -> None:
    handed: list[str] = []

    async def deliver(told: InboxMessage) -> None:
        handed.append(told.message_id)
        if told.position == 1:
            raise OSError("no space left on device")

    doors.offer(message(1, urgent=urgent))
    try:
        async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
            inbox = Inbox(link, deliver, epoch=1, delivered=set(), now=utc_now)
            running = asyncio.create_task(inbox.run())
            await eventually(lambda: handed == ["msg_1"])
            doors.offer(message(2, urgent=urgent))
            await eventually(lambda: handed == ["msg_1", "msg_2"])
            assert not running.done()
            running.cancel()
            await asyncio.wait([running])
    finally:
        doors.stop()


async def test_fenced_epoch_ends_the_inbox_from_within_a_delivery(doors: Doors, tmp_path: Path) -> None:
    async def deliver(_: InboxMessage) -> None:
        raise EpochFenced("the epoch has ended")

    doors.offer(message(1))
    try:
        async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
            inbox = Inbox(link, deliver, epoch=1, delivered=set(), now=utc_now)
            with pytest.RaisesGroup(EpochFenced):
                await inbox.run()
    finally:
        doors.stop()


async def test_diff_too_large_to_hold_in_memory_is_refused(doors: Doors, tmp_path: Path) -> None:
    handoff = msgspec.structs.replace(
        handoff_for(doors, "http://127.0.0.1:9", tmp_path),
        workspace=str(tmp_path / "tree"),
        state_dir=str(tmp_path / "state"),
    )
    space = Workspace(handoff)
    await space.prepare()
    (tmp_path / "tree" / "log.txt").write_bytes(b"0123456789abcde\n" * (MAX_OUTPUT_BYTES // 16))
    with pytest.raises(GitFailed, match=f"wrote more than {MAX_OUTPUT_BYTES} bytes"):
        await space.diff()
