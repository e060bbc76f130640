"""The audit contains every write and every refusal once.

Entries go from the stream into a table that only admins can read.
"""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.common.bus.connection import open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import rfc3339, utc_now
from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.ids import new_id
from muster.embedded.sql import connected
from tests.support.api import ApiProcess, api_process, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.servers import Restartable

AUDIT, TASKS = "/api/v1/audit", "/api/v1/tasks"


@pytest.fixture
async def key(api: ApiProcess) -> Caller:
    return await Caller(api).issue("operator")


async def entries(admin: Caller, query: str, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Repeat the audit query until `holds` is true of the response, because the table follows the stream."""

    async def told() -> list[dict[str, Any]]:
        return (await admin.done("GET", f"{AUDIT}?{query}"))["entries"]

    return await eventually(told, holds)


async def test_each_write_and_each_refusal_is_one_entry_and_a_read_is_none(api: ApiProcess, key: Caller, nats_url: str):
    admin = Caller(api)
    async with neighbours(nats_url):
        made = await key.ask("POST", TASKS, {"objective": "x"})
        await key.ask("GET", made.headers["location"])
        wrong = await key.ask("POST", TASKS, {})
        forbidden = await key.ask("GET", "/api/v1/users")
        nowhere = await key.ask("POST", "/api/v1/nowhere", {})  # The object to change does not exist.
    found = await entries(admin, f"who=key:{key.key_id}", lambda found: len(found) >= 3)

    assert [(one["action"], one["outcome"], one["detail"]["status"]) for one in reversed(found)] == [
        ("submit-task", "done", 201),
        ("submit-task", "refused", 422),
        ("forbidden", "refused", 403),
    ]
    assert nowhere.status == 404
    traces = [told.headers["x-trace-id"] for told in (made, wrong, forbidden)]
    assert [one["trace_id"] for one in reversed(found)] == traces
    assert found[-1]["detail"]["location"] == made.headers["location"]
    assert found[0]["what"] == "GET /api/v1/users"
    assert {one["source"] for one in found} == {"127.0.0.1"}
    assert {one["detail"]["user_id"] for one in found} == {"admin"}
    async with open_bus(nats_url, "test-audit") as bus:
        stream = [
            decode(one.body, Audited) async for one in MessageStore(bus).replay("AUDIT", "audit.management_api.*")
        ]
    assert [one.event_id for one in stream if one.who == f"key:{key.key_id}"] == [
        one["event_id"] for one in reversed(found)
    ]


async def test_all_actions_of_a_user_are_found_for_any_of_the_users_keys(api: ApiProcess):
    admin = Caller(api)
    name = new_id("usr")
    user_id = (await admin.done("POST", "/api/v1/users", {"name": name, "role": "viewer"}))["user_id"]
    keys = [await admin.issue("viewer", user_id=user_id) for _ in range(2)]
    for key in keys:
        await key.ask("POST", TASKS, {})
    found = await entries(admin, f"who=user:{user_id}", lambda found: len(found) >= 2)

    assert [one["who"] for one in reversed(found)] == [f"key:{key.key_id}" for key in keys]
    of_one = await admin.done("GET", f"{AUDIT}?who=key:{keys[0].key_id}")
    assert [one["event_id"] for one in of_one["entries"]] == [found[1]["event_id"]]
    key_name = (await admin.done("GET", f"/api/v1/keys/{keys[0].key_id}"))["name"]
    assert of_one["entries"][0]["who_name"] == f"{name} (key {key_name})"


async def test_entry_names_its_user_and_a_deleted_user_only_by_id(api: ApiProcess):
    admin, name = Caller(api), new_id("usr")
    made = await admin.done("POST", "/api/v1/users", {"name": name, "role": "viewer"})
    key = await admin.issue("viewer", user_id=made["user_id"])
    await key.ask("POST", TASKS, {})
    (before,) = await entries(admin, f"who=key:{key.key_id}", bool)
    by_admin = (await admin.done("GET", f"{AUDIT}?who=user:admin&limit=1"))["entries"]
    deleted = await admin.ask("DELETE", f"/api/v1/users/{made['user_id']}")
    (after,) = await entries(admin, f"who=key:{key.key_id}", bool)

    assert (before["who"], before["who_name"].startswith(f"{name} (key ")) == (f"key:{key.key_id}", True)
    assert [one["who_name"] for one in by_admin] == ["admin"]
    assert deleted.status < 300
    assert (after["who"], after["who_name"]) == (f"key:{key.key_id}", None)


async def test_find_agent_is_not_audited_as_a_write_although_it_is_a_post(api: ApiProcess, key: Caller):
    await key.ask("POST", "/api/v1/agents/find", {"moon": True})
    await key.ask("POST", TASKS, {})
    found = await entries(Caller(api), f"who=key:{key.key_id}", bool)

    assert [one["action"] for one in found] == ["submit-task"]


async def test_unknown_caller_is_audited_as_nobody(nats_url: str, shared_database_url: str, tmp_path: Path):
    # A separate process is needed, because a process writes only a limited number of refusals.
    with api_process(nats_url, tmp_path, shared_database_url) as api:
        refused = await Caller(api, "wrong").ask("GET", TASKS, x_forwarded_for="10.9.8.7")
        trace_id = refused.headers["x-trace-id"]
        (found,) = await entries(Caller(api), f"trace_id={trace_id}", lambda found: len(found) == 1)

    assert (found["who"], found["action"], found["outcome"]) == ("nobody", "unauthenticated", "refused")
    assert found["source"] == "127.0.0.1"  # not the address that the caller claims


async def test_address_of_the_caller_comes_from_a_trusted_reverse_proxy(
    nats_url: str, shared_database_url: str, tmp_path: Path
):
    with api_process(nats_url, tmp_path, shared_database_url, MUSTER_TRUSTED_PROXIES="127.0.0.1") as api:
        refused = await Caller(api, "wrong").ask("GET", TASKS, x_forwarded_for="10.9.8.7")
        query = f"trace_id={refused.headers['x-trace-id']}"
        (found,) = await entries(Caller(api), query, lambda found: len(found) == 1)
        assert found["source"] == "10.9.8.7"


async def test_audit_is_filtered_by_caller_action_and_time_and_paged(api: ApiProcess, key: Caller, nats_url: str):
    admin, begin = Caller(api), rfc3339(utc_now())
    async with neighbours(nats_url):
        for n in range(5):
            await key.ask("POST", TASKS, {"objective": "x"} if n % 2 else {})
    mine = f"who=key:{key.key_id}&since={begin}"
    found = await entries(admin, mine, lambda found: len(found) == 5)

    assert len((await admin.done("GET", f"{AUDIT}?{mine}&outcome=refused"))["entries"]) == 3
    assert len((await admin.done("GET", f"{AUDIT}?{mine}&action=steer-task"))["entries"]) == 0
    assert (await admin.done("GET", f"{AUDIT}?who=key:{key.key_id}&until={begin}"))["entries"] == []
    paged: list[str] = []
    query: str | None = f"{mine}&limit=2"
    while query:
        page = await admin.done("GET", f"{AUDIT}?{query}")
        paged += [one["event_id"] for one in page["entries"]]
        query = f"{mine}&limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else None
    assert paged == [one["event_id"] for one in found]
    early, late = "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"  # These texts are not times in UTC.
    beyond = base64.urlsafe_b64encode(b'["9999-12-31T23:59:59-23:59","a"]').decode().rstrip("=")
    for wrong in (
        *("outcome=perhaps", "since=yesterday", "limit=0", "cursor=x", "since=2026-01-01T00:00:00", "why=x"),
        *(f"since={early}", f"until={late}", f"cursor={beyond}"),
    ):
        assert (await admin.ask("GET", f"{AUDIT}?{wrong}")).problem.field == f"$.{wrong.partition('=')[0]}"


@pytest.mark.stress
async def test_entries_audited_during_a_database_outage_are_stored_later(
    nats_server: Restartable, postgres_server: Restartable, tmp_path: Path
):
    with api_process(nats_server.url, tmp_path, postgres_server.url) as api:
        admin = Caller(api)
        await admin.done("GET", "/api/v1/users")
        await postgres_server.kill()
        async with neighbours(nats_server.url):
            refused = await admin.ask("POST", TASKS, {})
        await postgres_server.start()
        trace_id = refused.headers["x-trace-id"]
        (found,) = await entries_through_outages(admin, f"trace_id={trace_id}")
        assert found["action"] == "submit-task"
        async with connected(postgres_server.url) as database:
            assert await database.fetchval("SELECT count(*) FROM api.audit WHERE trace_id = $1", trace_id) == 1


async def entries_through_outages(admin: Caller, query: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        while True:
            told = await admin.ask("GET", f"{AUDIT}?{query}")
            if told.status == 200 and told.json["entries"]:
                return told.json["entries"]
            await asyncio.sleep(0.1)


async def test_unusual_path_is_audited_as_far_as_possible(api: ApiProcess):
    await Caller(api).ask("POST", f"/api/v1/tasks/{new_id('tsk')}%00%ff/cancel", {})
    await entries(Caller(api), "action=cancel-task", lambda found: any("\ufffd" in one["what"] for one in found))
