"""An open feed ends when its reader loses the permission. Two real API processes share a real database and broker."""

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from pathlib import Path

import httpcore
import pytest

from muster.client.sse import ServerSentEvent
from muster.common.clock import rfc3339, utc_now
from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.ids import new_id
from muster.embedded.nats_server import NatsServer
from muster.embedded.sql import connected
from tests.support.agents_double import agents_double
from tests.support.api import ApiProcess, api_process, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.feeds import sent_events
from tests.support.identity_provider import AUDIENCE, IdentityProvider, identity_provider
from tests.support.patience import PATIENCE_S
from tests.support.servers import Restartable

KEYS, USERS, AGENTS, TASKS = "/api/v1/keys", "/api/v1/users", "/api/v1/agents", "/api/v1/tasks"


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def apis(
    provider: IdentityProvider,
    shared_nats: NatsServer,
    shared_database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ApiProcess, ApiProcess]]:
    """Two replicas of the API: a change at one must end the feeds of the other. One gets roles from the provider."""
    issuer = {"MUSTER_OIDC_ISSUER": provider.issuer, "MUSTER_OIDC_AUDIENCE": AUDIENCE}
    one, other = (tmp_path_factory.mktemp("api") for _ in range(2))
    given_here = issuer | {"MUSTER_OIDC_ROLE_CLAIM": ""}
    with (
        api_process(shared_nats.url, one, shared_database_url, **issuer) as first,
        api_process(shared_nats.url, other, shared_database_url, **given_here) as second,
    ):
        yield first, second
        assert "Traceback" not in first.log() + second.log()


@pytest.fixture
async def paths(apis: tuple[ApiProcess, ApiProcess], nats_url: str) -> AsyncIterator[list[str]]:
    """The paths of every kind of feed, with existing objects."""
    admin = Caller(apis[0])
    async with neighbours(nats_url) as doubles, agents_double(nats_url):
        task = await admin.done("POST", TASKS, {"objective": "x"})
        await doubles.told(task["task_id"], "queued")
        agent = await admin.done("POST", AGENTS, {"name": new_id("agt"), "package": "echo"})
        one = f"{AGENTS}/{agent['agent_id']}"
        yield [f"{TASKS}/{task['task_id']}/events", f"{one}/events", f"{one}/logs?follow=true"]


class OpenFeeds:
    """Open feeds of one caller, each read until it ends."""

    def __init__(self, caller: Caller, paths: list[str]) -> None:
        self._caller, self._paths = caller, paths
        self._open = {path: asyncio.Event() for path in paths}
        self.last: dict[str, ServerSentEvent | None] = {}
        self._reading: list[asyncio.Task[None]] = []

    async def read(self, tasks: asyncio.TaskGroup) -> "OpenFeeds":
        """Open all feeds; return when all are open."""
        self._reading = [tasks.create_task(self._read(path)) for path in self._paths]
        for is_open in self._open.values():
            await is_open.wait()
        return self

    async def ended(self) -> dict[str, Problem]:
        """Wait until all feeds have ended; return the last event of each."""
        await asyncio.gather(*self._reading)
        assert all(last is not None and last.name == "problem" for last in self.last.values()), self.last
        return {path: decode(last.body, Problem) for path, last in self.last.items() if last}

    @property
    def all_go_on(self) -> bool:
        return not any(task.done() for task in self._reading)

    async def _read(self, path: str) -> None:
        headers = [("authorization", f"Bearer {self._caller.credential}"), ("accept", "text/event-stream")]
        self.last[path] = None
        async with (
            httpcore.AsyncConnectionPool() as pool,
            pool.stream("GET", self._caller.url + path, headers=headers, extensions={"timeout": {}}) as answer,
        ):
            assert answer.status == 200
            async with aclosing(_noting(answer, self._open[path])) as chunks:
                async for sent in sent_events(chunks):
                    self.last[path] = sent


async def _noting(answer: httpcore.Response, begun: asyncio.Event) -> AsyncGenerator[bytes]:
    async for chunk in answer.aiter_stream():
        begun.set()
        yield chunk


async def _holder(admin: Caller, role: str = "viewer", **fields: object) -> tuple[str, Caller]:
    """Create a local user and a key of this user."""
    user = await admin.done("POST", USERS, {"name": new_id("usr"), "role": role})
    return user["user_id"], await admin.issue(role, user_id=user["user_id"], **fields)


@pytest.mark.parametrize(
    ("act", "status"),
    [
        ("revoke", 401),
        pytest.param("disable", 401, marks=pytest.mark.stress),
        pytest.param("remove", 401, marks=pytest.mark.stress),
        pytest.param("lower", 403, marks=pytest.mark.stress),
        ("psql", 401),
    ],
)
async def test_a_change_at_one_replica_ends_the_feeds_at_the_other(
    apis: tuple[ApiProcess, ApiProcess], paths: list[str], shared_database_url: str, act: str, status: int
):
    here, there = Caller(apis[0]), apis[1]
    user_id, key = await _holder(here)
    _, bystander = await _holder(here)
    one = f"{USERS}/{user_id}"
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        feeds = await OpenFeeds(Caller(there, key.credential), paths).read(tasks)
        others = await OpenFeeds(Caller(there, bystander.credential), paths).read(tasks)
        await here.done("PATCH", one, {"role": "operator"})  # This is long enough to see that no feed ends.
        match act:
            case "revoke":
                await here.done("DELETE", f"{KEYS}/{key.key_id}")
            case "disable":
                await here.done("PATCH", one, {"disabled": True})
            case "remove":
                await here.done("DELETE", one)
            case "lower":
                await here.done("PATCH", one, {"role": None})
            case _:  # a caller that cannot wait for the API's response
                async with connected(shared_database_url) as database:
                    await database.execute("UPDATE api.keys SET revoked_at = now() WHERE key_id = $1", key.key_id)
        problems = await feeds.ended()
        went_on = others.all_go_on
        await here.done("DELETE", f"{KEYS}/{bystander.key_id}")
        await others.ended()

    assert went_on
    assert {problem.status for problem in problems.values()} == {status}
    assert len(problems) == len(paths)


@pytest.mark.stress
async def test_waiting_reader_whose_key_is_revoked_does_not_get_the_line(
    apis: tuple[ApiProcess, ApiProcess], nats_url: str
):
    admin = Caller(apis[0])
    _, key = await _holder(admin)
    async with agents_double(nats_url) as manager, asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        agent = await admin.done("POST", AGENTS, {"name": new_id("agt"), "package": "echo"})
        one = f"{AGENTS}/{agent['agent_id']}/logs"
        waiting = tasks.create_task(Caller(apis[1], key.credential).ask("GET", f"{one}?wait_s=30&cursor=0"))
        await _used(admin, key)
        await admin.done("DELETE", f"{KEYS}/{key.key_id}")
        await manager.say(agent["agent_id"], "a secret")
        told = await waiting

    assert (told.problem.status, b"a secret" in told.body) == (401, False)


async def _used(admin: Caller, key: Caller) -> None:
    await eventually(lambda: admin.done("GET", f"{KEYS}/{key.key_id}"), lambda shown: shown["last_used_at"])


async def test_feeds_end_when_their_key_expires(apis: tuple[ApiProcess, ApiProcess], paths: list[str]):
    expires_at = utc_now() + timedelta(seconds=8)
    _, key = await _holder(Caller(apis[0]), expires_at=rfc3339(expires_at))
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        problems = await (await OpenFeeds(key, paths).read(tasks)).ended()

    assert utc_now() >= expires_at
    assert {problem.status for problem in problems.values()} == {401}


async def test_feeds_of_a_providers_user_end_when_the_user_is_disabled_but_not_by_a_second_token(
    apis: tuple[ApiProcess, ApiProcess], provider: IdentityProvider, paths: list[str]
):
    admin, subject = Caller(apis[1]), new_id("usr")
    first = Caller(apis[0], provider.token(sub=subject, roles="operator"))
    me = await first.done("GET", "/api/v1/whoami")
    second = Caller(apis[0], provider.token(sub=subject, roles="viewer"))
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        feeds = [await OpenFeeds(caller, paths).read(tasks) for caller in (first, second)]
        # Each feed depends on its own token; the two tokens must not change the user's role in turn for ever.
        before = (await admin.done("GET", f"{USERS}/{me['user_id']}"))["updated_at"]
        await second.done("GET", "/api/v1/whoami")
        assert (await admin.done("GET", f"{USERS}/{me['user_id']}"))["updated_at"] == before
        assert all(some.all_go_on for some in feeds)
        await admin.done("PATCH", f"{USERS}/{me['user_id']}", {"disabled": True})
        problems = [await some.ended() for some in feeds]

    assert {problem.status for told in problems for problem in told.values()} == {403}


async def test_feeds_of_a_token_end_when_the_users_local_role_is_removed(
    apis: tuple[ApiProcess, ApiProcess], provider: IdentityProvider, paths: list[str]
):
    admin, token = Caller(apis[1]), provider.token(sub=new_id("usr"))
    ann = Caller(apis[1], token)
    assert (await ann.ask("GET", "/api/v1/whoami")).status == 403
    user_id = next(user["user_id"] for user in (await admin.done("GET", f"{USERS}?limit=5"))["users"] if user["issuer"])
    await admin.done("PATCH", f"{USERS}/{user_id}", {"role": "viewer"})
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        feeds = await OpenFeeds(ann, paths).read(tasks)
        await admin.done("PATCH", f"{USERS}/{user_id}", {"role": None})
        problems = await feeds.ended()

    assert {problem.status for problem in problems.values()} == {403}


@pytest.mark.stress
async def test_revocation_during_a_database_outage_ends_the_feeds_after_it(
    nats_url: str, postgres_server: Restartable, tmp_path: Path
):
    async with neighbours(nats_url) as doubles, agents_double(nats_url):
        with api_process(nats_url, tmp_path, postgres_server.url) as api:
            admin = Caller(api)
            task = await admin.done("POST", TASKS, {"objective": "x"})
            await doubles.told(task["task_id"], "queued")
            _, key = await _holder(admin)
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
                feeds = await OpenFeeds(key, [f"{TASKS}/{task['task_id']}/events"]).read(tasks)
                with _stopped(api):  # This replica receives no notice until the end.
                    await postgres_server.kill()
                    await postgres_server.start()
                    await _revoked_unheard(postgres_server.url, key.key_id)
                problems = await feeds.ended()

            assert {problem.status for problem in problems.values()} == {401}
            assert "Traceback" not in api.log()


@contextmanager
def _stopped(api: ApiProcess) -> Generator[None]:
    assert api.process is not None
    api.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        api.process.send_signal(signal.SIGCONT)


async def _revoked_unheard(url: str, key_id: str) -> None:
    """Revoke a key without a notice, as if the connection had lost the notice."""
    async with connected(url) as database:
        await database.execute("SET session_replication_role = replica")  # no trigger fires
        await database.execute("UPDATE api.keys SET revoked_at = now() WHERE key_id = $1", key_id)
