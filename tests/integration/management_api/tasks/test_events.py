"""The live feed over real HTTP, broker and API process loses and repeats nothing, whichever connection is cut."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import httpcore
import pytest

from muster.client import AsyncMuster, FeedItem, NewTask
from muster.common.clock import utc_now
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.contracts.tasks import AttemptView
from muster.common.ids import new_id
from muster.management_api.tasks.store import RECHECK_S
from tests.support.api import ADMIN_KEY, ApiProcess, Neighbours, api_process, ensure_log_stream, neighbours
from tests.support.feeds import task_items
from tests.support.patience import PATIENCE_S, PROMPT_S
from tests.support.servers import Restartable


async def _new_task(doubles: Neighbours, client: AsyncMuster) -> tuple[str, str]:
    view = await client.tasks.submit(NewTask(objective="work"))
    sandbox_id = new_id("sbx")
    await ensure_log_stream(doubles.bus, sandbox_id)
    await doubles.told(view.task_id, "queued")
    return view.task_id, sandbox_id


async def _run(doubles: Neighbours, task_id: str, sandbox_ids: list[str], *, pace_s: float = 0.0) -> None:
    """Write the events of several attempts, each with a separate log, and of the guardian."""
    for sandbox_id in sandbox_ids:
        await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
        await doubles.frame(task_id, sandbox_id, FrameKind.OPENED)
        for number in range(6):
            await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=1 + number % 4)
            await doubles.guard(task_id, "noticed", sandbox_id, number=number)
            await asyncio.sleep(pace_s)
        await doubles.frame(task_id, sandbox_id, FrameKind.FENCED)
    await doubles.told(task_id, "completed", state="completed")


def _names(events: list[FeedItem[FeedEvent]]) -> dict[str, list[object]]:
    """Return the events of each source in the order of arrival."""
    told: dict[str, list[object]] = {}
    for sent in events:
        if event := sent.event:
            source = event.sandbox_id if event.source == "log" else event.source
            told.setdefault(str(source), []).append(event.seq or event.event_id or event.kind)
    return told


async def _some(
    api: ApiProcess, task_id: str, after: str | None, most: int, *, by_query: bool = False
) -> AsyncGenerator[FeedItem[FeedEvent]]:
    """Return at most so many events of one connection, and then cut the connection."""
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    path = f"/api/v1/tasks/{task_id}/events"
    if after and by_query:
        path += f"?after={after}"
    elif after:
        key["Last-Event-ID"] = after
    headers = [(name.encode(), value.encode()) for name, value in key.items()]
    async with (
        httpcore.AsyncConnectionPool() as pool,
        pool.stream("GET", api.url + path, headers=headers, extensions={"timeout": {"read": 20}}) as answer,
    ):
        assert answer.status == 200
        async for event in task_items(answer.aiter_stream()):
            yield event
            most -= 1
            if not most:
                return


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.stress) for seed in (2, 3))])
async def test_a_feed_cut_at_random_places_loses_and_repeats_nothing(api: ApiProcess, nats_url: str, seed: int):
    chance = random.Random(seed)
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client, asyncio.TaskGroup() as tasks:
        task_id, first = await _new_task(doubles, client)
        second = new_id("sbx")
        await ensure_log_stream(doubles.bus, second)
        tasks.create_task(_run(doubles, task_id, [first, second], pace_s=0.01))

        got: list[FeedItem[FeedEvent]] = []
        after: str | None = None
        while not got or got[-1].name != "end":
            async with aclosing(
                _some(api, task_id, after, chance.randint(1, 9), by_query=chance.random() < 0.5)
            ) as events:
                async for sent in events:
                    got.append(sent)
                    after = sent.position

        whole = [sent async for sent in client.tasks.events(task_id)]

    assert _names(got) == _names(whole)
    assert _names(got)[first] == ["opened", *range(1, 14), "fenced"]
    assert _names(got)[second] == ["opened", *range(1, 14), "fenced"]
    assert len(_names(got)["guardian"]) == 12
    assert [sent.name for sent in got].count("end") == 1
    assert not [sent for sent in got if sent.name == "reset"]


async def test_every_position_of_a_finished_feed_yields_exactly_the_rest(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, sandbox_id = await _new_task(doubles, client)
        await _run(doubles, task_id, [sandbox_id])
        whole = [sent async for sent in client.tasks.events(task_id, follow=False)]

        for cut, sent in enumerate(whole):
            rest = [later async for later in client.tasks.events(task_id, sent.position, follow=False)]
            joined = _names(whole[: cut + 1])
            for source, told in _names(rest).items():
                joined.setdefault(source, []).extend(told)

            assert joined == _names(whole)


@pytest.mark.parametrize("position", ["garbage", "eyJ0IjoidHNrX290aGVyIn0", "%F0%9F%A6%86", "A" * 9000])
async def test_an_unknown_position_is_answered_with_reset_and_the_beginning(
    api: ApiProcess, nats_url: str, position: str
):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, _ = await _new_task(doubles, client)

        got = [sent async for sent in client.tasks.events(task_id, position, follow=False)]

    assert [sent.name for sent in got] == ["reset", "task"]


async def test_position_beyond_the_end_of_its_stream_is_answered_with_reset(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, _ = await _new_task(doubles, client)
        from muster.management_api.tasks.domain.task_cursor import TaskCursor

        beyond = TaskCursor(task_id=task_id, tasks=10**12).token()

        got = [sent async for sent in client.tasks.events(task_id, beyond, follow=False)]

    assert [sent.name for sent in got] == ["reset", "task"]


async def test_position_cannot_read_the_log_of_another_task(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, _ = await _new_task(doubles, client)
        other, its_sandbox = await _new_task(doubles, client)
        await _run(doubles, other, [its_sandbox])
        from muster.management_api.tasks.domain.task_cursor import LogPosition, TaskCursor

        forged = TaskCursor(task_id=task_id, logs={its_sandbox: LogPosition()}).token()

        got = [sent async for sent in client.tasks.events(task_id, forged, follow=False)]

    assert {sent.event.task_id for sent in got if sent.event} == {task_id}


async def test_a_live_event_arrives_at_once_and_its_body_is_on_one_line(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, sandbox_id = await _new_task(doubles, client)
        async with aclosing(client.tasks.events(task_id)) as events:
            assert (await anext(events)).name == "task"
            await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
            assert (await anext(events)).name == "task"
            came, took_s = list[FeedItem[FeedEvent]](), list[float]()
            for _ in range(3):
                began = asyncio.get_running_loop().time()
                await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=1)
                came.append(await anext(events))
                took_s.append(asyncio.get_running_loop().time() - began)

    assert min(took_s) < RECHECK_S / 2, "it was woken, and did not look by chance"
    event = came[-1].event
    assert event is not None
    assert (event.seq, event.kind, event.origin) == (3, "ActionEvent", "agent")
    assert bytes(event.body).split() == [b'{"a":', b'"x\\ny"}']


async def test_position_now_of_a_task_yields_only_later_events(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, sandbox_id = await _new_task(doubles, client)
        await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
        await doubles.told(task_id, "running", sandbox_id, state="running")
        await doubles.frame(task_id, sandbox_id, FrameKind.OPENED)
        there = AttemptView(attempt_id="att_1", epoch=1, sandbox_id=sandbox_id, state="running", created_at=utc_now())
        doubles.change(task_id, attempts=[there])
        assert [sent async for sent in client.tasks.events(task_id, "now", follow=False)] == []
        async with aclosing(client.tasks.events(task_id, "now")) as events:
            coming = asyncio.ensure_future(anext(events))
            while not coming.done():
                await doubles.frame(task_id, sandbox_id, FrameKind.FINISHED)
                await asyncio.wait([coming], timeout=0.2)
            sent = await coming

    assert sent.event is not None
    assert (sent.event.source, sent.event.kind) == ("log", "finished")


async def test_end_of_a_log_is_sent_after_the_state_running(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
        task_id, sandbox_id = await _new_task(doubles, client)
        await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
        for kind in (FrameKind.OPENED, FrameKind.EVENTS, FrameKind.FINISHED):
            await doubles.frame(task_id, sandbox_id, kind, events=kind is FrameKind.EVENTS)
        early = [sent async for sent in client.tasks.events(task_id, follow=False)]
        async with aclosing(client.tasks.events(task_id)) as events:
            live = [await anext(events) for _ in early]
            await doubles.guard(task_id, "noticed", sandbox_id)  # Only the end of this log is missing.
            live.append(await anext(events))
            # The manager is slow: it stores the state change after the whole log.
            for state in ("running", "validating"):
                await doubles.told(task_id, state, sandbox_id, state=state)
            await doubles.frame(task_id, sandbox_id, FrameKind.CLOSED)
            await doubles.told(task_id, "completed", sandbox_id, state="completed")
            live += [sent async for sent in events]
        whole = [sent async for sent in client.tasks.events(task_id)]
        rests = [[sent async for sent in client.tasks.events(task_id, sent.position)] for sent in whole[:-1]]

    assert [sent.event.kind for sent in early if sent.event] == ["queued", "assigned", "opened", "ActionEvent"]
    for told in (live, whole):
        kinds = [sent.event.kind for sent in told if sent.event]
        assert kinds.index("running") < kinds.index("finished") < kinds.index("closed")
        assert len(kinds) == len(set(kinds)) == 10
    for cut, rest in enumerate(rests, start=1):
        assert _names(rest) == _names(whole[cut:])
        assert rest[-1].name == "end"


async def test_the_feed_needs_no_manager_once_a_task_is_known(api: ApiProcess, nats_url: str):
    async with AsyncMuster(api.url, ADMIN_KEY) as client:
        async with neighbours(nats_url) as doubles:
            task_id, sandbox_id = await _new_task(doubles, client)
            await _run(doubles, task_id, [sandbox_id])
        whole = [sent async for sent in client.tasks.events(task_id)]

    assert whole[-1].name == "end"
    assert _names(whole)[sandbox_id] == ["opened", *range(1, 14), "fenced"]


async def test_a_feed_survives_kill_9_of_the_api_and_of_nats(
    nats_server: Restartable, shared_database_url: str, tmp_path: Path
):
    with api_process(nats_server.url, tmp_path, shared_database_url) as api:
        async with (
            neighbours(nats_server.url) as doubles,
            AsyncMuster(api.url, ADMIN_KEY) as client,
            asyncio.TaskGroup() as tasks,
        ):
            task_id, sandbox_id = await _new_task(doubles, client)
            await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
            got: list[FeedItem[FeedEvent]] = []

            async def follow() -> None:
                async with aclosing(client.tasks.events(task_id)) as events:
                    async for sent in events:
                        got.append(sent)  # noqa: PERF401 - what came so far counts, should it fail

            following = tasks.create_task(follow())
            await doubles.frame(task_id, sandbox_id, FrameKind.OPENED)
            await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=3)
            api.kill()
            await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=3)
            api.start()
            await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=3)
            await nats_server.kill()
            await nats_server.start()
            await doubles.bus.connected.wait()
            await doubles.frame(task_id, sandbox_id, FrameKind.EVENTS, events=3)
            await doubles.frame(task_id, sandbox_id, FrameKind.CLOSED)
            await doubles.told(task_id, "completed", state="completed")
            async with asyncio.timeout(PATIENCE_S):
                await following

    assert got[-1].name == "end"
    assert _names(got)[sandbox_id] == ["opened", *range(1, 13), "closed"]


async def test_open_feeds_do_not_delay_a_stop(nats_url: str, shared_database_url: str, tmp_path: Path):
    with api_process(nats_url, tmp_path, shared_database_url, MUSTER_DRAIN_S="60") as api:
        async with neighbours(nats_url) as doubles, AsyncMuster(api.url, ADMIN_KEY) as client:
            task_id, _ = await _new_task(doubles, client)
            async with aclosing(client.tasks.events(task_id)) as events:
                await anext(events)
                began = asyncio.get_running_loop().time()
                code = await asyncio.to_thread(api.stop)

                assert code == 0
                assert asyncio.get_running_loop().time() - began < PROMPT_S
