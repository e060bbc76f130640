"""The requests that the proxy of sandboxes reads, refuses and writes anew. Nothing is dialled."""

import asyncio

import pytest

from muster.sandbox_gateway.egress.routes.client_side import MOST_HEAD_BYTES
from tests.support.patience import PATIENCE_S
from tests.support.proxy_place import ProxyPlace


async def test_head_that_is_too_long_is_refused(place: ProxyPlace):
    _, token = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1\r\nX: " + "x" * (2 * MOST_HEAD_BYTES)
    assert (await place.status(line, token))[0] == 431


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"CONNECT public.example:443\r\n\r\n",
        b"GET http://public.example/ HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST http://public.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST http://public.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET http://public.example/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_request_that_is_not_plain_http_is_refused(place: ProxyPlace, head: bytes):
    status, _ = await place.status(head)
    assert status in (400, 501)
    assert place.internet.dialled == []


async def test_plain_request_is_written_anew_and_carries_no_second_request(place: ProxyPlace):
    owner, token = await place.sandbox()
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        got.extend(await reader.readexactly(5))
        writer.write(b"HTTP/1.1 200 OK\r\nKeep-Alive: 9\r\nX-A: b\r\nContent-Length: 4\r\n\r\ndone")
        got.extend(await reader.read())

    place.internet.serve = serve
    request = (
        "POST http://public.example/a?b HTTP/1.1\r\n"
        f"Proxy-Authorization: Bearer {token}\r\n"
        "Host: evil.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n"
        "Content-Length: 5\r\n\r\nhello"
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect(request.encode())
        answer = await client.reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"done"
    assert b"keep-alive" not in head.lower()
    assert b"connection: close" in head.lower()
    assert bytes(got).startswith(b"POST /a?b HTTP/1.1\r\n")
    assert b"evil" not in got
    assert b"Bearer" not in got
    assert b"x-hop" not in got.lower()
    assert got.lower().count(b"host: public.example\r\n") == 1
    (made,) = await place.settled(owner)
    assert made.allowed
    assert made.sent_bytes == len(got)


async def test_connect_with_a_body_is_refused(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT public.example:443 HTTP/1.1\r\nContent-Length: 3", token))[0] == 400
    assert place.internet.dialled == []


async def test_host_that_answers_no_http_is_a_bad_gateway(place: ProxyPlace):
    _, token = await place.sandbox()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    place.internet.serve = serve
    assert (await place.status("GET http://public.example/ HTTP/1.1", token))[0] == 502
