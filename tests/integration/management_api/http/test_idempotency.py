"""`Idempotency-Key` with the real API process and PostgreSQL: an action is performed once, also after a crash."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from muster.common.clock import utc_now
from muster.common.faults import InvalidMessage
from muster.common.ids import new_id
from muster.embedded.sql import connected
from muster.management_api.database.engine import open_database
from muster.management_api.database.schema import HISTORY
from muster.management_api.http.idempotency.rules import (
    KEPT,
    LEASE,
    Attempted,
    KeptAnswer,
    RequestUnderWay,
    attempted,
    seed,
)
from muster.management_api.http.idempotency.store import StoredReplies
from tests.support.agents_double import agents_double
from tests.support.api import ApiProcess, api_process, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually

TASKS, AGENTS = "/api/v1/tasks", "/api/v1/agents"
OBJECTIVE = {"objective": "x"}


@pytest.fixture
def caller(api: ApiProcess) -> Caller:
    return Caller(api)


@pytest.fixture
def key() -> str:
    return new_id("req")


async def test_the_same_request_is_done_once_and_answered_the_same(caller: Caller, nats_url: str, key: str):
    async with neighbours(nats_url) as manager:
        first = await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=key)
        again = await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=key)
        other = await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=key + "2")

        assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["content-type"] == "application/json"
        assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
        assert other.json["task_id"] != first.json["task_id"]
        assert len(manager.tasks) == 2
        steer = f"{first.headers['location']}/steer"
        for _ in range(3):
            assert (await caller.ask("POST", steer, {"text": "hey"}, Idempotency_Key=key + "3")).status == 202
        assert len(manager.steered) == 1


async def test_a_key_belongs_to_one_request_of_one_caller(caller: Caller, nats_url: str, key: str):
    async with neighbours(nats_url) as manager:
        one = (await caller.done("POST", TASKS, {"objective": "x"}, Idempotency_Key=key))["task_id"]
        for path, body in ((TASKS, {"objective": "y"}), (f"{TASKS}/{one}/cancel", {"objective": "x"})):
            refused = (await caller.ask("POST", path, body, Idempotency_Key=key)).problem
            assert (refused.status, refused.field) == (422, "Idempotency-Key")
        another = await caller.issue("operator")
        assert (await another.done("POST", TASKS, {"objective": "x"}, Idempotency_Key=key))["task_id"] != one
        assert len(manager.tasks) == 2


async def test_refusals_are_stored_except_those_with_retry_after(caller: Caller, nats_url: str, key: str):
    body = {"name": key, "package": "echo"}
    away = await caller.ask("POST", AGENTS, body, Idempotency_Key=key)
    assert away.problem.status == 503
    async with agents_double(nats_url) as manager:
        made = await caller.ask("POST", AGENTS, body, Idempotency_Key=key)
        assert (made.status, "idempotency-replayed" in made.headers) == (201, False)
        refused = await caller.ask("POST", AGENTS, body, Idempotency_Key=key + "2")
        manager.agents.clear()
        again = await caller.ask("POST", AGENTS, body, Idempotency_Key=key + "2")
        assert (refused.problem.status, again.status, again.body) == (409, 409, refused.body)
        assert again.headers["content-type"] == "application/problem+json"


async def test_one_of_many_concurrent_requests_is_performed_and_the_others_get_retry_after(
    caller: Caller, nats_url: str, key: str
):
    async with agents_double(nats_url) as manager, asyncio.TaskGroup() as tasks:
        body = {"name": key, "package": "echo"}
        asked = [tasks.create_task(caller.ask("POST", AGENTS, body, Idempotency_Key=key)) for _ in range(10)]
        answers = [await one for one in asked]
        done = [answer for answer in answers if answer.status == 201]
        early = [answer for answer in answers if answer.status == 409]

        assert len(done) + len(early) == 10
        assert len({answer.body for answer in done}) == 1
        assert all(answer.problem.type == "urn:muster:problem:request_under_way" for answer in early)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in early)
        assert len(manager.agents) == 1


async def test_refused_media_type_can_be_corrected_under_the_same_key(caller: Caller, nats_url: str, key: str):
    async with neighbours(nats_url):
        wrong = await caller.ask("POST", TASKS, OBJECTIVE, Idempotency_Key=key, content_type="text/plain")
        right = await caller.ask("POST", TASKS, OBJECTIVE, Idempotency_Key=key)

    assert (wrong.problem.status, right.status) == (415, 201)


@pytest.mark.parametrize("wrong", ["x" * 256, "with space"])
async def test_invalid_idempotency_key_is_refused(caller: Caller, nats_url: str, wrong: str):
    async with neighbours(nats_url) as manager:
        refused = (await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=wrong)).problem
        assert (refused.status, refused.field) == (422, "Idempotency-Key")
        assert manager.tasks == {}


async def test_secret_is_returned_once_and_never_stored(caller: Caller, shared_database_url: str, key: str):
    first = await caller.ask("POST", "/api/v1/keys", {"name": "x", "role": "viewer"}, Idempotency_Key=key)
    again = await caller.ask("POST", "/api/v1/keys", {"name": "x", "role": "viewer"}, Idempotency_Key=key)

    assert (first.status, again.problem.status) == (201, 409)
    async with open_database(shared_database_url) as database, database.single() as connection:
        kept = (await connection.exec_driver_sql("SELECT string_agg(t::text, ' ') FROM api.idempotency t")).scalar()
    assert kept is not None
    assert first.json["key"].rpartition("_")[2] not in kept
    assert first.json["key"].encode().hex() not in kept


async def test_a_task_submitted_before_a_crash_is_the_same_task_after_it(
    nats_url: str, shared_database_url: str, tmp_path: Path, key: str
):
    async with neighbours(nats_url) as manager:
        with api_process(nats_url, tmp_path, shared_database_url) as api:
            caller = Caller(api)
            manager.answering.clear()
            async with asyncio.TaskGroup() as tasks:
                lost = tasks.create_task(_cut_off(caller, key))
                await manager.arrived.wait()
                api.kill()
                await lost
            manager.answering.set()
            api.start()
            early = await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=key)
            assert early.problem.status == 409
            assert 1 <= int(early.headers["retry-after"]) <= LEASE.total_seconds() + 1
            await _lease_is_over(shared_database_url, key)
            again = await caller.ask("POST", TASKS, {"objective": "x"}, Idempotency_Key=key)

            assert again.status == 201
            assert list(manager.tasks) == [again.json["task_id"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/api/v1/users", {"name": "ann"}, marks=pytest.mark.stress),
        ("/api/v1/keys", {"name": "ci", "role": "viewer"}),
    ],
)
async def test_object_created_before_a_crash_is_returned_by_the_repeated_request(
    nats_url: str, database_url: str, tmp_path: Path, key: str, path: str, body: dict[str, str]
):
    table = path.rpartition("/")[2]
    with api_process(nats_url, tmp_path, database_url) as api:
        caller = Caller(api)
        async with _no_answer_is_kept(database_url) as stuck, asyncio.TaskGroup() as tasks:
            lost = tasks.create_task(_cut_off(caller, key, path, body))
            await stuck()
            api.kill()
            await lost
        async with connected(database_url) as database:
            there = await database.fetchval(f"SELECT count(*) FROM api.{table} WHERE name = $1", body["name"])
        assert there == 1
        api.start()
        await caller.done("GET", "/api/v1/whoami")
        await _lease_is_over(database_url, key)
        told = await caller.ask("POST", path, body, Idempotency_Key=key)
        assert (told.status, told.headers.get("idempotency-replayed")) == (201, None)
        listed = [one for one in (await caller.done("GET", path))[table] if one["name"] == body["name"]]
        again = await caller.ask("POST", path, body, Idempotency_Key=key)
        if table == "users":
            assert listed == [told.json]
            assert (again.status, again.json) == (201, told.json)
        else:
            assert listed == [told.json["view"]]
            me = await Caller(api, told.json["key"]).done("GET", "/api/v1/whoami")
            assert me["key_id"] == told.json["key_id"]
            assert again.problem.status == 409


@pytest.mark.stress
async def test_secret_is_not_returned_if_its_return_cannot_be_recorded(
    nats_url: str, database_url: str, tmp_path: Path, key: str
):
    path, body = "/api/v1/keys", {"name": "ci", "role": "viewer"}
    with api_process(nats_url, tmp_path, database_url) as api:
        caller = Caller(api)
        async with _no_answer_is_kept(database_url) as stuck, asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(caller.ask("POST", path, body, Idempotency_Key=key))
            await stuck()
        refused = await asked
        assert (refused.problem.status, "mk_" in refused.body.decode()) == (503, False)
        await _lease_is_over(database_url, key)
        told = await caller.ask("POST", path, body, Idempotency_Key=key)
        assert told.status == 201
        assert (await Caller(api, told.json["key"]).done("GET", "/api/v1/whoami"))["role"] == "viewer"


@asynccontextmanager
async def _no_answer_is_kept(url: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Block the storage of responses and cut the connections at the end.

    Yields a function that waits for a blocked one.
    """
    waiting = "FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE 'UPDATE api.idempotency%'"

    async def stuck() -> None:
        async with connected(url) as other:
            await eventually(lambda: other.fetchval(f"SELECT count(*) {waiting}"))

    async with connected(url) as database:
        await database.execute("SELECT pg_advisory_lock(1)")
        await database.execute("""
            CREATE FUNCTION api.wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_lock(1); RETURN NEW; END $$""")
        await database.execute("""
            CREATE TRIGGER wait BEFORE UPDATE ON api.idempotency FOR EACH ROW EXECUTE FUNCTION api.wait()""")
        yield stuck
        await database.execute(f"SELECT pg_terminate_backend(pid) {waiting}")
        await database.execute("DROP TRIGGER wait ON api.idempotency")


async def _cut_off(caller: Caller, key: str, path: str = TASKS, body: object = OBJECTIVE) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - however the client sees a killed server
        await caller.ask("POST", path, body, Idempotency_Key=key)


async def _lease_is_over(url: str, key: str) -> None:
    async with open_database(url) as database, database.single() as connection:
        query = "UPDATE api.idempotency SET expires_at = now() WHERE key = $1"
        await connection.exec_driver_sql(query, (key,))


# The table alone, with a clock that the test sets.


async def test_idempotency_key_expires_after_a_day(database_url: str):
    await HISTORY.migrate(database_url)
    at = [utc_now()]
    one = attempted(principal="user:a", key="k", method="POST", path="/x", body=b"1")
    other = attempted(principal="user:a", key="k", method="POST", path="/x", body=b"2")
    answer = KeptAnswer(status=201, headers={"location": "/x/1"}, body=b"{}")
    async with open_database(database_url) as database:
        store = StoredReplies(database, now=lambda: at[0])
        began = await store.begin(one)
        assert not isinstance(began, KeptAnswer)
        with pytest.raises(RequestUnderWay):
            await store.begin(one)
        at[0] += LEASE
        with pytest.raises(InvalidMessage):
            await store.begin(other)
        assert await store.begin(one) == began, "taken over: its ids are the same"
        await store.end(one, began, answer)
        assert await store.begin(one) == answer
        with pytest.raises(InvalidMessage):
            await store.begin(other)
        at[0] = began + KEPT
        anew = await store.begin(other)
        assert not isinstance(anew, KeptAnswer)
        assert seed(other, anew) != seed(one, began)


def test_ids_under_a_key_are_the_same_for_the_same_request_and_sort_by_time():
    at = utc_now()
    one = Attempted(principal="a", key="k", method="POST", path="/x", body_hash=b"")
    assert seed(one, at) == seed(one, at)
    assert seed(one, at)[6:] != seed(Attempted(principal="b", key="k", method="POST", path="/x", body_hash=b""), at)[6:]
    assert seed(one, at) < seed(one, at + timedelta(milliseconds=2))
