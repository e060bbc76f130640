"""Responses of the API while a server or service that it needs is unreachable, hangs or has a bug."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from muster.common.bus.message_store import MessageStore
from tests.support.api import ApiProcess, api_process, neighbours
from tests.support.asking import Answer, ask, audited
from tests.support.eventually import eventually
from tests.support.servers import Restartable

POST = "/api/v1/tasks"


async def test_bug_in_another_service_is_hidden_from_the_client(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url):
        broken = await ask(api, "GET", "/api/v1/tasks/tsk_bug")

    assert broken.status == 500
    assert b"secret" not in broken.body


async def test_unreachable_manager_is_503_within_two_seconds_and_a_slow_one_is_504(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url, manager=False):
        for method, path, body in (
            ("GET", "/api/v1/tasks", None),
            ("GET", "/api/v1/tasks/tsk_1", None),
            ("GET", "/api/v1/tasks/tsk_1/events", None),
            ("POST", "/api/v1/tasks", b'{"objective": "x"}'),
        ):
            refused = await ask(api, method, path, body=body)
            assert refused.problem.type == "urn:muster:problem:unavailable"
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        health = json.loads((await ask(api, "GET", "/api/health", headers=[])).body)
        assert health["status"] == "degraded"
        assert health["parts"]["agent_manager"]["status"] == "down"
        assert health["parts"]["guardian"]["status"] == "ok"
    async with neighbours(nats_url):
        slow = await ask(api, "GET", "/api/v1/tasks/tsk_s10w")
        assert slow.problem.status == 504


async def test_without_nats_every_response_is_503_within_two_seconds_and_the_audit_is_completed_later(
    nats_server: Restartable, shared_database_url: str, tmp_path: Path
):
    with api_process(nats_server.url, tmp_path, shared_database_url) as api:
        assert (await ask(api, "GET", "/ready", headers=[])).status == 200
        await nats_server.kill()
        await eventually(lambda: ask(api, "GET", "/ready", headers=[]), lambda told: told.status != 200)
        for method, path, body in (("GET", "/api/v1/tasks", None), ("POST", POST, b'{"objective": "x"}')):
            refused = await ask(api, method, path, body=body)
            assert refused.problem.status == 503
        assert (await ask(api, "GET", "/health", headers=[])).status == 200
        assert (await ask(api, "GET", "/api/health", headers=[])).status == 200
        await nats_server.start()
        await eventually(lambda: ask(api, "GET", "/ready", headers=[]), lambda told: told.status == 200)
        async with neighbours(nats_server.url) as doubles:
            assert (await ask(api, "POST", POST, body=b'{"objective": "x"}')).status == 201
            message_store = MessageStore(doubles.bus)
            entries = await eventually(lambda: audited(message_store, "submit-task"), lambda entries: len(entries) >= 2)
        assert [entry.outcome for entry in entries] == ["refused", "done"]


async def _only_down(api: ApiProcess, name: str) -> bool:
    parts = json.loads((await ask(api, "GET", "/api/health", headers=[])).body)["parts"]
    return [part for part in ("nats", "postgres") if parts[part]["status"] == "down"] == [name]


async def _unready(api: ApiProcess) -> Answer | None:
    told = await ask(api, "GET", "/ready", headers=[])
    return told if told.status != 200 else None


@pytest.mark.stress
async def test_health_shows_an_unreachable_or_hanging_server_within_two_seconds(
    nats_server: Restartable, postgres_server: Restartable, tmp_path: Path
):
    with api_process(nats_server.url, tmp_path, postgres_server.url) as api:
        for name, hurt, heal in (
            ("nats", *(partial(nats_server.signal, one) for one in (signal.SIGSTOP, signal.SIGCONT))),
            ("postgres", *(partial(postgres_server.signal, one) for one in (signal.SIGSTOP, signal.SIGCONT))),
            ("postgres", postgres_server.kill, postgres_server.start),
        ):
            assert (await ask(api, "GET", "/ready", headers=[])).status == 200
            await hurt()
            await eventually(partial(_only_down, api, name))  # A health reading is reused for a second.
            refused = await eventually(partial(_unready, api))
            await heal()
            assert refused is not None
            assert (refused.status, name in refused.problem.detail) == (503, True)
            await eventually(lambda: ask(api, "GET", "/ready", headers=[]), lambda told: told.status == 200)
