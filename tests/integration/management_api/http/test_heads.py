"""Heads of requests over raw sockets that no HTTP client would send: repeated headers and missing bodies."""

import asyncio
import http.client
from contextlib import closing

import pytest

from muster.common.contract import decode
from muster.common.contracts.problem import Problem
from muster.common.ids import new_id
from tests.contract.openapi import ROUTES
from tests.support.agents_double import agents_double
from tests.support.api import ADMIN_KEY, ApiProcess, neighbours
from tests.support.caller import Caller
from tests.support.patience import PATIENCE_S

AGENTS = "/api/v1/agents"
KEY = f"Bearer {ADMIN_KEY}"


async def raw(api: ApiProcess, first: str, *headers: tuple[str, str], body: str = "") -> tuple[int, str, bytes]:
    """Send these exact lines; return status, head and body of the response."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    lines = [f"{first} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "Connection: close", "", body]
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            writer.write("\r\n".join(lines).encode())
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), rest


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Authorization", KEY, "Bearer wrong"),
        ("Authorization", "Bearer wrong", KEY),
        ("Authorization", KEY, KEY),
        ("Host", "a", "b"),
        ("Content-Type", "application/json", "text/plain"),
        ("Idempotency-Key", "one", "other"),
        ("If-Match", '"1"', "*"),
        ("Last-Event-ID", "one", "other"),
    ],
)
async def test_a_header_given_twice_is_refused_by_its_name(api: ApiProcess, name: str, one: str, other: str):
    body = '{"name": "x", "role": "viewer"}'
    usual = {"Host": "x", "Authorization": KEY, "Content-Type": "application/json", "Content-Length": str(len(body))}
    rest = [header for header in usual.items() if header[0] != name]
    keys = (await Caller(api).done("GET", "/api/v1/keys?limit=1"))["keys"]

    for first in ("POST /api/v1/keys", "GET /api/v1/whoami", "GET /health", "GET /nowhere"):
        status, head, told = await raw(api, first, (name, one), *rest, (name, other), body=body)
        assert (status, decode(told, Problem).field) == (400, name), first
        assert "x-content-type-options: nosniff" in head
        assert "wrong" not in told.decode()
    assert (await Caller(api).done("GET", "/api/v1/keys?limit=1"))["keys"] == keys, "none was issued"


@pytest.mark.parametrize(
    "lengths",
    [
        [("Content-Length", "2"), ("Content-Length", "31")],
        [("Content-Length", "2"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "2")],
    ],
)
async def test_a_body_of_two_lengths_is_refused(api: ApiProcess, lengths: list[tuple[str, str]]):
    usual = [("Host", "x"), ("Authorization", KEY), ("Content-Type", "application/json")]
    status, _, _ = await raw(api, "POST /api/v1/keys", *usual, *lengths, body='{"name": "x", "role": "viewer"}')

    assert status == 400


@pytest.mark.parametrize("mebibytes", [9, 24])
async def test_client_with_a_too_large_body_can_read_the_error_response(api: ApiProcess, mebibytes: int):
    def send() -> int:
        host, _, port = api.url.removeprefix("http://").partition(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as client:
            usual = {"Authorization": KEY, "Content-Type": "application/json"}
            client.request("POST", "/api/v1/keys", b" " * (mebibytes << 20), usual)
            return client.getresponse().status

    assert await asyncio.to_thread(send) == 413


async def test_repeatable_header_may_be_given_twice(api: ApiProcess):
    accepts = [("Accept", "text/html"), ("Accept", "application/json"), ("Cookie", "a=b"), ("Cookie", "c=d")]
    status, _, _ = await raw(api, "GET /api/v1/whoami", ("Host", "x"), ("Authorization", KEY), *accepts)

    assert status == 200


async def test_head_answers_as_get_without_a_body_and_ends_also_for_a_feed(api: ApiProcess, nats_url: str):
    async with agents_double(nats_url), neighbours(nats_url):
        agent = await Caller(api).done("POST", AGENTS, {"name": new_id("agt"), "package": "echo"})
        wanted = [one for one in ROUTES if one.method == "GET" and ("{" not in one.path or "agents" in one.path)]
        for one in wanted:
            for key in (ADMIN_KEY, None):
                path = one.path.format_map(agent) + ("?follow=true" if one.path.endswith("/logs") else "")
                caller = Caller(api, key)
                told = await caller.ask("HEAD", path)
                expected = 401 if key is None and one.requirement is not None else 200
                assert (told.status, told.body) == (expected, b""), (path, key)
                if not path.endswith(("/events", "/logs?follow=true")):
                    assert told.headers.get("content-type") == (await caller.ask("GET", path)).headers.get(
                        "content-type"
                    )
    assert 'route="get-metrics",status="200"' in (await Caller(api).ask("GET", "/metrics")).body.decode()
    assert (await Caller(api).ask("HEAD", "/nowhere")).status == 404
    assert (await Caller(api).ask("HEAD", f"{AGENTS}/{agent['agent_id']}/start")).headers["allow"] == "POST"


async def test_root_url_redirects_to_the_documentation_page(api: ApiProcess):
    told = await Caller(api, None).ask("GET", "/")

    assert (told.status, told.headers["location"]) == (307, "/docs")
    assert (
        (await Caller(api, None).ask("GET", told.headers["location"])).headers["content-type"].startswith("text/html")
    )
