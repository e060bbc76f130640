"""The hosts and addresses that the proxy of sandboxes reaches, and what it records. Nothing is dialled."""

import asyncio

import pytest

from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S
from tests.support.proxy_place import ProxyPlace


async def test_allowed_host_is_reached_and_its_bytes_are_recorded(place: ProxyPlace):
    owner, token = await place.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        client = await place.connect("CONNECT PUBLIC.example.:443 HTTP/1.1", token)
        assert (await client.head())[0] == 200
        client.writer.write(b"hello")
        assert await client.reader.readexactly(5) == b"hello"
        client.writer.write_eof()
        assert await client.reader.read() == b""
    (made,) = await eventually(lambda: place.recorded(owner))
    assert (made.host, made.port, made.allowed, made.reason) == ("public.example", 443, True, "")
    assert (made.sent_bytes, made.received_bytes, made.connections, made.open) == (5, 5, 1, 0)
    assert place.internet.dialled == [("203.0.112.5", 443)]


@pytest.mark.parametrize(
    "target",
    [
        *("evil.example:443", "public.example:22", "public.example:8443", "sub.example:443", "localhost:443"),
        *("rebound.example:443", "metadata.example:80", "index.example:80", "127.0.0.1:80", "127.0.0.1:8710"),
        *("[::1]:443", "[::ffff:7f00:1]:443", "169.254.169.254:80", "gateway:80", "xn--pblic-kva.example:443"),
    ],
)
async def test_host_or_address_that_is_not_allowed_is_refused_and_recorded_and_not_dialled(
    place: ProxyPlace, target: str
):
    owner, token = await place.sandbox()
    status, reason = await place.status(f"CONNECT {target} HTTP/1.1", token)
    assert status == 403
    assert "allow" in reason or "private" in reason
    assert place.internet.dialled == []
    (made,) = await place.recorded(owner)
    assert not made.allowed
    assert made.reason


@pytest.mark.parametrize(
    "line",
    [
        *("CONNECT 2130706433:80", "CONNECT 0x7f000001:80", "CONNECT 0177.0.0.1:80", "CONNECT 127.1:80"),
        *("CONNECT user@public.example:443", "CONNECT public.example", "CONNECT public.example:0", "CONNECT :443"),
        *("GET /", "GET https://public.example/", "GET http://user@public.example/", "GET http://127.1/", "GET x"),
    ],
)
async def test_unusual_target_is_refused_and_recorded(place: ProxyPlace, line: str):
    owner, token = await place.sandbox()
    assert (await place.status(f"{line} HTTP/1.1", token))[0] == 400
    assert (place.internet.resolved, place.internet.dialled) == ([], [])
    (made,) = await place.recorded(owner)
    assert not made.allowed


async def test_name_that_is_not_allowed_is_not_even_looked_up(place: ProxyPlace):
    _, token = await place.sandbox()
    await place.status("CONNECT secret-data.evil.example:443 HTTP/1.1", token)
    assert place.internet.resolved == []


async def test_only_the_public_one_of_several_addresses_is_dialled_and_the_name_is_looked_up_once(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT mixed.example:443 HTTP/1.1", token))[0] == 200
    assert place.internet.dialled == [("203.0.112.9", 443)]
    assert place.internet.resolved == ["mixed.example"]


async def test_private_address_is_reached_only_at_the_port_that_the_operator_lists(place: ProxyPlace):
    _, token = await place.sandbox()
    assert (await place.status("CONNECT index.example:80 HTTP/1.1", token))[0] == 403
    assert place.internet.dialled == []


async def test_host_that_cannot_be_resolved_is_shown_as_a_failure_and_not_as_a_refusal(place: ProxyPlace):
    owner, token = await place.sandbox()
    assert (await place.status("CONNECT unknown.example:443 HTTP/1.1", token))[0] == 502
    (made,) = await place.recorded(owner)
    assert made.allowed
    assert "cannot be resolved" in made.reason


@pytest.mark.parametrize(("hosts", "status"), [(None, 403), (("index.example",), 403), (("public.example",), 200)])
async def test_task_reaches_only_the_hosts_that_it_names(place: ProxyPlace, hosts: tuple[str, ...], status: int):
    _, token = await place.sandbox(hosts=hosts)
    assert (await place.status("CONNECT public.example:443 HTTP/1.1", token))[0] == status


async def test_request_without_a_valid_token_is_refused(place: ProxyPlace):
    _, expired = await place.sandbox(expires_s=-1)
    _, token = await place.sandbox()
    line = "CONNECT public.example:443 HTTP/1.1"
    for wrong in (None, "wrong", expired, token[:-4] + "AAAA"):
        assert (await place.status(line, wrong))[0] == 407
    twice = f"{line}\r\nProxy-Authorization: Basic eDp5"
    assert (await place.status(twice, token))[0] == 400
    assert place.internet.dialled == []
