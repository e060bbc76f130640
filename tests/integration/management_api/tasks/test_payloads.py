"""The whole body of a large event over HTTP, with the clients and the command. The API process and NATS are real."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from muster.client import ApiCallError
from muster.common.bus.message_store import MessageStore
from muster.common.bus.objects import ObjectBucket
from muster.common.clock import utc_now
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import (
    PAYLOADS,
    ClippedBody,
    Frame,
    FrameKind,
    LoggedEvent,
    log_subject,
    payload_name,
)
from muster.common.contracts.tasks import AttemptView
from muster.common.ids import new_id
from tests.support.api import ADMIN_KEY, ApiProcess, Neighbours, ensure_log_stream, neighbours
from tests.support.both_clients import using
from tests.support.caller import Caller
from tests.support.cli_api import muster

BODY = encode({"content": "x" * 700_000})
SHA256 = hashlib.sha256(BODY).hexdigest()


async def with_payload(doubles: Neighbours, caller: Caller, *, body: bytes = BODY, project: str = "default") -> str:
    """Submit a task with one attempt whose sandbox has an event with this whole body; return the task's id."""
    task = await caller.done("POST", "/api/v1/tasks", {"objective": "work", "project": project})
    task_id, sandbox_id = task["task_id"], new_id("sbx")
    attempt = AttemptView(
        attempt_id=new_id("att"), epoch=1, sandbox_id=sandbox_id, state="running", created_at=utc_now()
    )
    doubles.change(task_id, attempts=[attempt])
    bucket = ObjectBucket(doubles.bus, PAYLOADS)
    await bucket.ensure()
    await bucket.put(payload_name(sandbox_id, SHA256), body, sha256=SHA256)
    await ensure_log_stream(doubles.bus, sandbox_id)
    await doubles.told(task_id, "assigned", sandbox_id, state="assigned")
    await doubles.frame(task_id, sandbox_id, FrameKind.OPENED)
    event = LoggedEvent(
        seq=1,
        event_id="evt_1",
        kind="ObservationEvent",
        at=utc_now(),
        source="agent",
        body=msgspec.Raw(encode(ClippedBody.of(body, redacted=True))),
        payload=SHA256,
    )
    frame = Frame(
        sandbox_id=sandbox_id,
        task_id=task_id,
        agent_id="agt_1",
        epoch=1,
        kind=FrameKind.EVENTS,
        first=1,
        next=2,
        at=utc_now(),
        events=[event],
    )
    tail = await MessageStore(doubles.bus).tail(
        f"SANDBOX_LOG_{log_subject(sandbox_id).split('.')[1]}", log_subject(sandbox_id)
    )
    assert tail is not None
    await MessageStore(doubles.bus).append(log_subject(sandbox_id), encode(frame), last=tail.position)
    return task_id


async def test_viewer_of_the_task_reads_the_whole_body_and_no_other_project_does(api: ApiProcess, nats_url: str):
    admin = Caller(api)
    async with neighbours(nats_url) as doubles:
        task_id = await with_payload(doubles, admin, project="red")
        other = await admin.done("POST", "/api/v1/tasks", {"objective": "work"})
        path = f"/api/v1/tasks/{task_id}/payloads/{SHA256}"
        read = await (await admin.issue("viewer", project="red")).ask("GET", path)
        cached = await admin.ask("GET", path, if_none_match=f'"{SHA256}"')
        head = await admin.ask("HEAD", path)
        refused = await (await admin.issue("viewer", project="blue")).ask("GET", path)
        anonymous = await Caller(api, None).ask("GET", path)
        elsewhere = await admin.ask("GET", f"/api/v1/tasks/{other['task_id']}/payloads/{SHA256}")
        wrong = await admin.ask("GET", f"/api/v1/tasks/{task_id}/payloads/{SHA256.upper()}")
        gone = await admin.ask("GET", f"/api/v1/tasks/{task_id}/payloads/{'0' * 64}")
    assert (read.status, read.body) == (200, BODY)
    assert (read.headers["etag"], read.headers["content-length"]) == (f'"{SHA256}"', str(len(BODY)))
    assert read.headers["content-type"] == "application/octet-stream"
    assert (cached.status, cached.body) == (304, b"")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(BODY)))
    assert [answer.status for answer in (refused, anonymous, elsewhere, wrong, gone)] == [404, 401, 404, 422, 404]


@pytest.mark.stress
async def test_both_clients_and_the_command_read_it_and_notice_other_bytes(
    api: ApiProcess, nats_url: str, tmp_path: Path
):
    admin, out = Caller(api), tmp_path / "body.json"
    async with neighbours(nats_url) as doubles:
        task_id = await with_payload(doubles, admin)
        damaged = await with_payload(doubles, admin, body=b"[" * 300_000)
        read: list[bytes] = [
            b"".join(await using(flavour, api.url, lambda client: client.tasks.payload(task_id, SHA256), key=ADMIN_KEY))
            for flavour in ("async", "sync")
        ]
        for flavour in ("async", "sync"):
            with pytest.raises(ApiCallError):
                await using(flavour, api.url, lambda client: client.tasks.payload(damaged, SHA256), key=ADMIN_KEY)
        shown = await muster(api, "events", task_id, "--no-follow")
        wrote = await muster(api, "task", "payload", task_id, SHA256, str(out))
        failed = await muster(api, "task", "payload", damaged, SHA256, str(tmp_path / "damaged"))
    assert read == [BODY, BODY]
    assert "0.7 MiB, redacted" in shown.out
    assert f"whole body: muster task payload {task_id} {SHA256}" in shown.out
    assert (wrote.code, out.read_bytes()) == (0, BODY)
    assert failed.code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["body.json"]
