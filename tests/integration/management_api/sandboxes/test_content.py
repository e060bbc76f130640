"""Files, output and changes of a sandbox over HTTP. The API process is real."""

import asyncio
import base64
from typing import Any

import pytest

from muster.common.contracts.sandbox_files import LARGEST_PART
from tests.support.api import ApiProcess, neighbours
from tests.support.caller import Caller

SANDBOX = "sbx_content"
BASE = f"/api/v1/sandboxes/{SANDBOX}"


async def test_operator_writes_a_file_that_a_viewer_reads(api: ApiProcess, nats_url: str):
    operator, viewer = await Caller(api).issue("operator"), await Caller(api).issue("viewer")
    body = {"transfer_id": "t1", "offset": 0, "body": base64.b64encode(b"hello\0").decode(), "last": True}
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        refused = await viewer.ask("PUT", f"{BASE}/files?path=a.bin", body)
        stored = await operator.ask("PUT", f"{BASE}/files?path=a.bin", body)
        read = await viewer.done("GET", f"{BASE}/files?path=a.bin")
        changed = await viewer.done("GET", f"{BASE}/diff?at=4")
        missing = await viewer.ask("GET", f"{BASE}/files?path=b.bin")
        unknown = await viewer.ask("GET", "/api/v1/sandboxes/sbx_none/diff")
    assert refused.status == 403
    assert stored.status == 200
    assert (base64.b64decode(read["body"]), read["last"]) == (b"hello\0", True)
    assert (changed["seq"], changed["commit"]) == (4, "c" * 40)
    assert (missing.status, unknown.status) == (404, 404)


async def test_two_callers_never_share_a_transfer(api: ApiProcess, nats_url: str):
    operator, viewer = await Caller(api).issue("operator"), await Caller(api).issue("viewer")
    body = {"transfer_id": "t1", "offset": 0, "body": "", "last": True}
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        for caller in (operator, viewer):
            await operator.done("PUT", f"{BASE}/files?path=a.bin", body)
            await caller.done("GET", f"{BASE}/files?path=a.bin&transfer_id=t1")
            await caller.done("GET", f"{BASE}/files?path=a.bin&transfer_id=t1")
        await viewer.done("GET", f"{BASE}/files?path=a.bin")
    first, second, third, fourth, without = (asked.transfer_id for asked in doubles.fetched)
    assert first == second != third == fourth
    assert without is None


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/files", None, "$.path"),
        ("GET", "/files?path=a&offset=-1", None, "$.offset"),
        ("GET", "/files?path=a&transfer_id=../x", None, "$.transfer_id"),
        ("GET", f"/files?path={'x' * 1_025}", None, "$.path"),
        ("GET", "/diff?at=-1", None, "$.at"),
        ("GET", "/logs?follow=maybe", None, "$.follow"),
        ("PUT", "/files?path=a", {"transfer_id": "t", "body": "no base64!"}, "$.body"),
        ("PUT", "/files?path=a", {"transfer_id": "../t", "body": ""}, "$.transfer_id"),
        ("PUT", "/files?path=a", {"transfer_id": "t", "body": "", "sha256": "x"}, "$.sha256"),
        ("PUT", "/files?path=a", {"transfer_id": "t", "body": "QQ==" * (LARGEST_PART // 3)}, "$.body"),
    ],
)
async def test_request_outside_the_bounds_is_refused_and_its_field_is_named(
    api: ApiProcess, method: str, path: str, body: Any, field: str
):
    refused = await Caller(api).ask(method, f"{BASE}{path}", body)
    assert (refused.status, refused.problem.field) == (422, field)


async def test_follower_gets_output_as_soon_as_the_worker_writes_it(api: ApiProcess, nats_url: str):
    caller = Caller(api)
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        end = await caller.done("GET", f"{BASE}/logs?offset=-4")
        doubles.output_ended = False
        waiting = asyncio.create_task(caller.done("GET", f"{BASE}/logs?offset=8&follow=true"))
        while (await doubles.read_outputs.get()).offset != 8:
            continue
        doubles.output += "three\n"
        followed = await waiting
        doubles.output_ended = True
        ended = await caller.done("GET", f"{BASE}/logs?offset=14&follow=true")
    assert (end["text"], end["next_offset"]) == ("two\n", 8)
    assert (followed["text"], followed["running"]) == ("three\n", True)
    assert (ended["text"], ended["running"]) == ("", False)
