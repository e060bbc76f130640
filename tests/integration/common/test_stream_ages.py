"""Streams that an older release created without an age limit get one at start. The audit table uses the same limit."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr, ValidationError

from muster.agent_manager import service as manager
from muster.agent_manager.database.engine import open_database as open_manager_database
from muster.agent_manager.database.schema import migrate
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.streams import STREAMS
from muster.common.bus.audit_trail import AUDIT
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.bus.streams import ensure_stream, jetstream, stream_state
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.audit import Audited
from muster.common.ids import new_id
from muster.guardian import service as guardian
from muster.guardian.journal.store import GUARDIAN
from muster.guardian.leadership.store import Leadership
from muster.guardian.settings import GuardianSettings
from muster.management_api import service as api
from muster.management_api.audit import store
from muster.management_api.audit.domain import AuditQuery
from muster.management_api.audit.store import AuditTable
from muster.management_api.database.engine import open_database
from muster.management_api.database.schema import HISTORY
from muster.management_api.settings import ApiSettings
from tests.support.servers import Restartable

DAY_NS = 86_400 * 10**9


class Config(msgspec.Struct):
    max_age: int
    deny_purge: bool = False


class Described(msgspec.Struct):
    config: Config


async def config(bus: Bus, stream: str) -> Config:
    return msgspec.json.decode(await jetstream(bus, f"STREAM.INFO.{stream}"), type=Described).config


async def days(bus: Bus, stream: str) -> float:
    return (await config(bus, stream)).max_age / DAY_NS


@pytest.fixture
async def bus(nats_server: Restartable) -> AsyncGenerator[Bus]:
    async with open_bus(nats_server.url, "test") as bus:
        yield bus


async def test_services_limit_the_age_of_existing_streams_and_keep_young_messages(
    bus: Bus, nats_server: Restartable, database_url: str
) -> None:
    for spec in (*STREAMS, GUARDIAN, AUDIT):
        await ensure_stream(bus, spec)
    assert await days(bus, "TASKS") == await days(bus, "GUARDIAN") == await days(bus, "AUDIT") == 0
    await MessageStore(bus).store(entry("young"), "young")
    told: dict[str, Any] = {"nats_url": nats_server.url, "database_url": database_url}

    await migrate(database_url)
    async with open_manager_database(database_url, now=utc_now, new_id=new_id) as database:
        parts = (ManagerSettings(**told), Catalogue())
        await manager._prepare(bus, database, *parts)  # pyright: ignore[reportPrivateUsage]
    await HISTORY.migrate(database_url)
    async with open_database(database_url) as database:
        settings = ApiSettings(**told, admin_key=SecretStr("x" * 16))
        await api._prepare(bus, database, settings)  # pyright: ignore[reportPrivateUsage]
    leadership = Leadership(bus, ttl_s=5.0)
    settings = GuardianSettings(**told, guardian_kept_days=0)
    await guardian._ensure(bus, leadership, settings)  # pyright: ignore[reportPrivateUsage]

    ages = {stream: await days(bus, stream) for stream in ("TASKS", "AGENTS", "AGENT_LOGS", "AUDIT", "GUARDIAN")}
    assert ages == {"TASKS": 407, "AGENTS": 90, "AGENT_LOGS": 7, "AUDIT": 400, "GUARDIAN": 0}
    assert (await config(bus, "AUDIT")).deny_purge
    assert (await stream_state(bus, "AUDIT")).messages == 1


@pytest.mark.parametrize(("kept", "taken"), [(0, True), (6, False), (7, True), (-1, False)])
def test_guardian_records_are_kept_longer_than_any_sandbox(kept: int, taken: bool) -> None:
    fields: dict[str, Any] = {"nats_url": "nats://nowhere", "guardian_kept_days": kept}
    if taken:
        assert GuardianSettings(**fields).guardian_kept_days == kept
        return
    with pytest.raises(ValidationError, match="guardian_kept_days"):
        GuardianSettings(**fields)


def entry(event_id: str, *, old: timedelta = timedelta()) -> Audited:
    at = utc_now() - old
    return Audited(service="test", action="act", event_id=event_id, at=at, who="me", what="it", outcome="done")


async def test_old_audit_entries_are_deleted_in_batches(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BATCH", 2)
    await HISTORY.migrate(database_url)
    async with open_database(database_url) as database:
        table = AuditTable(database, kept_days=30)
        for number in range(3):
            await table.take(stored(entry(f"old{number}", old=timedelta(days=31))))
        await table.take(stored(entry("young", old=timedelta(days=29))))

        assert [await table.delete_old() for _ in range(3)] == [2, 1, 0]

        found = (await table.page(AuditQuery())).entries
        assert [one.event_id for one in found] == ["young"]


def stored(audited: Audited) -> Stored:
    return Stored("audit.test.act", 1, utc_now(), encode(audited))
