"""The agent routes of the real API process over a real broker: every route, every refusal, both feeds."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpcore
import msgspec
import pytest

from muster.client.sse import ServerSentEvent
from muster.common.contract import decode
from muster.common.contracts.agent_logs import AgentLogPage
from muster.common.contracts.agents import AgentChanged
from muster.common.ids import new_id
from tests.support.agents_double import AgentsDouble, agents_double
from tests.support.api import ADMIN_KEY, ApiProcess
from tests.support.caller import Caller
from tests.support.feeds import sent_events
from tests.support.patience import PATIENCE_S

AGENTS = "/api/v1/agents"


@pytest.fixture
def caller(api: ApiProcess) -> Caller:
    return Caller(api)


async def _registered(caller: Caller, **fields: object) -> tuple[str, str]:
    """Register a new agent; return its path and ETag."""
    made = await caller.ask("POST", AGENTS, {"name": new_id("agt"), "package": "echo", **fields})
    assert made.status == 201, made.body
    return made.headers["location"], made.headers["etag"]


async def test_agent_is_registered_used_and_deleted(caller: Caller, nats_url: str):
    async with agents_double(nats_url) as manager:
        made = await caller.ask("POST", AGENTS, {"name": "one", "package": "echo", "labels": {"rack": "7"}})
        one = made.headers["location"]
        assert (made.status, one, made.headers["etag"]) == (201, f"{AGENTS}/{made.json['agent_id']}", '"1"')
        assert made.json["agent_id"].startswith("agt_")
        assert (await caller.ask("GET", one)).headers["etag"] == '"1"'

        changed = await caller.ask("PUT", one, {"labels": {"rack": "8"}}, If_Match='"1"')
        assert (changed.status, changed.headers["etag"], changed.json["labels"]) == (200, '"2"', {"rack": "8"})
        started = await caller.ask("POST", f"{one}/start")
        assert (started.status, started.json["desired"], started.headers["etag"]) == (202, "running", '"3"')
        said = await caller.ask("POST", f"{one}/messages", {"text": "hello"})
        assert (said.status, said.json["agent"]) == (200, {"said": "hello"})
        assert (manager.heard[-1].sender, manager.heard[-1].text) == ("user:admin", "hello")
        assert (await caller.done("GET", f"{one}/status"))["state"] == "idle"
        assert (await caller.done("GET", f"{one}/metrics"))["counted"] == {"restarts": 0.0}
        assert (await caller.ask("POST", f"{one}/restart")).status == 202
        assert (await caller.ask("DELETE", one, If_Match="*")).problem.status == 409
        stopped = await caller.ask("POST", f"{one}/stop")
        assert (await caller.ask("DELETE", one, If_Match=stopped.headers["etag"])).status == 200
        assert (await caller.ask("GET", one)).problem.status == 404


async def test_lists_are_filtered_and_continued_by_cursor(caller: Caller, nats_url: str):
    async with agents_double(nats_url):
        for number in range(5):
            await _registered(caller, labels={"rack": str(number % 2), "row": "a=b"})
        found: list[str] = []
        cursor = ""
        for _ in range(3):
            page = await caller.done("GET", f"{AGENTS}?limit=2&label=rack=0&label=row=a%3Db&state=stopped{cursor}")
            found += [view["agent_id"] for view in page["agents"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len(found) == len(set(found)) == 3
        assert (await caller.done("GET", f"{AGENTS}?name_starts=nobody"))["agents"] == []


async def test_packages_capabilities_and_candidates_are_listed_with_reasons(caller: Caller, nats_url: str):
    async with agents_double(nats_url):
        await _registered(caller)
        packages = (await caller.done("GET", "/api/v1/packages"))["packages"]
        assert [(one["name"], one["usable"], one["reason"]) for one in packages] == [
            ("broken", False, "there is no agent.toml"),
            ("echo", True, None),
        ]
        assert (await caller.done("GET", "/api/v1/capabilities"))["capabilities"][0]["capability"]["name"] == "echo"
        choice = await caller.done("POST", f"{AGENTS}/find", {"capabilities": ["echo"], "available": True})
        assert choice["agent"] is None
        assert [one["why"] for one in choice["considered"]] == ["it is stopped"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_update_without_the_current_version_is_refused(caller: Caller, nats_url: str, method: str):
    async with agents_double(nats_url) as manager:
        one, _ = await _registered(caller)
        body: dict[str, dict[str, str]] | None = {"labels": {}} if method == "PUT" else None
        before = dict(manager.agents)

        unnamed = await caller.ask(method, one, body)
        assert (unnamed.problem.status, unnamed.problem.field) == (428, "If-Match")
        for other in ('"2"', 'W/"1"', '"one"'):
            assert (await caller.ask(method, one, body, If_Match=other)).problem.status == 412, other
        for wrong in ("1", '"1', '"1", "2"'):
            assert (await caller.ask(method, one, body, If_Match=wrong)).problem.status == 422, wrong
        assert manager.agents == before
        assert (await caller.ask(method, one, body, If_Match='"1"')).status == 200


REFUSED = [
    ("GET", f"{AGENTS}/agt_none", None, 404, "$.agent_id"),
    ("POST", f"{AGENTS}/agt_none/start", None, 404, "$.agent_id"),
    ("GET", f"{AGENTS}/agt_none/logs", None, 404, "$.agent_id"),
    ("GET", f"{AGENTS}/agt_none/events", None, 404, "$.agent_id"),
    ("GET", f"{AGENTS}?limit=101", None, 422, "$.limit"),
    ("GET", f"{AGENTS}?state=asleep", None, 422, "$.state"),
    ("GET", f"{AGENTS}?label=rack", None, 422, "$.label[0]"),
    ("GET", f"{AGENTS}/agt_none/logs?limit=1001", None, 422, "$.limit"),
    ("GET", f"{AGENTS}/agt_none/logs?follow=maybe", None, 422, "$.follow"),
    ("POST", AGENTS, {"name": "a/b", "package": "echo"}, 422, "$.name"),
    ("POST", AGENTS, {"name": "x", "package": "echo", "agent_id": "agt_mine"}, 422, "$.agent_id"),
    ("POST", AGENTS, {"name": "x", "package": "none"}, 422, "$.package"),
    ("POST", AGENTS, {"name": "x"}, 422, "$.package"),
    ("POST", AGENTS, {"name": "x", "package": "echo", "mode": "thread"}, 422, "$.mode"),
    ("POST", AGENTS, {"name": "x", "package": "echo", "config": {"a": "\0"}}, 422, "$.config.a"),
    ("DELETE", f"{AGENTS}/find/start", None, 405, None),
    ("PATCH", f"{AGENTS}/agt_none", None, 405, None),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), REFUSED)
async def test_invalid_request_is_refused_with_the_name_of_its_field(
    caller: Caller, nats_url: str, method: str, path: str, body: object, status: int, field: str | None
):
    async with agents_double(nats_url) as manager:
        refused = (await caller.ask(method, path, body)).problem

        assert (refused.status, refused.field) == (status, field)
        assert manager.agents == {}


async def test_no_id_reaches_the_bus_as_a_wildcard(caller: Caller, nats_url: str):
    async with agents_double(nats_url) as manager:
        heard: list[str] = []

        async def listen(message: object) -> None:
            heard.append(str(message))

        subscription = await manager.bus.subscribe("agent.manager.>", listen)
        for wild in ("*", "%3E", "a.b", "agt_1%20x", "x" * 65, "%00"):
            for method, rest, body in (
                ("GET", "", None),
                ("POST", "/start", None),
                ("POST", "/messages", {"text": "x"}),
                ("GET", "/logs", None),
                ("GET", "/events", None),
            ):
                refused = (await caller.ask(method, f"{AGENTS}/{wild}{rest}", body)).problem
                assert (refused.status, refused.field) == (422, "$.agent_id"), (wild, rest)
        await subscription.unsubscribe()
        assert heard == []


async def test_unreachable_manager_is_503_and_a_slow_one_is_504(caller: Caller, nats_url: str):
    asked: list[tuple[str, str, object, str | None]] = [
        ("GET", AGENTS, None, None),
        ("GET", f"{AGENTS}/agt_1", None, None),
        ("POST", AGENTS, {"name": "x", "package": "echo"}, None),
        ("PUT", f"{AGENTS}/agt_1", {"labels": {}}, "*"),
        ("DELETE", f"{AGENTS}/agt_1", None, "*"),
        ("POST", f"{AGENTS}/agt_1/start", None, None),
        ("GET", f"{AGENTS}/agt_1/logs", None, None),
        ("GET", f"{AGENTS}/agt_1/status", None, None),
        ("GET", "/api/v1/packages", None, None),
    ]
    for method, path, body, condition in asked:
        refused = await caller.ask(method, path, body, **({"If_Match": condition} if condition else {}))
        assert refused.problem.type == "urn:muster:problem:unavailable", path
        assert refused.headers["retry-after"] == "1"
    async with agents_double(nats_url):
        assert (await caller.ask("GET", f"{AGENTS}/agt_s10w")).problem.status == 504


async def test_prometheus_metrics_name_routes_and_never_agents(caller: Caller, nats_url: str):
    async with agents_double(nats_url):
        one, _ = await _registered(caller)
        await caller.ask("GET", one)
        await caller.ask("GET", f"{AGENTS}/agt_none")
        await Caller(caller.url, None).ask("GET", one)
        told = (await caller.ask("GET", "/metrics")).body.decode()

        assert 'muster_http_requests_total{route="get-agent",status="404"}' in told
        assert 'muster_http_requests_total{route="get-agent",status="401"}' in told
        assert 'muster_http_request_seconds_bucket{le="0.1",route="get-agent"}' in told
        assert "muster_nats_connected 1.0" in told
        assert "agt_" not in told


# The feeds


async def _some(caller: Caller, path: str, most: int, **headers: str) -> AsyncGenerator[ServerSentEvent]:
    """Return at most so many events of one connection, and then cut the connection."""
    named = {"Authorization": f"Bearer {ADMIN_KEY}", "Accept": "text/event-stream", **headers}
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    async with (
        httpcore.AsyncConnectionPool() as pool,
        pool.stream("GET", caller.url + path, headers=listed, extensions={"timeout": {"read": PATIENCE_S}}) as answer,
    ):
        assert answer.status == 200
        async for event in sent_events(answer.aiter_stream()):
            yield event
            most -= 1
            if not most:
                return


async def test_an_agents_events_can_be_followed_cut_and_resumed_until_it_is_deleted(caller: Caller, nats_url: str):
    async with agents_double(nats_url) as manager, asyncio.timeout(PATIENCE_S):
        one, _ = await _registered(caller)
        seen: list[tuple[str, int]] = []
        place = ""

        async def live() -> None:
            for verb in ("start", "stop", "restart", "stop"):
                await caller.done("POST", f"{one}/{verb}")
            await caller.done("DELETE", one, If_Match="*")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(live())
            ended = False
            while not ended:
                resumed = {"Last_Event_ID": place} if place else {}
                async with aclosing(_some(caller, f"{one}/events", 2, **resumed)) as some:
                    async for sent in some:
                        if sent.name == "end":
                            ended = True
                            break
                        changed = decode(sent.body, AgentChanged)
                        seen.append((changed.kind, changed.version))
                        place = sent.id

        kinds = ["registered", "idle", "stopped", "idle", "stopped", "deleted"]
        assert seen == list(zip(kinds, range(1, 7), strict=True))
        assert manager.agents == {}
        page = await caller.done("GET", f"{one}/events?limit=4", Accept="application/json")
        rest = await caller.done("GET", f"{one}/events?after={page['next_cursor']}", Accept="application/json")
        assert [event["version"] for event in page["events"] + rest["events"]] == [1, 2, 3, 4, 5, 6]
        unknown = [sent async for sent in _some(caller, f"{one}/events?follow=false&after=nonsense", 99)]
        assert [sent.name for sent in unknown] == ["reset", *["agent"] * 6]


async def test_feed_of_an_agent_registered_again_does_not_end_at_the_first_deletion(caller: Caller, nats_url: str):
    async with agents_double(nats_url) as manager, asyncio.timeout(PATIENCE_S):
        one, _ = await _registered(caller)
        (view,) = manager.agents.values()
        await caller.done("DELETE", one, If_Match="*")
        manager.agents[view.agent_id] = view
        await manager.told(msgspec.structs.replace(view, version=3), "registered")

        seen = [decode(sent.body, AgentChanged).kind async for sent in _some(caller, f"{one}/events", 3)]

        assert seen == ["registered", "deleted", "registered"]


async def test_position_now_yields_only_later_events(caller: Caller, nats_url: str):
    async with agents_double(nats_url), asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        one, _ = await _registered(caller)
        assert [sent async for sent in _some(caller, f"{one}/events?follow=false&after=now", 9)] == []
        coming = tasks.create_task(_first(caller, f"{one}/events"))
        while not coming.done():
            await caller.done("POST", f"{one}/start")
            await asyncio.wait([coming], timeout=0.2)
        sent = await coming

    assert (sent.name, decode(sent.body, AgentChanged).version > 1) == ("agent", True)


async def _first(caller: Caller, path: str) -> ServerSentEvent:
    async with aclosing(_some(caller, path, 1, Last_Event_ID="now")) as some:
        return await anext(some)


async def _lines(caller: Caller, path: str, most: int, **headers: str) -> tuple[list[str], str]:
    texts: list[str] = []
    place = ""
    async with aclosing(_some(caller, path, most, **headers)) as some:
        async for sent in some:
            assert sent.name == "lines"
            texts += [line.text for line in decode(sent.body, AgentLogPage).lines]
            place = sent.id
    return texts, place


async def _told(manager: AgentsDouble, agent_id: str, begun: asyncio.Event) -> None:
    await begun.wait()
    for number in range(3, 6):
        await manager.say(agent_id, f"line {number}")


async def test_output_is_read_by_cursor_waited_for_and_followed_through_a_cut(caller: Caller, nats_url: str):
    async with agents_double(nats_url) as manager, asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        one, _ = await _registered(caller)
        agent_id = one.rpartition("/")[2]
        await manager.say(agent_id, "line 1", "line 2")
        page = await caller.done("GET", f"{one}/logs?limit=1")
        assert [line["text"] for line in page["lines"]] == ["line 2"]
        begun = asyncio.Event()
        tasks.create_task(_told(manager, agent_id, begun))
        begun.set()
        waited = await caller.done("GET", f"{one}/logs?wait_s=30&cursor={page['next_cursor']}")
        assert waited["lines"][0]["text"] == "line 3"

        texts: list[str] = []
        place = "0"
        while len(texts) < 5:
            some, place = await _lines(caller, f"{one}/logs?follow=true&limit=2", 1, Last_Event_ID=place)
            texts += some
        assert texts == [f"line {number}" for number in range(1, 6)]
        present, _ = await _lines(caller, f"{one}/logs?follow=false", 9)
        assert present == texts
