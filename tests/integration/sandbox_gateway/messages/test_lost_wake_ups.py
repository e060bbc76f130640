"""A waiting worker gets a message although the wake-up for the message was lost."""

import asyncio
from datetime import timedelta

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.contracts.gateway import SendMessage
from muster.common.ids import new_id
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.messages.store.notifier import EMPTY_S, InboxNotifier
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.streams import ensure_streams


async def test_only_sandboxes_with_a_stored_message_are_woken_after_a_lost_wake_up(nats_url: str) -> None:
    async with open_bus(nats_url, "test") as bus:
        await ensure_streams(bus)
        notifier, steered, other = InboxNotifier(bus, look_again_s=0.02), new_id("sbx"), new_id("sbx")
        running = asyncio.create_task(notifier.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await notifier.next_message(steered).wait()  # The first look wakes every sandbox.
                waiting, idle = notifier.next_message(steered), notifier.next_message(other)
                for _ in range(2):
                    await InboxStore(bus).put(message(steered))  # As a gateway that dies before it wakes anybody.
                    await waiting.wait()
                    waiting = notifier.next_message(steered)
            assert not idle.is_set()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_an_empty_inbox_is_read_again_after_a_wake_up_or_a_lost_one(nats_url: str) -> None:
    async with open_bus(nats_url, "test") as bus:
        await ensure_streams(bus)
        now_s = [0.0]
        notifier = InboxNotifier(bus, look_again_s=0.02, now_s=lambda: now_s[0])
        inbox, sandbox_id = InboxStore(bus), new_id("sbx")

        def empty() -> None:
            notifier.note_empty(sandbox_id, 0, notifier.next_message(sandbox_id))
            assert notifier.is_empty(sandbox_id, 0)
            assert not notifier.is_empty(sandbox_id, 1)

        running = asyncio.create_task(notifier.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await notifier.next_message(sandbox_id).wait()  # The first look wakes every sandbox.
            empty()
            await notifier.wake_everywhere(sandbox_id)
            await eventually(lambda: not notifier.is_empty(sandbox_id, 0))
            empty()
            await inbox.put(message(sandbox_id))  # As a gateway that dies before it wakes anybody.
            await eventually(lambda: not notifier.is_empty(sandbox_id, 0))
            during = notifier.next_message(sandbox_id)
            notifier.wake(sandbox_id)
            notifier.note_empty(sandbox_id, 0, during)
            assert not notifier.is_empty(sandbox_id, 0)
            empty()
            now_s[0] += EMPTY_S
            assert not notifier.is_empty(sandbox_id, 0)
        finally:
            running.cancel()
            await asyncio.wait([running])


def message(sandbox_id: str) -> SendMessage:
    expires_at = utc_now() + timedelta(hours=1)
    return SendMessage(
        sandbox_id=sandbox_id, message_id=new_id("msg"), epoch=1, text="go on", sender="x", expires_at=expires_at
    )
