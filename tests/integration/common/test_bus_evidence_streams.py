"""No role, not even the administrator, can delete or purge messages of an evidence stream. The server is real."""

import msgspec
import pytest

from muster.common.bus.audit_trail import AUDIT
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import JetStreamRefusal, StreamSpec, ensure_stream, jetstream, stream_state
from muster.common.nats_identity.roles import NatsRole
from muster.guardian.journal.store import GUARDIAN
from muster.sandbox_gateway.streams import MODEL_CALLS, specs
from tests.support.identity import IdentityServer

LOGS = [spec for spec in specs(-1) if spec.name.startswith("SANDBOX_LOG_")]
MODEL_CALLS_SPEC = next(spec for spec in specs(-1) if spec.name == MODEL_CALLS)
EVIDENCE = [*LOGS, GUARDIAN, AUDIT, MODEL_CALLS_SPEC]
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


async def test_nobody_deletes_or_purges_messages_of_an_evidence_stream_made_before_or_now(
    own_identity_server: IdentityServer,
) -> None:
    async with own_identity_server.bus(NatsRole.ADMIN) as admin:
        old = (LOGS[0], GUARDIAN, MODEL_CALLS_SPEC, AUDIT)
        for spec in old:
            await made_as_before(admin, spec)
        for spec in EVIDENCE:
            await ensure_stream(admin, spec)
            for body in ({"seq": 1}, {"seq": 1, "no_erase": True}):
                assert await refusal(admin, f"STREAM.MSG.DELETE.{spec.name}", body) == DELETE_NOT_PERMITTED
            for body in ({}, {"filter": spec.subjects[0]}, {"keep": 0}):
                assert await refusal(admin, f"STREAM.PURGE.{spec.name}", body) == PURGE_NOT_PERMITTED
            for flag in ("deny_delete", "deny_purge"):
                with pytest.raises(JetStreamRefusal):
                    await jetstream(admin, f"STREAM.UPDATE.{spec.name}", spec.config() | {flag: False})
            await ensure_stream(admin, spec)  # A second start of the owner changes nothing.
        kept = [(await stream_state(admin, spec.name)).messages for spec in old]

    assert len(LOGS) == 16
    assert kept == [1, 1, 1, 1]


async def test_stream_with_stricter_settings_than_requested_is_accepted(
    own_identity_server: IdentityServer,
) -> None:
    """The server never removes a denied right from a stream, so an update that requests this would always fail."""
    async with (
        own_identity_server.bus(NatsRole.ADMIN) as admin,
        own_identity_server.bus(NatsRole.SANDBOX_GATEWAY) as owner,
    ):
        await made_as_before(admin, LOGS[0], deny_purge=True)
        laxer = msgspec.structs.replace(LOGS[0], deny_purge=False)
        await ensure_stream(owner, laxer)
        assert await refusal(admin, f"STREAM.PURGE.{laxer.name}", {}) == PURGE_NOT_PERMITTED
        assert await refusal(admin, f"STREAM.MSG.DELETE.{laxer.name}", {"seq": 1}) == DELETE_NOT_PERMITTED
