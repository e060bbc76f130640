"""Cursors of an agent's output after the stream `AGENT_LOGS` was deleted and created again."""

from collections.abc import AsyncIterator

import pytest

from muster.agent_manager.fleet.store.agents import default_id
from muster.agent_manager.fleet.store.logs import AgentLogCursor, AgentLogs
from muster.agent_manager.fleet.wiring import log_answers
from muster.agent_manager.streams import STREAMS
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import ensure_stream, jetstream
from muster.common.clock import utc_now
from muster.common.contracts.agent_logs import AgentLogPage, AgentOutput, GetAgentLogs, LoggedLine
from tests.support.managed import Place, open_place
from tests.support.servers import Restartable

AGENT = default_id("echo")


@pytest.fixture
async def place(nats_server: Restartable, manager_database_url: str) -> AsyncIterator[Place]:
    async with (
        open_place(nats_server.url, manager_database_url) as place,
        log_answers(place.bus, place.database, place.settings),
    ):
        yield place


async def write(place: Place, *texts: str) -> None:
    logs = AgentLogs(place.bus, MessageStore(place.bus))
    for text in texts:
        tail = await logs.tail(AGENT)
        line = LoggedLine(n=(tail.position.lines if tail else 0) + 1, at=utc_now(), text=text)
        frame = AgentOutput(agent_id=AGENT, launch=1, lines=[line], next_offset=line.n)
        await logs.append(frame, last=tail.stored if tail else 0)


async def made_anew(place: Place) -> None:
    await jetstream(place.bus, "STREAM.DELETE.AGENT_LOGS", {})
    for stream in STREAMS:
        await ensure_stream(place.bus, stream)


async def read(place: Place, cursor: str) -> AgentLogPage:
    return await place.bus.request(GetAgentLogs(agent_id=AGENT, cursor=cursor), timeout_s=30)


def texts(page: AgentLogPage) -> list[str]:
    return [line.text for line in page.lines if line.kind == "output"]


async def test_cursor_beyond_a_recreated_log_reads_it_from_the_beginning(place: Place) -> None:
    await write(place, "a", "b", "c")
    before = await read(place, "MC4w")
    await made_anew(place)
    await write(place, "d")

    after = await read(place, before.next_cursor)
    await write(place, "e")
    last = await read(place, after.next_cursor)

    assert (texts(before), before.reset) == (["a", "b", "c"], False)
    assert (texts(after), after.reset) == (["d"], True)
    assert after.lines[0].kind == "dropped", "lines between the two may be missing"
    assert (texts(last), last.reset) == (["e"], False)


async def test_cursor_before_the_end_of_a_recreated_log_misses_no_line(place: Place) -> None:
    await write(place, "a")
    before = await read(place, "MC4w")
    await made_anew(place)
    await write(place, "d", "e", "f")

    after = await read(place, before.next_cursor)

    assert (texts(after), after.reset) == (["d", "e", "f"], True)


async def test_lines_that_the_stream_has_deleted_are_counted_at_their_place(place: Place) -> None:
    await write(place, "a", "b", "c", "d")
    before = await place.bus.request(GetAgentLogs(agent_id=AGENT, cursor="MC4w", limit=1), timeout_s=30)
    await jetstream(place.bus, "STREAM.PURGE.AGENT_LOGS", {"filter": f"agent.{AGENT}.log", "keep": 2})

    whole, last = await read(place, "MC4w"), await place.bus.request(GetAgentLogs(agent_id=AGENT), timeout_s=30)
    resumed = await read(place, before.next_cursor)

    for page in (whole, last):
        assert [(line.kind, line.text) for line in page.lines] == [
            ("dropped", "2 lines dropped (over the age or size limit of the log)"),
            ("output", "c"),
            ("output", "d"),
        ]
    assert [(line.kind, line.text) for line in resumed.lines[:2]] == [
        ("dropped", "earlier lines are no longer stored"),
        ("output", "c"),
    ]


async def test_cursor_of_a_release_without_times_still_works(place: Place) -> None:
    await write(place, "a", "b")
    page = await place.bus.request(GetAgentLogs(agent_id=AGENT, cursor="MC4w", limit=1), timeout_s=30)

    after = await read(place, AgentLogCursor(page.lines[0].position, 1).written())

    assert (texts(after), after.reset) == (["b"], False)


async def test_cursor_of_an_emptied_log_reads_new_lines(place: Place) -> None:
    await write(place, "a", "b")
    before = await read(place, "MC4w")
    await made_anew(place)

    empty = await read(place, before.next_cursor)
    await write(place, "c")
    after = await read(place, empty.next_cursor)

    assert (texts(empty), empty.reset) == ([], True)
    assert (texts(after), after.reset) == (["c"], False)


async def test_cursor_at_the_end_of_a_log_is_not_beyond_it(place: Place) -> None:
    await write(place, "a")
    end = await read(place, "MC4w")

    assert (await read(place, end.next_cursor)).reset is False
