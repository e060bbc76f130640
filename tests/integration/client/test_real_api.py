"""Both clients call a real API. Doubles replace the other services."""

import asyncio
from typing import Any

import pytest

from muster.client import ApiStatusError, Muster, NewTask
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.ids import new_id
from tests.support.api import ADMIN_KEY, ApiProcess, ensure_log_stream, neighbours
from tests.support.both_clients import Act, Flavour, PassingTime, both, using
from tests.support.cutting_proxy import CuttingProxy

HELLO = NewTask(objective="Say hello.", package="echo", labels={"team": "core"})


@both
async def test_task_is_submitted_read_listed_steered_and_cancelled(api: ApiProcess, nats_url: str, flavour: Flavour):
    async def do(act: Act) -> Any:
        return await using(flavour, api.url, act, key=ADMIN_KEY)

    async with neighbours(nats_url) as doubles:
        task = await do(lambda client: client.tasks.submit(HELLO))
        assert (await do(lambda client: client.tasks.get(task.task_id))) == task
        page = await do(lambda client: client.tasks.list(state="queued", labels={"team": "core"}, limit=1))
        assert [one.task_id for one in page.tasks] == [task.task_id]
        steered = await do(lambda client: client.tasks.steer(task.task_id, "look again", urgent=True))
        assert (steered.stage, doubles.steered[-1].urgent) == ("issued", True)
        assert (await do(lambda client: client.tasks.report(task.task_id))).task_id == task.task_id
        assert (await do(lambda client: client.sandboxes.list(task.task_id))).sandboxes == []
        doubles.know_sandbox("sbx_1", task.task_id)
        output = await do(lambda client: client.sandboxes.exec("sbx_1", "ls -l", timeout_s=20))
        assert (output.exit_code, output.output.splitlines()[0]) == (3, "ran ls -l")
        assert (await do(lambda client: client.sandboxes.output("sbx_1", -4))).text == "two\n"
        assert (await do(lambda client: client.sandboxes.diff("sbx_1", at=3))).seq == 3
        cancelled = await do(lambda client: client.tasks.cancel(task.task_id, "enough"))
        assert cancelled.state == "cancelled"

    assert (await do(lambda client: client.whoami())).role == "admin"
    assert (await do(lambda client: client.health())).version


@both
async def test_all_reads_every_page(api: ApiProcess, nats_url: str, flavour: Flavour):
    async with neighbours(nats_url) as doubles:
        doubles.largest_page = 2
        for _ in range(5):
            await using(flavour, api.url, lambda client: client.tasks.submit(HELLO), key=ADMIN_KEY)
        found = await using(flavour, api.url, lambda client: client.tasks.all(labels={"team": "core"}), key=ADMIN_KEY)

        assert sorted(task.task_id for task in found) == sorted(doubles.tasks)


@both
async def test_refused_request_has_status_and_field(api: ApiProcess, nats_url: str, flavour: Flavour):
    async with neighbours(nats_url):
        acts: list[Act] = [
            lambda client: client.tasks.submit(NewTask(objective="")),
            lambda client: client.tasks.get("tsk_none"),
        ]
        refusals: list[ApiStatusError] = []
        for act in acts:
            with pytest.raises(ApiStatusError) as refused:
                await using(flavour, api.url, act, key=ADMIN_KEY)
            refusals.append(refused.value)

    assert [(error.status, error.field) for error in refusals] == [(422, "$.objective"), (404, "$.task_id")]
    assert str(refusals[1]) == "there is no task tsk_none"


@both
async def test_post_whose_response_was_cut_off_is_performed_once(api: ApiProcess, nats_url: str, flavour: Flavour):
    proxy = CuttingProxy(api.url, 0)
    async with neighbours(nats_url) as doubles, proxy.listening() as url:
        task = await using(flavour, url, lambda client: client.tasks.submit(HELLO), key=ADMIN_KEY)

    assert proxy.cut == 1
    assert list(doubles.tasks) == [task.task_id]


@both
async def test_repeated_idempotency_key_returns_the_same_task(api: ApiProcess, nats_url: str, flavour: Flavour):
    key = new_id("req")
    async with neighbours(nats_url) as doubles:
        before, after = [
            await using(flavour, api.url, lambda client: client.tasks.submit(HELLO, idempotency_key=key), key=ADMIN_KEY)
            for _ in range(2)
        ]

    assert before.task_id == after.task_id
    assert len(doubles.tasks) == 1


async def test_several_threads_share_a_client(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        with Muster(api.url, ADMIN_KEY) as client:
            submitted = await asyncio.gather(*[asyncio.to_thread(client.tasks.submit, HELLO) for _ in range(8)])

    assert sorted(task.task_id for task in submitted) == sorted(doubles.tasks)


@both
async def test_feed_over_cut_connections_yields_each_event_once(api: ApiProcess, nats_url: str, flavour: Flavour):
    proxy = CuttingProxy(api.url, 400, 900, 1_600, 2_500)
    async with neighbours(nats_url) as doubles, proxy.listening() as url:
        task = await using(flavour, api.url, lambda client: client.tasks.submit(HELLO), key=ADMIN_KEY)
        sandbox_id = new_id("sbx")
        await ensure_log_stream(doubles.bus, sandbox_id)
        await doubles.told(task.task_id, "assigned", sandbox_id, state="assigned")
        await doubles.frame(task.task_id, sandbox_id, FrameKind.EVENTS, events=12)
        await doubles.frame(task.task_id, sandbox_id, FrameKind.CLOSED)
        await doubles.told(task.task_id, "completed", state="completed")
        items = await using(
            flavour, url, lambda client: client.tasks.events(task.task_id), PassingTime(), key=ADMIN_KEY
        )
        stored = items[6].position
        rest = await using(flavour, url, lambda client: client.tasks.events(task.task_id, stored), key=ADMIN_KEY)

    assert proxy.cut == 4
    assert [item.event.seq for item in items if item.event and item.event.seq] == list(range(1, 13))
    assert items[-1].name == "end"
    assert [item.position for item in rest] == [item.position for item in items[7:]], (
        "a restarted program resumes at its stored position"
    )


@both
async def test_wait_returns_the_task_when_it_has_ended(api: ApiProcess, nats_url: str, flavour: Flavour):
    async with neighbours(nats_url) as doubles, asyncio.TaskGroup() as tasks:
        task = await using(flavour, api.url, lambda client: client.tasks.submit(HELLO), key=ADMIN_KEY)
        await doubles.told(task.task_id, "queued")
        waiting = tasks.create_task(
            using(flavour, api.url, lambda client: client.tasks.wait(task.task_id, timeout_s=60), key=ADMIN_KEY)
        )
        await doubles.told(task.task_id, "completed", state="completed")
        assert (await waiting).state == "completed"
        again = await using(flavour, api.url, lambda client: client.tasks.wait(task.task_id), key=ADMIN_KEY)

    assert again.state == "completed", "the task had ended before the call"
