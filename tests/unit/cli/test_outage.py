"""A feed that is cut is told of once, and waited for from its cut on."""

import asyncio

import pytest

from muster.cli.client import connection
from muster.cli.client import feed_outage as outages
from muster.cli.client.api_call_error import ApiCallError
from muster.cli.client.connection import ApiConnection
from muster.cli.client.feed_outage import LONGEST_S, FeedOutage
from muster.cli.console.output import Exit
from muster.common.contract import encode
from muster.common.contracts.problem import problem
from muster.common.faults import Unavailable
from tests.support.virtual_time import in_virtual_time

AWAY = ApiCallError("cannot reach it", Exit.UNREACHABLE)


@in_virtual_time
async def test_an_outage_after_a_long_quiet_is_waited_for_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    outage = FeedOutage()
    await asyncio.sleep(10 * LONGEST_S)
    for _ in range(2):
        for _ in range(20):
            outage.record_failure(AWAY)
            await asyncio.sleep(0.5)
        outage.record_event(new=True)
    assert capsys.readouterr().err == "muster: cannot reach it; still trying\n" * 2

    outage.record_failure(AWAY)
    await asyncio.sleep(LONGEST_S + 1)
    with pytest.raises(ApiCallError, match="cannot reach it"):
        outage.record_failure(AWAY)


@in_virtual_time
async def test_what_does_not_pass_is_not_waited_for() -> None:
    with pytest.raises(ApiCallError, match="no such task"):
        FeedOutage().record_failure(ApiCallError("no such task", Exit.NOT_FOUND, status=404))


@in_virtual_time
async def test_connections_that_bring_nothing_do_not_end_an_outage_but_one_that_stood_does() -> None:
    outage = FeedOutage()
    with pytest.raises(ApiCallError, match="cannot reach it"):
        while True:
            outage.record_event(new=False)
            outage.record_failure(AWAY)
            await asyncio.sleep(0.5)

    outage = FeedOutage()
    for _ in range(10):
        outage.record_event(new=False)
        await asyncio.sleep(LONGEST_S)
        outage.record_failure(AWAY)


async def test_a_feed_that_says_nothing_but_a_problem_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_S", 0.0)
    monkeypatch.setattr(outages, "LONGEST_S", 0.5)
    told = encode(problem(Unavailable("GUARDIAN is away"), trace_id="0"))
    said = b"id: 7\nevent: task\ndata: {}\n\nevent: problem\ndata: " + told + b"\n\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with ApiConnection(url, "key", deadline_s=30) as api:
            with pytest.raises(ApiCallError, match="GUARDIAN is away"):
                async for _ in api.feed("/x", follow=False):
                    pass
