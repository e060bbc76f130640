"""Bodies over 512 KiB: uploaded, kept whole without secrets, and referred to by events of their own sandbox only."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.gateway_client import GatewayClient
from muster.agent.outbox import Outbox
from muster.common.bus.objects import ObjectBucket
from muster.common.clock import utc_now
from muster.common.contract import decode, encode
from muster.common.contracts.gateway import FenceSandbox, VerifySandbox
from muster.common.contracts.sandbox_log import PAYLOADS, ClippedBody, LoggedEvent, payload_name
from muster.common.contracts.worker_api import MAX_PAYLOAD_BYTES, Handoff, PostEvents
from muster.sandbox_gateway.sandbox_log.domain.frames import LogOwner
from muster.sandbox_gateway.sandbox_log.store.payloads import NotKept, PayloadStore
from tests.support.gateway import Stack, without_shim

SECRET = "ghp_" + "a1B2" * 10
MIB = 1 << 20


@pytest.fixture
async def stack(tmp_path: Path, nats_url: str) -> AsyncGenerator[Stack]:
    async with without_shim(tmp_path, nats_url) as stack:
        yield stack


class Written:
    """The events on a worker's disk."""

    def __init__(self, *bodies: object) -> None:
        self.bodies = [encode(body) for body in bodies]

    def count(self) -> int:
        return len(self.bodies)

    def read(self, start: int, limit: int) -> list[LoggedEvent]:
        return [event(index + 1, body) for index, body in enumerate(self.bodies[start : start + limit], start)]


def event(seq: int, body: bytes, payload: str | None = None) -> LoggedEvent:
    return LoggedEvent(
        seq=seq,
        event_id=f"evt_{seq}",
        kind="ObservationEvent",
        at=utc_now(),
        source="agent",
        body=msgspec.Raw(body),
        payload=payload,
    )


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def text(size: int, *, secret: str = "") -> bytes:
    return encode({"content": "y" * size + f" {secret} "})


def path_of(owner: LogOwner, what: str) -> str:
    return f"/v1/sandboxes/{owner.sandbox_id}/{what}"


async def upload(
    stack: Stack, owner: LogOwner, token: str, body: bytes, sha256: str = ""
) -> tuple[int, dict[str, Any]]:
    path = path_of(owner, f"payloads/{sha256 or digest(body)}")
    return (await stack.call("PUT", path, body, token=token))[:2]


async def begun(
    stack: Stack, owner: LogOwner, token: str, sha256: str, size: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the head of an upload, whose body the test sends itself."""
    reader, writer = await asyncio.open_unix_connection(stack.socket)
    writer.write(
        f"PUT {path_of(owner, f'payloads/{sha256}')} HTTP/1.1\r\nhost: gateway\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: {size}\r\n\r\n".encode()
    )
    await writer.drain()
    return reader, writer


async def post(stack: Stack, owner: LogOwner, token: str, *events: LoggedEvent) -> tuple[int, dict[str, Any]]:
    return (await stack.call("POST", path_of(owner, "events"), PostEvents(epoch=1, events=[*events]), token=token))[:2]


async def logged(stack: Stack, owner: LogOwner) -> list[LoggedEvent]:
    return [event for frame in await stack.frames(owner.sandbox_id) for event in frame.events]


async def whole(stack: Stack, owner: LogOwner, sha256: str) -> bytes | None:
    bucket = ObjectBucket(stack.bus, PAYLOADS)
    record = await bucket.find(payload_name(owner.sandbox_id, sha256))
    return None if record is None else b"".join([piece async for piece in bucket.read(record)])


def worker(stack: Stack, owner: LogOwner, token: str, folder: Path) -> GatewayClient:
    return GatewayClient(
        Handoff(
            gateway_url="http://gateway",
            gateway_socket=str(stack.socket),
            token=token,
            sandbox_id=owner.sandbox_id,
            task_id=owner.task_id,
            agent_id=owner.agent_id,
            epoch=1,
            conversation_id="cnv_1",
            package="echo",
            model="scripted/hello",
            objective="Say hello.",
            workspace=str(folder),
            state_dir=str(folder),
        )
    )


async def test_worker_sends_a_large_body_whole_and_the_log_refers_to_it(stack: Stack, tmp_path: Path) -> None:
    owner, token = await stack.born()
    source = Written("small", {"content": "z" * (3 * MIB)}, {"content": "w" * MIB + SECRET}, "last")
    async with worker(stack, owner, token, tmp_path) as gateway:
        outbox = Outbox(source, gateway, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor")
        await outbox.drain()
        # A worker that died before it noted the answers sends everything again.
        (tmp_path / "cursor").unlink()
        await Outbox(source, gateway, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor").drain()
    found = await logged(stack, owner)
    assert [event.seq for event in found] == [1, 2, 3, 4]
    assert [event.payload is None for event in found] == [True, False, False, True]

    large, secret = (decode(bytes(event.body), ClippedBody) for event in found[1:3])
    assert (large.sha256, large.size, large.redacted, large.why) == (
        digest(source.bodies[1]),
        len(source.bodies[1]),
        False,
        "",
    )
    assert found[1].payload == large.sha256
    assert await whole(stack, owner, large.sha256) == source.bodies[1]
    kept = await whole(stack, owner, found[2].payload or "")
    assert kept is not None
    assert kept == source.bodies[2].replace(SECRET.encode(), b"[redacted: github token]")
    assert (secret.sha256, secret.size, secret.redacted) == (digest(kept), len(kept), True)
    assert secret.sha256 != digest(source.bodies[2])
    assert SECRET not in secret.tail

    verdict = await stack.bus.request(VerifySandbox(sandbox_id=owner.sandbox_id))
    assert (verdict.ok, verdict.payloads, verdict.events) == (True, 2, 4)


async def test_upload_that_is_cut_wrong_small_no_json_or_of_an_ended_epoch_stores_nothing(stack: Stack) -> None:
    owner, token = await stack.born()
    body = text(MIB)
    cut, writer = await begun(stack, owner, token, digest(body), len(body))
    writer.write(body[: len(body) // 2])
    await writer.drain()
    writer.close()
    assert await cut.read() == b""
    assert (await upload(stack, owner, token, body, digest(b"other")))[0] == 422
    assert (await upload(stack, owner, token, text(10)))[0] == 422
    assert (await upload(stack, owner, token, b"{" + b"x" * MIB))[0] == 422
    assert (await upload(stack, owner, token, b'"\xff' + b"x" * MIB + b'"'))[0] == 422
    assert (await upload(stack, owner, token, body, "../../x"))[0] == 404
    assert (await upload(stack, owner, token, body, "x" * 64))[0] == 422
    assert await ObjectBucket(stack.bus, PAYLOADS).size_below(owner.sandbox_id) == 0
    assert (await upload(stack, owner, token, body))[0] == 201
    await stack.bus.request(
        FenceSandbox(
            sandbox_id=owner.sandbox_id, task_id=owner.task_id, agent_id=owner.agent_id, epoch=1, reason="replaced"
        )
    )
    assert (await upload(stack, owner, token, text(MIB + 1)))[0] == 410
    assert await ObjectBucket(stack.bus, PAYLOADS).size_below(owner.sandbox_id) < 2 * MIB


async def test_event_refers_only_to_a_payload_that_its_own_sandbox_has_uploaded(stack: Stack) -> None:
    (owner, token), (other, others_token) = await stack.born(), await stack.born()
    body = text(MIB, secret=SECRET)
    status, kept = await upload(stack, owner, token, body)
    assert status == 201
    stored = kept["sha256"]
    lie = encode(ClippedBody(head="a", tail="b", size=5, sha256="0" * 64, redacted=False, why="none"))

    status, refused = await post(stack, other, others_token, event(1, lie, stored))
    assert (status, refused["field"]) == (422, "$.events[0].payload")
    status, refused = await post(stack, owner, token, event(1, lie, digest(body)))
    assert (status, refused["field"]) == (422, "$.events[0].payload"), "the unredacted bytes are not stored"
    status, refused = await post(stack, owner, token, event(1, b'"x"', stored))
    assert (status, refused["field"]) == (422, "$.events[0].body")
    status, _ = await post(stack, owner, token, event(1, lie, "x"))
    assert status == 422
    assert (await upload(stack, owner, others_token, body))[0] == 401
    assert (await post(stack, owner, token, *(event(seq, lie, stored) for seq in range(1, 18))))[0] == 413

    assert (await post(stack, owner, token, event(1, lie, stored)))[0] == 202
    (found,) = await logged(stack, owner)
    told = decode(bytes(found.body), ClippedBody)
    assert (told.sha256, told.size, told.redacted, told.why) == (stored, kept["size"], True, "")


async def test_bound_of_all_bodies_reserves_no_space_on_the_disk_of_nats(stack: Stack) -> None:
    store = PayloadStore(stack.bus, max_bytes=1 << 50, sandbox_max_bytes=1 << 50)
    await store.ensure()
    await store.check_room("sbx_new", MIB)


async def test_body_over_a_bound_is_clipped_and_the_event_says_why(tmp_path: Path, nats_url: str) -> None:
    async with without_shim(tmp_path, nats_url, MUSTER_PAYLOADS_SANDBOX_MAX_BYTES=str(3 * MIB)) as stack:
        full = PayloadStore(stack.bus, max_bytes=MIB, sandbox_max_bytes=3 * MIB)
        with pytest.raises(NotKept, match="MUSTER_PAYLOADS_MAX_BYTES"):
            await full.check_room("sbx_new", MIB)
        owner, token = await stack.born()
        source = Written("a" * (2 * MIB), "b" * (2 * MIB), "c" * (MIB // 2 + MIB // 4))
        async with worker(stack, owner, token, tmp_path) as gateway:
            await Outbox(source, gateway, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor").drain()
        told = [
            (event.payload is not None, decode(bytes(event.body), ClippedBody)) for event in await logged(stack, owner)
        ]
        assert [kept for kept, _ in told] == [True, False, True]
        assert "MUSTER_PAYLOADS_SANDBOX_MAX_BYTES" in told[1][1].why
        assert told[1][1].sha256 == digest(source.bodies[1])
        assert (await upload(stack, owner, token, source.bodies[0]))[0] == 201, "a stored body may be sent again"
        reader, writer = await begun(stack, owner, token, "0" * 64, MAX_PAYLOAD_BYTES + 1)
        assert b" 413 " in await reader.readline()
        writer.close()


@pytest.mark.stress
async def test_largest_body_is_kept_within_the_memory_of_the_gateway(stack: Stack, tmp_path: Path) -> None:
    owner, token = await stack.born()
    large = Written("x" * (MAX_PAYLOAD_BYTES - 1_000) + SECRET, "y" * MAX_PAYLOAD_BYTES)
    async with worker(stack, owner, token, tmp_path) as gateway:
        await Outbox(large, gateway, AutoResetEvent(), epoch=1, cursor=tmp_path / "cursor").drain()
    kept, over = await logged(stack, owner)
    assert await whole(stack, owner, kept.payload or "") == large.bodies[0].replace(
        SECRET.encode(), b"[redacted: github token]"
    )
    assert (over.payload, decode(bytes(over.body), ClippedBody).why[-14:]) == (None, "exceeds 64 MiB")
    assert (await stack.bus.request(VerifySandbox(sandbox_id=owner.sandbox_id), timeout_s=60)).ok
    assert stack.gateway is not None
    status = Path(f"/proc/{stack.gateway.pid}/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kb < 700 << 10
