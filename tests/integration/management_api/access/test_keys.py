"""Users and keys over the real API, database and broker: issued, restricted, expired and revoked on all replicas."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from muster.common.clock import rfc3339, utc_now
from muster.common.ids import new_id
from muster.embedded.sql import connected
from tests.support.api import ADMIN_KEY, ApiProcess, api_process, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

KEYS, USERS, TASKS = "/api/v1/keys", "/api/v1/users", "/api/v1/tasks"


@pytest.fixture
def admin(api: ApiProcess) -> Caller:
    return Caller(api)


async def new_user(admin: Caller, role: str | None = "operator", **fields: object) -> str:
    user = await admin.done("POST", USERS, {"name": new_id("usr"), "role": role, **fields})
    return user["user_id"]


async def test_admin_key_of_the_stack_is_the_bootstrap_principal(admin: Caller):
    me = await admin.done("GET", "/api/v1/whoami")

    assert (me["who"], me["role"], me["via"], me["scopes"]) == ("user:admin", "admin", "stack", None)


async def test_secret_of_a_key_is_returned_once_and_only_its_digest_is_stored(admin: Caller, shared_database_url: str):
    told = await admin.ask("POST", KEYS, {"name": "ci", "role": "operator"})
    issued, view = told.json, told.json["view"]
    secret = issued["key"].split("_")[2]

    assert (told.status, told.headers["location"]) == (201, f"{KEYS}/{issued['key_id']}")
    assert issued["key"].startswith(view["prefix"])
    assert len(secret) == 43
    for path in (KEYS, f"{KEYS}/{issued['key_id']}", "/api/v1/audit"):
        assert secret not in (await admin.ask("GET", path)).body.decode()
    async with connected(shared_database_url) as database:
        kept = await database.fetchval("SELECT k::text FROM api.keys k WHERE key_id = $1", issued["key_id"])
    assert secret not in kept
    me = await Caller(admin.url, issued["key"]).done("GET", "/api/v1/whoami")
    assert (me["who"], me["user_id"], me["name"]) == (f"key:{issued['key_id']}", "admin", "admin")
    assert (me["role"], me["scopes"], me["expires_at"]) == ("operator", None, None)


async def test_response_with_a_secret_is_not_stored_for_repetition(admin: Caller, shared_database_url: str):
    key, wish = new_id("req"), {"name": "ci", "role": "viewer"}
    first = await admin.ask("POST", KEYS, wish, idempotency_key=key)
    again = await admin.ask("POST", KEYS, wish, idempotency_key=key)

    assert first.status == 201
    assert again.problem.status == 409
    async with connected(shared_database_url) as database:
        query = "SELECT string_agg(encode(body, 'escape'), '') FROM api.idempotency WHERE key = $1"
        kept = await database.fetchval(query, key)
        issued = await database.fetchval("SELECT count(*) FROM api.keys WHERE key_id = $1", first.json["key_id"])
    assert first.json["key"].split("_")[2] not in (kept or "")
    assert issued == 1


async def test_revoked_key_is_refused_at_the_next_request_on_every_replica(
    admin: Caller, nats_url: str, shared_database_url: str, tmp_path: Path
):
    with api_process(nats_url, tmp_path, shared_database_url) as other:
        key = await admin.issue("viewer")
        elsewhere = Caller(other, key.credential)
        for caller in (key, elsewhere):
            await caller.done("GET", "/api/v1/whoami")

        revoked = await admin.done("DELETE", f"{KEYS}/{key.key_id}")
        for caller in (elsewhere, key):
            refused = await caller.ask("GET", "/api/v1/whoami")
            assert "revoked" in refused.problem.detail
            assert refused.status == 401
        once_more = await admin.done("DELETE", f"{KEYS}/{key.key_id}")
        assert once_more["revoked_at"] == revoked["revoked_at"] is not None


async def test_expired_key_is_refused(admin: Caller):
    soon = utc_now() + timedelta(seconds=5)
    key = await admin.issue("viewer", expires_at=rfc3339(soon))
    await eventually(lambda: key.ask("GET", "/api/v1/whoami"), lambda told: told.status != 200)

    assert utc_now() >= soon
    past = await admin.ask("POST", KEYS, {"name": "x", "role": "viewer", "expires_at": rfc3339(soon)})
    assert (past.status, past.problem.field) == (422, "$.expires_at")


async def test_key_with_scopes_has_exactly_their_permissions(admin: Caller, nats_url: str):
    async with neighbours(nats_url):
        reader = await admin.issue("admin", scopes=["tasks:read"])
        writer = await admin.issue("admin", scopes=["tasks:write"])

        assert (await reader.ask("GET", TASKS)).status == 200
        assert (await reader.ask("POST", TASKS, {"objective": "x"})).status == 403
        assert (await writer.ask("POST", TASKS, {"objective": "x"})).status == 201
        assert (await writer.ask("GET", TASKS)).status == 200
        for caller in (reader, writer):
            assert (await caller.ask("GET", USERS)).status == 403
            assert (await caller.ask("POST", KEYS, {"name": "x", "role": "viewer"})).status == 403
            assert (await caller.ask("GET", "/api/v1/whoami")).json["scopes"]


async def test_key_of_a_project_sees_only_the_tasks_of_its_project(admin: Caller, nats_url: str):
    async with neighbours(nats_url):
        key = await admin.issue("operator", project="blue")
        own = await key.done("POST", TASKS, {"objective": "x", "project": "blue"})
        foreign = await admin.done("POST", TASKS, {"objective": "x", "project": "red"})

        assert (await key.ask("POST", TASKS, {"objective": "x", "project": "red"})).status == 403
        assert (await key.ask("GET", f"{TASKS}/{own['task_id']}")).status == 200
        one = f"{TASKS}/{foreign['task_id']}"
        for method, path, body in (
            ("GET", one, None),
            ("GET", f"{one}/events?follow=false", None),
            ("GET", f"{one}/guardian", None),
            ("POST", f"{one}/cancel", None),
            ("POST", f"{one}/steer", {"text": "x"}),
        ):
            assert (await key.ask(method, path, body)).status == 404, (method, path)
        listed = (await key.done("GET", f"{TASKS}?limit=100"))["tasks"]
        assert [task["task_id"] for task in listed] == [own["task_id"]]
        refused = await key.ask("GET", f"{TASKS}?project=red")
        assert (refused.status, refused.problem.field) == (403, "$.project")
        team = new_id("req")
        labelled = await admin.done("POST", TASKS, {"objective": "x", "project": "red", "labels": {"team": team}})
        for query, ids in ((f"label=team={team}&project=red", [labelled["task_id"]]), (f"label=team={team}x", [])):
            found = (await admin.done("GET", f"{TASKS}?{query}"))["tasks"]
            assert [task["task_id"] for task in found] == ids
        assert (await key.done("GET", f"{TASKS}?label=team={team}"))["tasks"] == []
        for path in ("/api/v1/agents", "/api/v1/sandboxes", KEYS):
            assert (await key.ask("GET", path)).status == 403


async def test_user_manages_own_keys_and_an_admin_manages_all_keys(admin: Caller):
    ann, bob = [await admin.issue("operator", user_id=await new_user(admin)) for _ in range(2)]
    own = await ann.issue("viewer")

    assert {key["key_id"] for key in (await ann.done("GET", KEYS))["keys"]} == {ann.key_id, own.key_id}
    assert (await bob.ask("GET", f"{KEYS}/{own.key_id}")).status == 404
    assert (await bob.ask("DELETE", f"{KEYS}/{own.key_id}")).status == 404
    assert (await own.ask("GET", "/api/v1/whoami")).status == 200
    assert (await bob.ask("GET", f"{KEYS}?user_id=admin")).status == 403
    assert (await bob.ask("POST", KEYS, {"name": "x", "role": "viewer", "user_id": "admin"})).status == 403
    assert (await bob.ask("POST", KEYS, {"name": "x", "role": "admin"})).problem.field == "$.role"
    assert (await ann.ask("DELETE", f"{KEYS}/{own.key_id}")).status == 200
    assert (await own.ask("GET", "/api/v1/whoami")).status == 401


async def test_key_without_a_role_has_its_users_role_but_no_more_than_its_issuer(admin: Caller):
    viewer, boss = await new_user(admin, "viewer"), await new_user(admin, "admin")
    issued = await admin.done("POST", KEYS, {"name": "x", "user_id": viewer})
    assert issued["view"]["role"] == "viewer"
    for more in ("operator", "admin"):
        refused = await admin.ask("POST", KEYS, {"name": "x", "user_id": viewer, "role": more})
        assert (refused.status, refused.problem.field) == (403, "$.role")
    nobody = await admin.ask("POST", KEYS, {"name": "x", "user_id": await new_user(admin, None)})
    assert (nobody.status, nobody.problem.field) == (403, "$.role")

    as_operator = await admin.issue("operator", user_id=boss)
    assert (await as_operator.done("POST", KEYS, {"name": "x"}))["view"]["role"] == "operator"


async def test_use_of_any_key_updates_the_last_seen_time_of_its_user(admin: Caller):
    user_id = await new_user(admin)
    assert (await admin.done("GET", f"{USERS}/{user_id}"))["last_seen_at"] is None
    began = utc_now()
    for _ in range(2):
        await (await admin.issue("viewer", user_id=user_id)).done("GET", "/api/v1/whoami")
    used: list[str | None] = [None]
    async with asyncio.timeout(PATIENCE_S):
        while None in used:
            await asyncio.sleep(0.1)
            used = [key["last_used_at"] for key in (await admin.done("GET", f"{KEYS}?user_id={user_id}"))["keys"]]

    seen = (await admin.done("GET", f"{USERS}/{user_id}"))["last_seen_at"]
    assert rfc3339(began) <= seen == max(str(at) for at in used)


@pytest.mark.parametrize(
    ("wish", "status", "field"),
    [
        ({"name": "x", "role": "root"}, 422, "$.role"),
        ({"name": "", "role": "viewer"}, 422, "$.name"),
        ({"name": "x\0", "role": "viewer"}, 422, "$.name"),
        ({"name": "x", "role": "viewer", "scopes": ["tasks:own"]}, 422, "$.scopes[0]"),
        ({"name": "x", "role": "viewer", "scopes": ["moon:read"]}, 422, "$.scopes[0]"),
        ({"name": "x", "role": "viewer", "expires_at": "2999-01-01T00:00:00"}, 422, "$.expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "9999-12-31T23:59:59-23:59"}, 422, "$.expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "9999-12-31T23:59:59.999999Z"}, 422, "$.expires_at"),
        ({"name": "x", "role": "viewer", "project": "prod\n"}, 422, "$.project"),
        ({"name": "x", "role": "viewer", "user_id": "usr_nobody"}, 404, "$.user_id"),
        ({"name": "x", "role": "viewer", "key": "mk_mine"}, 422, "$.key"),
    ],
)
async def test_invalid_key_request_is_refused_with_the_name_of_its_field(
    admin: Caller, wish: dict[str, object], status: int, field: str
):
    refused = await admin.ask("POST", KEYS, wish)

    assert (refused.status, refused.problem.field) == (status, field)


async def test_user_is_created_changed_disabled_and_deleted(admin: Caller):
    name = new_id("usr")
    made = await admin.ask("POST", USERS, {"name": name, "email": "ann@example.org"})
    one = made.headers["location"]
    assert (made.status, made.json["role"]) == (201, None)
    assert (await admin.ask("POST", USERS, {"name": name})).problem.field == "$.name"

    key = await admin.issue("operator", user_id=made.json["user_id"])
    assert "no role" in (await key.ask("GET", "/api/v1/whoami")).problem.detail
    changed = await admin.done("PATCH", one, {"role": "viewer", "email": None})
    assert (changed["role"], changed["email"], changed["name"]) == ("viewer", None, name)
    assert (await key.done("GET", "/api/v1/whoami"))["role"] == "viewer"
    assert (await admin.done("PATCH", one, {"disabled": True}))["disabled"] is True
    assert (await key.ask("GET", "/api/v1/whoami")).status == 401
    await admin.done("PATCH", one, {"disabled": False})
    assert (await key.ask("GET", "/api/v1/whoami")).status == 200
    assert (await admin.ask("DELETE", one)).status == 204
    assert (await key.ask("GET", "/api/v1/whoami")).status == 401
    for method, body in (("GET", None), ("PATCH", b"{}"), ("DELETE", None)):
        assert (await admin.ask(method, one, body)).status == 404


async def test_administrator_of_the_stack_cannot_be_changed_or_deleted(admin: Caller):
    for method, body in (("PATCH", {"disabled": True}), ("PATCH", {"role": None}), ("DELETE", None)):
        assert (await admin.ask(method, f"{USERS}/admin", body)).status == 409
    assert (await admin.done("GET", f"{USERS}/admin"))["role"] == "admin"


async def test_pages_contain_each_user_once_although_users_are_added_meanwhile(admin: Caller):
    wanted = {await new_user(admin) for _ in range(7)}
    found: list[str] = []
    path: str | None = f"{USERS}?limit=3"
    while path:
        page = await admin.done("GET", path)
        found += [user["user_id"] for user in page["users"]]
        await new_user(admin)
        path = f"{USERS}?limit=3&cursor={page['next_cursor']}" if page["next_cursor"] else None

    assert len(found) == len(set(found))
    assert wanted <= set(found)
    for cursor in ("x", "e30", "bm8"):
        assert (await admin.ask("GET", f"{USERS}?cursor={cursor}")).problem.field == "$.cursor"


async def test_time_of_the_last_use_of_a_key_is_stored(admin: Caller):
    key = await admin.issue("viewer")
    assert (await admin.done("GET", f"{KEYS}/{key.key_id}"))["last_used_at"] is None
    await key.done("GET", "/api/v1/whoami")
    await eventually(lambda: admin.done("GET", f"{KEYS}/{key.key_id}"), lambda shown: shown["last_used_at"])


@pytest.mark.stress
async def test_without_the_database_keys_get_503_and_the_admin_key_still_works(
    nats_url: str, postgres_server: Restartable, tmp_path: Path
):
    with api_process(nats_url, tmp_path, postgres_server.url) as own:
        admin = Caller(own)
        key = await admin.issue("viewer")
        await key.done("GET", "/api/v1/whoami")
        await postgres_server.kill()

        refused = await key.ask("GET", "/api/v1/whoami")
        assert (refused.problem.status, refused.headers["retry-after"]) == (503, "1")
        assert (await admin.ask("GET", "/api/v1/whoami")).status == 200
        assert (await admin.ask("GET", USERS)).status == 503
        await postgres_server.start()
        await eventually(lambda: key.ask("GET", "/api/v1/whoami"), lambda told: told.status == 200)
        assert "Traceback" not in own.log()
        assert ADMIN_KEY not in own.log()
