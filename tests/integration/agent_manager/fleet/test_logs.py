"""Reads of an agent's output by cursor return every line once and in order, also after a crash of the manager."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.common.contracts.agent_logs import AgentLogPage, GetAgentLogs
from muster.common.faults import InvalidMessage, NotFound
from muster.common.ids import new_id
from tests.support.process_agents import AgentPlace, agent_place, write_package

COUNTS = """
import time
for number in range(400):
    print("line", number)
    time.sleep(0.01)
print("unfinished", end="", flush=True)
time.sleep(1000)
"""
SAYS = """
import time
print("\\n".join(f"line {number}" for number in range(250)), flush=True)
time.sleep(1000)
"""


@pytest.fixture
async def place(nats_url: str, manager_database_url: str, tmp_path: Path) -> AsyncIterator[AgentPlace]:
    async with agent_place(nats_url, manager_database_url, tmp_path, lease_ttl_s=1.5, lease_every_s=0.4) as place:
        write_package(place.packages, "counts", COUNTS)
        write_package(place.packages, "says", SAYS)
        yield place


async def page(place: AgentPlace, agent_id: str, cursor: str | None = None, **fields: float) -> AgentLogPage:
    query = GetAgentLogs(agent_id=agent_id, cursor=cursor, **fields)  # type: ignore[arg-type]
    return await place.bus.request(query, timeout_s=60)


async def test_every_line_is_stored_once_although_managers_stop_and_start(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("counts")
    for _ in range(4):
        async with place.manager():
            await asyncio.sleep(0.4)  # The manager works for a random time.
    async with place.manager():
        lines = await place.lines(view.agent_id, lambda lines: len(lines) >= 400)
        await place.stop(view.agent_id)
        await place.until_state(view.agent_id, "stopped")
        lines = await place.lines(view.agent_id, lambda lines: len(lines) > 400)

    assert [line.text for line in lines] == [*(f"line {number}" for number in range(400)), "unfinished"]
    assert [line.n for line in lines] == list(range(1, 402))
    assert {line.launch for line in lines} == {1}
    assert [line.at for line in lines] == sorted(line.at for line in lines)


async def test_pages_are_contiguous_and_a_read_without_cursor_returns_the_last_lines(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("says")
        await place.lines(view.agent_id, lambda lines: len(lines) == 250)
        last = await page(place, view.agent_id, limit=7)
        end = await page(place, view.agent_id, last.next_cursor, limit=7)
        cursor, numbers = "MC4w", list[int]()
        while some := (got := await page(place, view.agent_id, cursor, limit=60)).lines:
            numbers += [line.n for line in some]
            assert len(some) <= 60
            cursor = got.next_cursor

    assert [line.n for line in last.lines] == list(range(244, 251))
    assert (end.lines, end.next_cursor) == ([], last.next_cursor)
    assert numbers == list(range(1, 251))


async def test_waiting_read_returns_the_next_line_or_an_empty_page(place: AgentPlace) -> None:
    async with place.manager():
        view = await place.started("says")
        await place.lines(view.agent_id, lambda lines: len(lines) == 250)
        first = await page(place, view.agent_id)
        nothing = await page(place, view.agent_id, first.next_cursor, wait_s=0.3)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(page(place, view.agent_id, first.next_cursor, wait_s=25))
            await place.restart(view.agent_id)
        woken = waiting.result()

    assert (nothing.lines, nothing.next_cursor) == ([], first.next_cursor)
    first = woken.lines[0]
    assert (first.kind, first.launch, first.text) == ("ended", 1, "launch 1 ended: ended by SIGTERM")


async def test_invalid_log_query_is_refused_with_the_name_of_its_field(place: AgentPlace) -> None:
    async with place.manager():
        agent_id = await place.register("says")
        silent = await page(place, agent_id)
        refusals: list[tuple[dict[str, float], str | None, str]] = [
            ({"limit": 0}, None, "$.limit"),
            ({"limit": 1001}, None, "$.limit"),
            ({"wait_s": 26}, None, "$.wait_s"),
            ({}, "not a cursor", "$.cursor"),
            ({}, "LTE.x", "$.cursor"),
        ]
        for fields, cursor, field in refusals:
            with pytest.raises(InvalidMessage) as refused:
                await page(place, agent_id, cursor, **fields)
            assert refused.value.field == field
        with pytest.raises(NotFound):
            await page(place, new_id("agt"))

    assert silent.lines == []
