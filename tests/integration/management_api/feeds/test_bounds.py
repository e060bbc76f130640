"""Limits for readers of feeds: only sandboxes of the task, and a number of open feeds."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpcore
import pytest

from muster.client import AsyncMuster, FeedItem, NewTask
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.ids import new_id
from muster.embedded.nats_server import NatsServer
from muster.management_api.tasks.domain.task_cursor import MOST_SANDBOXES, LogPosition, TaskCursor
from tests.support.api import ADMIN_KEY, ApiProcess, Neighbours, api_process, ensure_log_stream, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S

MOST_FEEDS = 2


@pytest.fixture(scope="module")
def api(
    shared_nats: NatsServer, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    limits = {"MUSTER_FEEDS_PER_USER": str(MOST_FEEDS)}
    with api_process(shared_nats.url, tmp_path_factory.mktemp("api"), shared_database_url, **limits) as process:
        yield process
        assert "Traceback" not in process.log()


async def _task(doubles: Neighbours, client: AsyncMuster) -> tuple[str, str]:
    """Create a task whose sandbox has a log."""
    view, sandbox_id = await client.tasks.submit(NewTask(objective="work")), new_id("sbx")
    await ensure_log_stream(doubles.bus, sandbox_id)
    await doubles.told(view.task_id, "assigned", sandbox_id, state="assigned")
    await doubles.frame(view.task_id, sandbox_id, FrameKind.OPENED)
    return view.task_id, sandbox_id


async def _present(client: AsyncMuster, task_id: str, after: TaskCursor) -> list[FeedItem[FeedEvent]]:
    return [sent async for sent in client.tasks.events(task_id, after.token(), follow=False)]


async def test_a_position_that_names_another_tasks_sandbox_is_unknown(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, own = await _task(doubles, client)
        _, foreign = await _task(doubles, client)

        kept = await _present(client, task_id, TaskCursor(task_id=task_id, logs={own: LogPosition()}))
        refused = await _present(client, task_id, TaskCursor(task_id=task_id, logs={foreign: LogPosition()}))

    assert [sent.name for sent in kept] == ["task", "log"]
    assert [sent.name for sent in refused] == ["reset", "task", "log"]
    last = TaskCursor.parse(refused[-1].position, task_id)
    assert last is not None
    assert list(last.logs) == [own]


async def test_a_sandbox_without_a_log_is_dropped_from_the_position(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, own = await _task(doubles, client)
        nowhere = new_id("sbx")
        await ensure_log_stream(doubles.bus, nowhere)

        got = await _present(client, task_id, TaskCursor(task_id=task_id, logs={nowhere: LogPosition()}))
        read = await _present(client, task_id, TaskCursor(task_id=task_id, logs={nowhere: LogPosition(frame=1)}))

    last = TaskCursor.parse(got[-1].position, task_id)
    assert [sent.name for sent in got] == ["task", "log"]
    assert last is not None
    assert list(last.logs) == [own]
    assert read[0].name == "reset", "of a log that is not there nothing can have been read"


def test_a_position_names_a_bounded_number_of_sandboxes():
    logs = {f"s{number}": LogPosition() for number in range(MOST_SANDBOXES + 1)}
    most = dict(list(logs.items())[:MOST_SANDBOXES])

    assert TaskCursor.parse(TaskCursor(task_id="tsk_1", logs=logs).token(), "tsk_1") is None
    assert TaskCursor.parse(TaskCursor(task_id="tsk_1", logs=most).token(), "tsk_1") is not None


@asynccontextmanager
async def _reading(api: ApiProcess, path: str, credential: str) -> AsyncGenerator[None]:
    """Open a feed and keep it open."""
    headers = [("authorization", f"Bearer {credential}")]
    async with (
        httpcore.AsyncConnectionPool() as pool,
        pool.stream("GET", api.url + path, headers=headers, extensions={"timeout": {"read": PATIENCE_S}}) as answer,
    ):
        assert answer.status == 200
        yield


async def test_number_of_open_feeds_of_a_user_is_limited(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, _ = await _task(doubles, client)
        path, admin = f"/api/v1/tasks/{task_id}/events", Caller(api)
        key = await admin.done("POST", "/api/v1/keys", {"name": "second", "role": "viewer"})
        user = await admin.done("POST", "/api/v1/users", {"name": new_id("usr"), "role": "viewer"})
        its = await admin.done("POST", "/api/v1/keys", {"name": "x", "role": "viewer", "user_id": user["user_id"]})

        async with AsyncExitStack() as feeds:
            for credential in (ADMIN_KEY, key["key"]):
                await feeds.enter_async_context(_reading(api, path, credential))
            refused = await admin.ask("GET", path)
            others = await Caller(api, its["key"]).ask("GET", f"{path}?follow=false")

        async def again() -> bool:
            return (await admin.ask("GET", f"{path}?follow=false")).status == 200

        await eventually(again)

    assert refused.problem.status == 429
    assert "open feeds" in refused.problem.detail
    assert refused.headers["retry-after"]
    assert others.status == 200
