"""What the client sends to a server that breaks off: one action has one key, however often it is sent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from muster.cli.client.api_call_error import ApiCallError
from muster.cli.client.connection import NOW, ApiConnection
from muster.cli.console.output import Exit

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
IN_FLIGHT = b"HTTP/1.1 409 Conflict\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}"


class Breaking:
    """Answers with what is left of `answers`; with None it hangs up."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers, self.heads = list(answers), list[dict[str, str]]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(fields.get("content-length", 0)))
                self.heads.append(fields | {"method": head[0].split()[0]})
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def connected(server: Breaking) -> AsyncGenerator[ApiConnection]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, ApiConnection(f"http://127.0.0.1:{port}", "key", deadline_s=30) as connection:
        yield connection


async def test_a_post_that_got_no_answer_is_sent_again_with_the_same_key():
    server = Breaking(None, IN_FLIGHT, OK, OK)
    async with connected(server) as connection:
        await connection.call("POST", "/x", object, body={"a": 1})
        await connection.call("POST", "/x", object, body={"a": 1})

    keys = [head["idempotency-key"] for head in server.heads]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(key.startswith("req_") for key in keys)


async def test_a_conflict_on_the_first_try_is_a_conflict():
    async with connected(Breaking(IN_FLIGHT)) as connection:
        with pytest.raises(ApiCallError) as refused:
            await connection.call("POST", "/x", object)

    assert refused.value.exit_code is Exit.CONFLICT


@pytest.mark.parametrize(("method", "sent"), [("GET", 3), ("POST", 3), ("PUT", 1), ("DELETE", 1)])
async def test_only_what_may_be_repeated_is_sent_again_and_not_for_ever(method: str, sent: int):
    server = Breaking(None, None, None, None)
    async with connected(server) as connection:
        with pytest.raises(ApiCallError) as refused:
            await connection.call(method, "/x", object)

    assert (refused.value.exit_code, len(server.heads)) == (Exit.UNREACHABLE, sent)


async def test_a_feed_from_now_on_asks_for_that_and_tells_of_each_connection():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    cut, end = b"id: p1\nevent: agent\ndata: {}\n\n", b"id: p2\nevent: end\ndata: {}\n\n"
    server = Breaking(*(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) for body in (cut, end)))
    async with connected(server) as connection:
        seen = [sent.name async for sent in connection.feed("/x", NOW, openings=True)]

    assert seen == ["open", "agent", "open", "end"]
    assert [one["last-event-id"] for one in server.heads] == [NOW, "p1"]


async def test_what_is_no_feed_is_told_as_that():
    async with connected(Breaking(OK)) as connection:
        with pytest.raises(ApiCallError, match="does not answer as a Muster API") as refused:
            [sent async for sent in connection.feed("/x", follow=False)]

    assert refused.value.exit_code is Exit.FAILURE
