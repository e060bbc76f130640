"""GatewayClient, outbox and inbox with a small real HTTP server as the gateway."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.exit_codes import EpochFenced, Rejected
from muster.agent.gateway_client import GatewayClient
from muster.agent.outbox import Diverged, Outbox
from muster.common.clock import utc_now
from muster.common.contracts.sandbox_log import ClippedBody, LoggedEvent
from tests.support.doors_double import Doors, handoff_for


class Listed:
    """A source of events in memory."""

    def __init__(self, *bodies: object) -> None:
        self.bodies = list(bodies)

    def count(self) -> int:
        return len(self.bodies)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        return [
            LoggedEvent(
                seq=index + 1,
                event_id=f"evt_{index}",
                kind="MessageEvent",
                at=utc_now(),
                source="agent",
                body=msgspec.Raw(msgspec.json.encode(body)),
            )
            for index, body in enumerate(self.bodies[start : start + limit], start)
        ]


@pytest.fixture
def doors() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    doors.stop()


def outbox(source: Listed, link: GatewayClient, folder: Path) -> Outbox:
    return Outbox(source, link, AutoResetEvent(), epoch=1, cursor=folder / "cursor")


async def test_wrong_cursor_is_corrected_from_the_log(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        source = Listed(*range(10))
        (tmp_path / "cursor").write_text("7")  # The cursor is from an earlier disk, or the log was lost.
        await outbox(source, link, tmp_path).drain()
        assert [event.seq for event in doors.events] == list(range(1, 11))
        (tmp_path / "cursor").write_text("2")
        await outbox(source, link, tmp_path).drain()
        assert len(doors.events) == 10
        assert (tmp_path / "cursor").read_text() == "10"


async def test_worker_whose_disk_has_fewer_events_than_the_log_sends_nothing(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        await outbox(Listed(*range(5)), link, tmp_path).drain()
        with pytest.raises(Diverged):
            (tmp_path / "cursor").unlink()
            await outbox(Listed("other"), link, tmp_path).drain()


async def test_posts_stay_below_the_frame_and_a_huge_body_is_uploaded(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        await outbox(Listed(*["x" * 300_000] * 7, "y" * 600_000), link, tmp_path).drain()
    assert doors.posts == [3, 3, 2]
    clip = msgspec.json.decode(bytes(doors.events[-1].body), type=ClippedBody)
    assert (clip.size, clip.head[:3], clip.tail[-2:], clip.why) == (600_002, '"yy', 'y"', "")
    assert doors.payloads == [b'"' + b"y" * 600_000 + b'"']
    assert doors.events[-1].payload == clip.sha256


async def test_huge_body_is_clipped_by_a_gateway_without_the_upload(doors: Doors, tmp_path: Path) -> None:
    doors.keeps_payloads = False
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        await outbox(Listed("y" * 600_000, "z"), link, tmp_path).drain()
    clip = msgspec.json.decode(bytes(doors.events[0].body), type=ClippedBody)
    assert (len(doors.events), doors.events[0].payload, clip.size) == (2, None, 600_002)
    assert clip.why


async def test_huge_body_is_clipped_if_its_upload_is_too_slow_several_times(doors: Doors, tmp_path: Path) -> None:
    doors.slow_uploads = 9
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        await outbox(Listed("y" * 600_000, "z"), link, tmp_path).drain()
    clip = msgspec.json.decode(bytes(doors.events[0].body), type=ClippedBody)
    assert (len(doors.events), doors.events[0].payload, clip.size, doors.slow_uploads) == (2, None, 600_002, 6)
    assert "408" in clip.why


async def test_outbox_waits_as_long_as_retry_after_says(doors: Doors, tmp_path: Path) -> None:
    doors.refuse_next = [(503, {"Retry-After": "1"}), (500, {}), (429, {}), (408, {})]
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        began = time.monotonic()
        await outbox(Listed("a"), link, tmp_path).drain()
        assert time.monotonic() - began >= 1
    assert len(doors.events) == 1


async def test_nothing_is_sent_after_a_410_response(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:
        doors.fenced = True
        for _ in range(3):
            with pytest.raises(EpochFenced):
                await link.inbox(0, 0)
            with pytest.raises(EpochFenced):
                await link.complete({})
        assert len(doors.after_fence) == 1


async def test_permanent_refusal_contains_its_reason(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path, sandbox_id="sbx_other")) as link:
        with pytest.raises(Rejected, match="404"):
            await link.inbox(0, 0)


async def test_fence_ends_a_waiting_inbox_poll(doors: Doors, tmp_path: Path) -> None:
    async with GatewayClient(handoff_for(doors, doors.start(), tmp_path)) as link:

        async def fence() -> None:
            await asyncio.sleep(0.1)
            with doors.changed:
                doors.fenced = True
                doors.changed.notify_all()

        with pytest.raises(ExceptionGroup) as ended:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fence())
                await link.inbox(0, 20)
        assert ended.group_contains(EpochFenced)
