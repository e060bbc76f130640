"""Records of old sandboxes expire in NATS and in the gateway's memory."""

import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from muster.common.bus.buckets import Bucket
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.streams import jetstream
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.ids import new_id
from muster.sandbox_gateway.messages.store.notifier import InboxNotifier
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandbox_log.store.fences import Fence, FenceStore
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.reconcilers.record_expiry import REWRITE_AFTER, RecordRenewal
from muster.sandbox_gateway.sandboxes.store import KEPT_S, SandboxStore
from muster.shim.client import ShimClient
from tests.support.local_sandboxes import local_sandboxes
from tests.support.sandbox_commands import create_command
from tests.support.servers import Restartable


def record() -> SandboxRecord:
    asked = create_command()
    return SandboxRecord(create=asked, host="h", provider="local", created_at=utc_now())


NOWHERE = Path("/nowhere")
ON_HOST_H = Providers([local_sandboxes(ShimClient(NOWHERE), NOWHERE, gateway_socket=NOWHERE)])


async def max_age(bus: Bus, stream: str) -> timedelta:
    described = decode(await jetstream(bus, f"STREAM.INFO.{stream}"), dict[str, Any])
    return timedelta(seconds=described["config"]["max_age"] / 1e9)


async def test_marker_of_a_deleted_record_expires_after_weeks(nats_server: Restartable) -> None:
    """The server removes the marker by its age, also in a bucket of an older release."""
    async with open_bus(nats_server.url, "sandbox_gateway") as bus:
        await Bucket(bus, "sandboxes", SandboxRecord).ensure()
        assert await max_age(bus, "KV_sandboxes") == timedelta()
        sandboxes, gone = SandboxStore(bus), record()
        await sandboxes.ensure()
        assert await max_age(bus, "KV_sandboxes") == timedelta(seconds=KEPT_S)
        await sandboxes.add(gone)
        await sandboxes.forget(gone.sandbox_id)
        assert await sandboxes.get(gone.sandbox_id) is None


async def test_an_old_record_that_is_needed_is_written_again(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "sandbox_gateway") as bus:
        sandboxes, bucket = SandboxStore(bus), Bucket(bus, "sandboxes", SandboxRecord)
        await sandboxes.ensure()
        old, deleted, others = record(), record(), msgspec.structs.replace(record(), host="other")
        for one in (old, deleted, others):
            await sandboxes.add(one)
        await sandboxes.change(deleted.sandbox_id, lambda now: now.moved("deleted"))
        before = {entry.key: entry for entry in await bucket.entries()}
        fences = FenceStore(bus)
        await RecordRenewal(sandboxes, fences, ON_HOST_H, utc_now).renew_old()
        assert {entry.key: entry for entry in await bucket.entries()} == before
        await RecordRenewal(sandboxes, fences, ON_HOST_H, lambda: utc_now() + REWRITE_AFTER).renew_old()
        after = {entry.key: entry for entry in await bucket.entries()}
        assert [key for key in after if after[key].revision != before[key].revision] == [old.sandbox_id]
        assert after[old.sandbox_id].value == old


async def test_a_fence_is_forgotten_when_its_bucket_drops_it(nats_server: Restartable) -> None:
    async with open_bus(nats_server.url, "sandbox_gateway") as bus:
        fences = FenceStore(bus)
        await fences.ensure()
        old, fresh = new_id("sbx"), new_id("sbx")
        await fences.add(old, Fence(epoch=1, reason="test", at=utc_now() - timedelta(days=31)))
        await fences.add(fresh, Fence(epoch=1, reason="test", at=utc_now()))
        await RecordRenewal(SandboxStore(bus), fences, ON_HOST_H, utc_now).renew_old()
        assert fences.get(old) is None
        assert fences.get(fresh) is not None


async def test_ended_poll_leaves_nothing_in_memory(nats_url: str) -> None:
    async with open_bus(nats_url, "sandbox_gateway") as bus:
        notifier = InboxNotifier(bus)
        first = notifier.next_message("sbx_1")
        assert notifier.next_message("sbx_1") is first
        notifier.wake("sbx_1")
        assert first.is_set()
        waiting = notifier.next_message("sbx_1")
        assert not waiting.is_set()
        seen = weakref.ref(waiting)
        del waiting
        assert seen() is None
        notifier.wake("sbx_1")
