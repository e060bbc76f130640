"""Both clients call a server that breaks connections, is busy or is slow. The sockets are real, the time is virtual."""

import asyncio

import pytest

from muster.client import (
    AFTER_CUTS_ONLY,
    NOW,
    ApiCallError,
    ApiStatusError,
    ApiTimeoutError,
    ApiUnreachableError,
    AsyncMuster,
    Muster,
    NewTask,
    UnexpectedReplyError,
)
from muster.client.feed_outage import LONGEST_S
from muster.common.contract import encode
from muster.common.contracts.problem import problem
from muster.common.faults import Unavailable
from tests.support.both_clients import KEY, Flavour, PassingTime, both, using
from tests.support.scripted_server import ScriptedServer, answer, stream

OK = answer()
UNDER_WAY = answer(409, Retry_After="7")
BUSY = answer(503)


@both
async def test_post_without_response_is_repeated_with_the_same_key(flavour: Flavour):
    server, time = ScriptedServer(None, UNDER_WAY, UNDER_WAY, OK, OK), PassingTime()
    async with server.listening() as url:
        for _ in range(2):
            await using(flavour, url, lambda api: api.connection.call("POST", "/x", object, body={"a": 1}), time)

    keys = [head["idempotency-key"] for head in server.heads]
    assert keys[0] == keys[1] == keys[2] == keys[3] != keys[4]
    assert all(key.startswith("req_") for key in keys)
    assert time.slept_s == [7, 7], "the first try got its result after two pauses"


@both
async def test_result_of_an_unfinished_first_try_is_awaited_until_the_deadline(flavour: Flavour):
    server = ScriptedServer(None, UNDER_WAY, UNDER_WAY, UNDER_WAY)
    async with server.listening() as url:
        with pytest.raises(ApiTimeoutError, match="within 15 s"):
            await using(flavour, url, lambda api: api.connection.call("POST", "/x", object), PassingTime())


@both
async def test_a_conflict_on_the_first_try_is_a_conflict(flavour: Flavour):
    async with ScriptedServer(UNDER_WAY).listening() as url:
        with pytest.raises(ApiStatusError) as refused:
            await using(flavour, url, lambda api: api.connection.call("POST", "/x", object))

    assert (refused.value.status, refused.value.retry_after_s) == (409, 7)


@both
@pytest.mark.parametrize(("method", "sent"), [("GET", 3), ("POST", 3), ("PUT", 1), ("DELETE", 1)])
async def test_only_repeatable_requests_are_sent_again_a_limited_number_of_times(
    flavour: Flavour, method: str, sent: int
):
    server = ScriptedServer(None, None, None, None)
    async with server.listening() as url:
        with pytest.raises(ApiUnreachableError):
            await using(flavour, url, lambda api: api.connection.call(method, "/x", object))

    assert len(server.heads) == sent


@both
async def test_busy_api_is_called_again_after_growing_pauses_or_after_retry_after(flavour: Flavour):
    time = PassingTime()
    async with ScriptedServer(BUSY, answer(429, Retry_After="4"), OK, BUSY, BUSY, BUSY).listening() as url:
        await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), time)
        assert time.slept_s == [0.5, 4]
        with pytest.raises(ApiStatusError, match="503"):
            await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), time)

    assert time.slept_s[2:] == [0.5, 1]


@both
async def test_pause_that_would_end_after_the_deadline_is_not_started(flavour: Flavour):
    time = PassingTime()
    async with ScriptedServer(answer(429, Retry_After="60")).listening() as url:
        with pytest.raises(ApiStatusError) as refused:
            await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), time)

    assert (refused.value.status, refused.value.retry_after_s, time.slept_s) == (429, 60, [])


@both
@pytest.mark.parametrize(("method", "status", "sent"), [("PUT", 429, 3), ("PUT", 503, 1), ("DELETE", 504, 1)])
async def test_put_and_delete_are_repeated_only_after_status_429(flavour: Flavour, method: str, status: int, sent: int):
    server = ScriptedServer(*[answer(status)] * 4)
    async with server.listening() as url:
        with pytest.raises(ApiStatusError):
            await using(flavour, url, lambda api: api.connection.call(method, "/x", object), PassingTime())

    assert len(server.heads) == sent


@both
async def test_client_without_retries_returns_every_response_at_once(flavour: Flavour):
    server = ScriptedServer(BUSY, None, OK)
    async with server.listening() as url:
        with pytest.raises(ApiStatusError, match="503"):
            await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), retries=AFTER_CUTS_ONLY)
        await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), retries=AFTER_CUTS_ONLY)

    assert len(server.heads) == 3


@both
@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK" + b"x" * 5_000, answer(body=b"x" * 5_000)], ids=["head", "body"])
async def test_server_that_sends_single_bytes_cannot_hold_a_call_beyond_its_deadline(flavour: Flavour, said: bytes):
    time = PassingTime()

    def a_second_passes() -> None:
        time.now_s += 1

    async with ScriptedServer(said, drip=a_second_passes).listening() as url:
        with pytest.raises(ApiTimeoutError, match="within 200 s"):
            await using(flavour, url, lambda api: api.connection.call("GET", "/x", object), time, deadline_s=200.0)

    assert time.now_s >= 200


@both
async def test_feed_that_starts_now_yields_an_item_for_each_connection(flavour: Flavour):
    cut, end = b"id: p1\nevent: agent\ndata: {}\n\n", b"id: p2\nevent: end\ndata: {}\n\n"
    server = ScriptedServer(stream(cut), stream(end))
    async with server.listening() as url:
        seen = await using(flavour, url, lambda api: api.agents.events("agt_1", NOW, openings=True), PassingTime())

    assert [item.name for item in seen] == ["open", "agent", "open", "end"]
    assert [item.position for item in seen] == [NOW, "p1", "p1", "p2"], "the position to resume after each item"
    assert [one["last-event-id"] for one in server.heads] == [NOW, "p1"]


@both
async def test_reset_clears_the_position(flavour: Flavour):
    again = b"event: reset\ndata: {}\n\nid: p1\nevent: agent\ndata: {}\n\nid: p2\nevent: end\ndata: {}\n\n"
    async with ScriptedServer(stream(again)).listening() as url:
        seen = await using(flavour, url, lambda api: api.agents.events("agt_1", "old"))

    assert [(item.name, item.position) for item in seen] == [("reset", ""), ("agent", "p1"), ("end", "p2")]


@both
async def test_feed_that_sends_only_a_problem_is_given_up_and_reported_once(flavour: Flavour):
    told = encode(problem(Unavailable("GUARDIAN is away"), trace_id="0"))
    said = stream(b"id: 7\nevent: task\ndata: {}\n\nevent: problem\ndata: " + told + b"\n\n")
    time, reported = PassingTime(), list[ApiCallError]()
    async with ScriptedServer(*[said] * 500).listening() as url:
        with pytest.raises(ApiStatusError, match="GUARDIAN is away"):
            await using(flavour, url, lambda api: api.tasks.events("tsk_1"), time, on_outage=reported.append)

    assert time.now_s > LONGEST_S
    assert [str(error) for error in reported] == ["GUARDIAN is away"]


@both
async def test_reader_can_leave_a_feed_and_use_the_client_again(flavour: Flavour):
    endless = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9000\r\n\r\n"
    said = endless + b"id: p1\nevent: agent\ndata: {}\n\n"

    async def first_names() -> list[str]:
        async with AsyncMuster(server.url, KEY) as client:
            first = [await anext(client.agents.events("agt_1")) for _ in range(2)]
            return [item.name for item in first]

    def first_names_blocking() -> list[str]:
        with Muster(server.url, KEY) as client:
            return [next(client.agents.events("agt_1")).name for _ in range(2)]

    server = ScriptedServer(said, said)
    async with server.listening():
        names = await (first_names() if flavour == "async" else asyncio.to_thread(first_names_blocking))

    assert names == ["agent", "agent"]


@both
async def test_response_of_another_server_is_reported(flavour: Flavour):
    async with ScriptedServer(OK, OK).listening() as url:
        with pytest.raises(UnexpectedReplyError, match="does not answer as a Muster API"):
            await using(flavour, url, lambda api: api.tasks.events("tsk_1", follow=False))
        with pytest.raises(UnexpectedReplyError, match="does not answer as a Muster API"):
            await using(flavour, url, lambda api: api.tasks.get("tsk_1"))


@both
async def test_wait_for_a_task_ends_at_its_time_limit(flavour: Flavour):
    time = PassingTime()
    server = ScriptedServer(*[stream(b": nothing yet\n\n")] * 100)
    async with server.listening() as url:
        with pytest.raises(ApiTimeoutError, match="task tsk_1 did not end within 5 s"):
            await using(flavour, url, lambda api: api.tasks.wait("tsk_1", timeout_s=5), time)

    assert len(server.heads) == 10, "two connections a second"


@both
async def test_unset_fields_are_not_sent(flavour: Flavour):
    server = ScriptedServer(OK)
    async with server.listening() as url:
        with pytest.raises(UnexpectedReplyError):
            await using(flavour, url, lambda api: api.tasks.submit(NewTask(objective="x", package="echo")))

    assert server.bodies == [b'{"objective":"x","package":"echo"}']


@both
async def test_missing_server_is_reported(flavour: Flavour):
    async with ScriptedServer().listening() as url:
        pass

    with pytest.raises(ApiUnreachableError, match="no server listens there"):
        await using(flavour, url, lambda api: api.whoami())


@both
async def test_no_error_contains_the_key(flavour: Flavour):
    said = [None, answer(500), answer(body=b"nonsense")]
    for one in said:
        async with ScriptedServer(*[one] * 3).listening() as url:
            with pytest.raises(ApiCallError) as refused:
                await using(flavour, url, lambda api: api.whoami())
            assert KEY not in f"{refused.value!r} {refused.value}"


@both
async def test_redirect_is_no_success(flavour: Flavour):
    async with ScriptedServer(answer(308)).listening() as url:
        with pytest.raises(UnexpectedReplyError, match="308"):
            await using(flavour, url, lambda api: api.keys.revoke("key_1"))


@both
@pytest.mark.parametrize("key", ["", "order 17", "заказ-17", "a\nb", "x" * 256])
async def test_idempotency_key_that_no_header_can_contain_is_refused(flavour: Flavour, key: str):
    server = ScriptedServer(OK)
    async with server.listening() as url:
        with pytest.raises(ValueError, match="no idempotency key"):
            await using(flavour, url, lambda api: api.tasks.submit(NewTask(objective="x"), idempotency_key=key))

    assert server.heads == []


@both
async def test_number_that_json_cannot_contain_is_refused(flavour: Flavour):
    server, infinite = ScriptedServer(OK, OK), float("inf")
    async with server.listening() as url:
        with pytest.raises(ValueError, match=r"\$\.max_cost_usd is nan"):
            task = NewTask(objective="x", max_cost_usd=float("nan"))
            await using(flavour, url, lambda api: api.tasks.submit(task))
        with pytest.raises(ValueError, match=r"\$\.metadata\.n\[1\] is inf"):
            task = NewTask(objective="x", metadata={"n": [1, infinite]})
            await using(flavour, url, lambda api: api.tasks.submit(task))

    assert server.heads == []


@both
async def test_feed_with_an_unreadable_problem_is_reported(flavour: Flavour):
    async with ScriptedServer(stream(b"event: problem\ndata: {}\n\n")).listening() as url:
        with pytest.raises(UnexpectedReplyError, match="does not answer as a Muster API"):
            await using(flavour, url, lambda api: api.tasks.events("tsk_1", follow=False))
