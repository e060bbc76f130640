"""Every route of the real API process: permissions, refusals, audit entries and outages."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import JetStreamRefusal, jetstream
from tests.support.api import ADMIN_KEY, ApiProcess, api_process, neighbours
from tests.support.asking import KEY, ask, audited
from tests.support.cases import cases
from tests.support.patience import PATIENCE_S


@pytest.fixture
def own_api(nats_url: str, shared_database_url: str, tmp_path: Path) -> Iterator[ApiProcess]:
    """A separate API process, whose allowance of audit entries no other test has used."""
    with api_process(nats_url, tmp_path, shared_database_url) as process:
        yield process


OPEN = ("/api/health", "/health", "/ready")


async def test_every_route_except_health_checks_needs_a_key(api: ApiProcess):
    document = json.loads((await ask(api, "GET", "/openapi.json", headers=[])).body)
    routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert len(routes) > 40

    for method, path in routes:
        if path in OPEN:
            assert (await ask(api, method, path, headers=[])).status == 200
            continue
        for headers in (
            [],
            [(b"Authorization", b"Bearer wrong")],
            [(b"Authorization", b"Basic " + ADMIN_KEY.encode())],
        ):
            refused = await ask(api, method, path, headers=headers)
            assert refused.status == 401, (method, path)
            assert refused.problem.type == "urn:muster:problem:unauthenticated"
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert refused.headers["x-content-type-options"] == "nosniff"


async def test_a_body_is_not_read_before_its_sender_is_known(api: ApiProcess):
    host, _, port = api.url.removeprefix("http://").partition(":")
    head = f"POST {POST} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            writer.write(head.encode())  # The other 999 bytes never arrive.
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")


async def test_the_document_describes_every_body_and_reply_by_its_contract(api: ApiProcess):
    document = json.loads((await ask(api, "GET", "/openapi.json")).body)
    submit = document["paths"]["/api/v1/tasks"]["post"]
    schemas = document["components"]["schemas"]

    assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NewTask")
    assert submit["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("/TaskView")
    refused = {"400", "401", "403", "408", "409", "413", "415", "422", "429", "503", "504"}
    assert set(submit["responses"]) == {"201", *refused}
    assert schemas["NewTask"]["additionalProperties"] is False
    assert {"TaskView", "AttemptView", "Problem", "Verdict", "GuardianReport", "Health"} <= schemas.keys()


async def test_a_task_goes_from_submission_to_cancellation(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        made = await ask(api, "POST", "/api/v1/tasks", body=b'{"objective": "fix it", "repo": {"url": "https://x/y"}}')
        view = json.loads(made.body)
        assert (made.status, made.headers["location"]) == (201, f"/api/v1/tasks/{view['task_id']}")
        assert view["repo"] == {"url": "https://x/y", "ref": None}

        one = made.headers["location"]
        assert json.loads((await ask(api, "GET", one)).body) == view
        assert view["task_id"].encode() in (await ask(api, "GET", "/api/v1/tasks?state=queued&limit=100")).body
        steered = await ask(api, "POST", f"{one}/steer", body=b'{"text": "look at the test", "urgent": true}')
        assert steered.status == 202
        said = doubles.steered[-1]
        assert (said.target, said.text, said.sender, said.urgent) == (
            view["task_id"],
            "look at the test",
            "user:admin",
            True,
        )
        assert said.message_id.startswith("msg_")
        assert b'"repetition"' in (await ask(api, "GET", f"{one}/guardian")).body
        assert (await ask(api, "GET", f"/api/v1/sandboxes?task_id={view['task_id']}")).status == 200
        assert (await ask(api, "GET", "/api/v1/sandboxes/sbx_bad/verify")).status == 200
        assert b'"cancelled"' in (await ask(api, "POST", f"{one}/cancel", headers=KEY)).body
        assert (await ask(api, "POST", f"{one}/cancel", body=b'{"reason": "again"}')).problem.status == 409


POST = "/api/v1/tasks"
BAD = [
    ("POST", POST, b"", 422, "$"),
    ("POST", POST, b"{", 422, "$"),
    ("POST", POST, b"\xff\xfe", 422, "$"),
    ("POST", POST, b"[]", 422, "$"),
    ("POST", POST, b'{"objective": NaN}', 422, "$"),
    ("POST", POST, b"{}", 422, "$.objective"),
    ("POST", POST, b'{"objective": ""}', 422, "$.objective"),
    ("POST", POST, b'{"objective": 7}', 422, "$.objective"),
    ("POST", POST, b'{"objective": "x\\u0000"}', 422, "$.objective"),
    ("POST", POST, b'{"objective": "x", "task_id": "tsk_mine"}', 422, "$.task_id"),
    ("POST", POST, b'{"objective": "x", "repo": {"url": "u", "branch": "b"}}', 422, "$.repo.branch"),
    ("POST", POST, b'{"objective": "x", "timeout_s": "soon"}', 422, "$.timeout_s"),
    ("POST", POST, b'{"objective": "x", "timeout_s": -1}', 422, "$.timeout_s"),
    ("POST", POST, b'{"objective": "x", "timeout_s": 1e999}', 422, "$.timeout_s"),
    ("POST", POST, b'{"objective": "x", "priority": "URGENT"}', 422, "$.priority"),
    ("POST", POST, b'{"objective": "x", "agent_id": "a.>"}', 422, "$.agent_id"),
    ("POST", POST, b'{"objective": "x", "labels": {"a": 1}}', 422, "$.labels[...]"),
    ("POST", POST, b'{"objective": "x", "metadata": {"m": {"n": "\\u0000"}}}', 422, "$.metadata.m.n"),
    ("POST", POST, b'{"objective": "x", "metadata": {"m": ' + b"[" * 60 + b"]" * 60 + b"}}", 422, None),
    ("POST", POST, b'{"objective": "x", "metadata": {"m": ' + b"[" * 100_000, 422, "$"),
    ("POST", POST, b'{"objective": "' + b"x" * 200_000 + b'"}', 422, "$.objective"),
    ("POST", POST, b'{"objective": "x", "metadata": {"m": "' + b"x" * (1 << 20) + b'"}}', 413, None),
    ("POST", "/api/v1/tasks/a.%3E/cancel", b"{}", 422, "$.task_id"),
    ("POST", "/api/v1/tasks/a.%3E/steer", b'{"text": "x"}', 422, "$.task_id"),
    ("POST", "/api/v1/tasks/tsk_1/steer", b'{"text": "x", "sender": "me"}', 422, "$.sender"),
    ("POST", "/api/v1/tasks/tsk_1/steer", b"{}", 422, "$.text"),
    ("POST", "/api/v1/tasks/tsk_none/steer", b'{"text": "x"}', 404, "$.task_id"),
    ("GET", "/api/v1/tasks/a.%3E", None, 422, "$.task_id"),
    ("GET", "/api/v1/tasks/*", None, 422, "$.task_id"),
    ("GET", "/api/v1/tasks/" + "x" * 65, None, 422, "$.task_id"),
    ("GET", "/api/v1/tasks/tsk_none", None, 404, "$.task_id"),
    ("GET", "/api/v1/tasks/a.%3E/events", None, 422, "$.task_id"),
    ("GET", "/api/v1/tasks/tsk_none/events", None, 404, "$.task_id"),
    ("GET", "/api/v1/tasks/a.%3E/guardian", None, 422, "$.task_id"),
    ("GET", "/api/v1/sandboxes/a.%3E/verify", None, 422, "$.sandbox_id"),
    ("GET", "/api/v1/sandboxes/sbx_none", None, 404, "$.sandbox_id"),
    ("GET", "/api/v1/sandboxes?task_id=a.%3E", None, 422, "$.task_id"),
    ("GET", "/api/v1/tasks?limit=0", None, 422, "$.limit"),
    ("GET", "/api/v1/tasks?limit=101", None, 422, "$.limit"),
    ("GET", "/api/v1/tasks?limit=many", None, 422, "$.limit"),
    ("GET", "/api/v1/tasks?state=gone", None, 422, "$.state"),
    ("GET", "/nowhere", None, 404, None),
    ("GET", "/api/v1/tasks/", None, 404, None),
    ("GET", "/api/v1/tasks?limits=1", None, 422, "$.limits"),
    ("DELETE", "/api/v1/tasks", None, 405, None),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), BAD, ids=[str(n) for n in range(len(BAD))])
async def test_bad_input_is_a_typed_problem_that_names_the_field(
    api: ApiProcess, nats_url: str, method: str, path: str, body: bytes | None, status: int, field: str | None
):
    async with neighbours(nats_url) as doubles:
        refused = await ask(api, method, path, body=body)

        assert refused.status == status
        if field is not None:
            assert refused.problem.field == field
        assert refused.problem.trace_id == refused.headers["x-trace-id"]
        assert not doubles.tasks
        assert not doubles.steered


async def test_only_json_is_accepted(api: ApiProcess):
    for media in (b"text/plain", b"application/x-www-form-urlencoded", b""):
        refused = await ask(api, "POST", POST, body=b'{"objective": "x"}', headers=[*KEY, (b"Content-Type", media)])
        assert refused.problem.status == 415


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["objective", "repo", "agent_id", "paths", "timeout_s", "priority", "labels", "depends_on", "metadata", "other"]
)
BODIES = (
    st.binary(max_size=200)
    | JSONS.map(msgspec.json.encode)
    | st.dictionaries(FIELDS, JSONS, max_size=4).map(lambda fields: msgspec.json.encode({"objective": "x", **fields}))
)


@given(body=BODIES, path=st.sampled_from([POST, "/api/v1/tasks/tsk_1/steer", "/api/v1/tasks/tsk_1/cancel"]))
@cases(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_posted_body_is_accepted_or_refused_with_a_typed_4xx(
    api: ApiProcess, nats_url: str, body: bytes, path: str
):
    async with neighbours(nats_url):
        answered = await ask(api, "POST", path, body=body)

        if answered.status != 201:
            assert 400 <= answered.status < 500, answered.body
            assert answered.problem.detail


async def test_writes_are_audited_when_their_outcome_is_known_and_reads_are_not(own_api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        message_store = MessageStore(doubles.bus)
        before = len(await audited(message_store, "*"))
        made = await ask(own_api, "POST", POST, body=b'{"objective": "x"}')
        one = made.headers["location"]
        await ask(own_api, "GET", one)
        await ask(own_api, "POST", f"{one}/steer", body=b"{}")
        await ask(own_api, "POST", POST, body=b"{}", headers=[(b"Authorization", b"Bearer wrong")])
        entries = (await audited(message_store, "*"))[before:]

        told = [(entry.action, entry.who, entry.outcome, entry.detail["status"]) for entry in entries]
        assert told == [
            ("submit-task", "user:admin", "done", 201),
            ("steer-task", "user:admin", "refused", 422),
            ("unauthenticated", "nobody", "refused", 401),
        ]
        assert entries[0].detail["location"] == one
        assert entries[0].detail["trace_id"] == made.headers["x-trace-id"]
        assert {entry.source for entry in entries} == {"127.0.0.1"}
        assert doubles.bus.now() - entries[0].at < timedelta(seconds=10)
        for verb, query in (("STREAM.PURGE.AUDIT", {}), ("STREAM.MSG.DELETE.AUDIT", {"seq": 1})):
            with pytest.raises(JetStreamRefusal):
                await jetstream(doubles.bus, verb, query)


@pytest.mark.stress
async def test_a_flood_of_wrong_keys_does_not_fill_the_audit(own_api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        message_store = MessageStore(doubles.bus)
        await ask(own_api, "GET", "/api/v1/tasks", headers=[])  # once it has answered, the stream AUDIT exists
        before = len(await audited(message_store, "unauthenticated"))
        for _ in range(150):
            await ask(own_api, "GET", "/api/v1/tasks", headers=[])

        assert len(await audited(message_store, "unauthenticated")) - before < 100
