"""The NATS role `forensics` reads and replays every stream with nats-py, and can do nothing else. The server is real."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import nats
import pytest
from nats.aio.client import Client
from nats.js.client import JetStreamContext

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import stream_state
from muster.common.nats_identity.roles import NatsRole
from tests.support.house import ROOT
from tests.support.identity import IdentityServer, probing
from tests.support.patience import PATIENCE_S
from tests.support.streams import STREAMS, ensure_streams

EVIDENCE = {
    "SANDBOX_LOG_00": "sandbox.00.sbx_1.log",
    "TASKS": "task.tsk_1.event.queued",
    "GUARDIAN": "guardian.log.sbx_1",
    "AUDIT": "audit.guardian.steer",
    "MODEL_CALLS": "sandbox.00.sbx_1.model",
}
CHANGES = (
    *(f"$JS.API.STREAM.{verb}.TASKS" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT")),
    *("$JS.API.STREAM.RESTORE.TASKS", "$JS.API.CONSUMER.CREATE.TASKS", "$JS.API.CONSUMER.CREATE.TASKS.mine"),
    *("$JS.API.CONSUMER.CREATE.TASKS.mine.task.*.event.*", "$JS.API.CONSUMER.DURABLE.CREATE.TASKS.mine"),
    *("$JS.API.CONSUMER.DELETE.TASKS.mine", "$JS.API.CONSUMER.MSG.NEXT.TASKS.mine", "$JS.ACK.TASKS.mine.1.1.1.1.1"),
    *("task.manager.query.get", "task.manager.command.submit", "agent.manager.command.stop", "$SRV.PING"),
    *("$SYS.REQ.CLAIMS.UPDATE", "$KV.fence.sbx_1", "_INBOX.admin.x", *EVIDENCE.values()),
)


@pytest.fixture
async def admin(own_identity_server: IdentityServer) -> AsyncIterator[Bus]:
    async with own_identity_server.bus(NatsRole.ADMIN) as bus:
        await ensure_streams(bus, *(spec.name for spec in STREAMS))
        for subject in EVIDENCE.values():
            for number in range(3):
                await MessageStore(bus).store_raw(subject, b"%d" % number, {"Nats-Msg-Id": f"{subject}{number}"})
        yield bus


@pytest.fixture
async def reader(own_identity_server: IdentityServer, tmp_path: Path) -> AsyncIterator[Client]:
    credentials = tmp_path / "forensics.creds"
    credentials.write_text(own_identity_server.credentials(NatsRole.FORENSICS))
    connect = cast("Any", nats).connect  # The types of nats-py are incomplete.
    client = await connect(
        own_identity_server.url,
        user_credentials=str(credentials),
        inbox_prefix=b"_INBOX.forensics",
        allow_reconnect=False,
    )
    yield client
    await client.close()


@pytest.mark.usefixtures("admin")
async def test_every_stream_is_listed_and_read_message_by_message_with_nats_py(reader: Client) -> None:
    streams: JetStreamContext = cast("Any", reader).jetstream()
    names = json.loads((await reader.request("$JS.API.STREAM.NAMES", b"", timeout=PATIENCE_S)).data)["streams"]
    assert {spec.name for spec in STREAMS} <= set(names)

    for stream, subject in EVIDENCE.items():
        state = (await streams.stream_info(stream)).state
        last = await streams.get_last_msg(stream, subject, direct=True)
        assert (last.data, state.messages >= 3) == (b"2", True)
        first = await streams.get_msg(stream, seq=1, subject=subject, direct=True, next=True)
        assert (first.subject, first.data) == (subject, b"0")
        assert (await streams.get_msg(stream, seq=first.seq)).data == b"0"


@pytest.mark.usefixtures("admin")
async def test_documented_program_replays_every_evidence_stream(reader: Client) -> None:
    page = (ROOT / "docs" / "forensics.md").read_text()
    program: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0].partition("async def main")[0], program)

    for stream, subject in EVIDENCE.items():
        found = [message async for message in program["replay"](reader, stream) if message.subject == subject]
        assert [message.data for message in found] == [b"0", b"1", b"2"]
        assert [message.seq for message in found] == sorted(message.seq for message in found)


async def test_every_request_that_changes_something_is_refused(own_identity_server: IdentityServer) -> None:
    async with probing(own_identity_server.url, own_identity_server.credentials(NatsRole.FORENSICS)) as probe:
        assert await probe.refused_publishing(CHANGES) == set(CHANGES)
        heard = {"task.>", "stored.>", ">", "_INBOX.>", "_INBOX.admin.>", "$JS.EVENT.>", "agent.manager.command.stop"}
        assert await probe.refused_hearing(heard) == heard


async def test_reply_of_the_server_reaches_no_stream_and_no_service(admin: Bus, reader: Client) -> None:
    """The server sends a reply to any subject that a request names, also to subjects that its sender may not use."""
    before = (await stream_state(admin, "TASKS")).last_seq

    await reader.publish("$JS.API.DIRECT.GET.AUDIT", b'{"seq":1}', reply="task.tsk_1.event.forged")
    await reader.publish("$JS.API.STREAM.INFO.AUDIT", b"", reply="task.tsk_1.event.forged")
    await reader.request("$JS.API.STREAM.INFO.AUDIT", b"", timeout=PATIENCE_S)

    assert (await stream_state(admin, "TASKS")).last_seq == before
