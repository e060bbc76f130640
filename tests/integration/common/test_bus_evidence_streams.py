"""No role, not even the administrator, can delete a message of an evidence stream. The server is real."""

import pytest

from muster.common.bus.audit_trail import AUDIT
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import JetStreamRefusal, StreamSpec, ensure_stream, jetstream, stream_state
from muster.common.nats_identity.roles import NatsRole
from muster.guardian.journal.store import GUARDIAN
from muster.sandbox_gateway.streams import specs
from tests.support.identity import IdentityServer

LOGS = [spec for spec in specs(-1) if spec.name.startswith("SANDBOX_LOG_")]
EVIDENCE = [*LOGS, GUARDIAN, AUDIT]
DELETE_NOT_PERMITTED, PURGE_NOT_PERMITTED = 10057, 10110


async def made_as_before(bus: Bus, spec: StreamSpec, **options: bool) -> str:
    """Create the stream with the options of an older release; return the subject of its only message."""
    subject = spec.subjects[0].replace("*", "sbx_1").replace(">", "x")
    config = spec.config() | {"deny_delete": False, "deny_purge": False} | options
    await jetstream(bus, f"STREAM.CREATE.{spec.name}", config)
    await MessageStore(bus).append(subject, b"evidence", last=0)
    return subject


async def refusal(bus: Bus, verb: str, body: object) -> int:
    with pytest.raises(JetStreamRefusal) as refused:
        await jetstream(bus, verb, body)
    return refused.value.error.err_code


async def test_nobody_deletes_a_message_of_an_evidence_stream_made_before_or_now(
    own_identity_server: IdentityServer,
) -> None:
    async with own_identity_server.bus(NatsRole.ADMIN) as admin:
        await made_as_before(admin, LOGS[0])
        await made_as_before(admin, GUARDIAN)
        for spec in EVIDENCE:
            await ensure_stream(admin, spec)
            for body in ({"seq": 1}, {"seq": 1, "no_erase": True}):
                assert await refusal(admin, f"STREAM.MSG.DELETE.{spec.name}", body) == DELETE_NOT_PERMITTED
            with pytest.raises(JetStreamRefusal):
                await jetstream(admin, f"STREAM.UPDATE.{spec.name}", spec.config() | {"deny_delete": False})
        kept = [(await stream_state(admin, spec.name)).messages for spec in (LOGS[0], GUARDIAN)]

    assert len(LOGS) == 16
    assert kept == [1, 1]


async def test_archive_role_may_purge_sandbox_logs_and_no_role_the_audit(own_identity_server: IdentityServer) -> None:
    async with own_identity_server.bus(NatsRole.ADMIN) as admin:
        subject = await made_as_before(admin, LOGS[0])
        await made_as_before(admin, AUDIT)
        for spec in (LOGS[0], AUDIT):
            await ensure_stream(admin, spec)
        await jetstream(admin, f"STREAM.PURGE.{LOGS[0].name}", {"filter": subject})
        assert await refusal(admin, f"STREAM.PURGE.{AUDIT.name}", {"filter": AUDIT.subjects[0]}) == PURGE_NOT_PERMITTED
        assert (await stream_state(admin, LOGS[0].name)).messages == 0
        assert (await stream_state(admin, AUDIT.name)).messages == 1


async def test_stream_with_stricter_settings_than_requested_is_accepted(
    own_identity_server: IdentityServer,
) -> None:
    """The server never removes a denied right from a stream, so an update that requests this would always fail."""
    async with (
        own_identity_server.bus(NatsRole.ADMIN) as admin,
        own_identity_server.bus(NatsRole.SANDBOX_GATEWAY) as owner,
    ):
        await made_as_before(admin, LOGS[0], deny_purge=True)
        await ensure_stream(owner, LOGS[0])
        assert await refusal(admin, f"STREAM.PURGE.{LOGS[0].name}", {}) == PURGE_NOT_PERMITTED
        assert await refusal(admin, f"STREAM.MSG.DELETE.{LOGS[0].name}", {"seq": 1}) == DELETE_NOT_PERMITTED
