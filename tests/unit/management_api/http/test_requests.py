"""Test routes in the real application, in this process: queries, roles, and the example of CONTRIBUTING.md."""

import re
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, cast

import msgspec
import pytest
from fastapi import Body, Query
from structlog.testing import capture_logs

from muster.common.clock import utc_now
from muster.common.contract import Message
from muster.common.contracts.audit import Audited
from muster.common.contracts.task_bodies import NewMessage
from muster.common.contracts.tasks import TaskView
from muster.common.faults import Forbidden
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.agents.domain.queries import AgentQuery, LogQuery
from muster.management_api.http import openapi
from muster.management_api.http.ids import TaskId
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient
from muster.management_api.tasks.routes import tasks
from tests.support.api_application import client, in_process
from tests.support.house import ROOT


class Asked(Message):
    """What was understood."""

    said: dict[str, Any]


Caller = Annotated[Principal, requires("viewer")]

things = routes_of("/things", "things")


@things.get("/agents")
async def list_things(query: Annotated[AgentQuery, Query()], _: Caller) -> Asked:
    """Things."""
    return Asked(said=query.filters)


@things.get("/logs")
async def read_things(query: Annotated[LogQuery, Query()], _: Caller) -> Asked:
    """What they say."""
    return Asked(said=query.model_dump(exclude_unset=True))


async def test_query_is_parsed_by_its_type():
    async with client(in_process(routers=[things])) as caller:
        told = await caller.get("/things/agents?state=idle&limit=7&label=a%3Db%3Dc&label=d%3D&name_starts=a%20b")
        assert told.json()["said"] == {
            **dict.fromkeys(("package", "mode", "capability", "cursor")),
            "state": "idle",
            "limit": 7,
            "labels": {"a": "b=c", "d": ""},
            "name_starts": "a b",
        }
        told = await caller.get("/things/logs?follow=false&wait_s=1.5")
        assert told.json()["said"] == {"follow": False, "wait_s": 1.5}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("limit=0", "$.limit"),
        ("limit=1.5", "$.limit"),
        ("limit=many", "$.limit"),
        ("state=null", "$.state"),
        ("state=", "$.state"),
        ("limits=1", "$.limits"),
        ("label=%00%3D", "$.label[0]"),
        ("name_starts=%00", "$.name_starts"),
    ],
)
async def test_invalid_query_parameter_is_named(text: str, field: str):
    async with client(in_process(routers=[things])) as caller:
        refused = await caller.get(f"/things/agents?{text}")

    assert (refused.status_code, refused.json()["field"]) == (422, field)


async def test_routes_shown_in_contributing_work():
    shown = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown
    names: dict[str, Any] = {**vars(openapi), **vars(tasks), "routes_of": routes_of, "requires": requires}
    exec(compile(textwrap.dedent(shown[1]), "CONTRIBUTING.md", "exec"), names)
    services = Services()
    app = in_process(routers=[names["router"]])
    app.state.parts[ServiceClient] = services

    async with client(app) as caller:
        told = await caller.get("/api/v1/things/tsk_1")
        assert (told.status_code, told.json()["task_id"]) == (200, services.view.task_id)
        assert (await caller.get("/api/v1/things/a.b")).json()["field"] == "$.task_id"
        assert (await caller.get("/api/v1/things/tsk_1", headers={"Authorization": "Bearer x"})).status_code == 401
        made = await caller.post("/api/v1/things", json={"text": "hello"})
        assert made.status_code == 201
        assert re.fullmatch("msg_[0-9a-z]{26}: hello", made.json()["text"])
        assert (await caller.post("/api/v1/things", json={"text": ""})).json()["field"] == "$.text"
    assert "/api/v1/things/{task_id}" in app.openapi()["paths"]


class Services(ServiceClient):
    """Answers with the example of a task."""

    def __init__(self) -> None:
        self.view = TaskView(
            task_id="tsk_1",
            agent_id=None,
            repo=None,
            test_command=None,
            labels={},
            package="echo",
            model="scripted/x",
            objective="Say hello.",
            priority="NORMAL",
            project="default",
            timeout_s=300.0,
            state="queued",
            version=1,
            created_at=utc_now(),
            updated_at=utc_now(),
        )

    async def task(self, task_id: str) -> TaskView:
        del task_id
        return self.view


async def contract_without_body(new: NewMessage, _: Caller) -> Asked:
    """FastAPI would read it from the query."""
    return Asked(said={"text": new.text})


async def list_of_contracts(_: Caller) -> list[Asked]:
    """No contract has this shape."""
    return []


async def no_contract_as_body(new: Annotated[dict[str, str], Body()], _: Caller) -> Asked:
    """Anything."""
    return Asked(said=dict(new))


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        (lambda: Asked(said={}), "has 0 declarations requires"),
        (contract_without_body, "new of .* is a contract; write Annotated"),
        (list_of_contracts, "body and reply of .* must be a contract"),
        (no_contract_as_body, "body and reply of .* must be a contract"),
    ],
)
def test_invalid_route_fails_at_start(endpoint: Callable[..., Any], why: str):
    wrong = routes_of("/wrong", "things")
    wrong.post("")(endpoint)

    with pytest.raises(TypeError, match=why):
        in_process(routers=[wrong])


def test_route_declares_its_permissions_exactly_once():
    twice = routes_of("/twice", "things")

    async def thing(_: Caller, __: Annotated[Principal, requires("admin")]) -> Asked:
        """A viewer or an admin?"""
        return Asked(said={})

    twice.get("")(thing)
    with pytest.raises(TypeError, match="has 2 declarations requires"):
        in_process(routers=[twice])


async def test_bug_in_a_route_is_a_500_without_details():
    bugs = routes_of("/bugs", "things")

    async def bug(kind: TaskId, _: Caller) -> Asked:
        """Fails."""
        if kind == "reply":
            return cast("Asked", {"secret": "1234"})
        if kind == "convert":
            msgspec.convert({"secret": 1234}, Asked)
        raise RuntimeError("secret 1234")

    bugs.post("/{kind}")(bug)
    async with client(in_process(routers=[bugs])) as caller:
        for kind in ("reply", "convert", "raise"):
            with capture_logs() as said:
                told = await caller.post(f"/bugs/{kind}")
            assert (told.status_code, told.json()["title"]) == (500, "internal")
            assert "1234" not in told.text
            assert [line["event"] for line in said] == ["route raised an unexpected error"]


async def test_a_refusal_inside_a_route_is_audited_whether_it_reads_or_writes_and_a_read_is_not():
    audited: list[Audited] = []

    async def record(entry: Audited) -> None:
        audited.append(entry)

    refusing = routes_of("/refusing", "things")

    async def refuse(_: Caller) -> Asked:
        """Not this one."""
        raise Forbidden("not yours")

    refusing.get("")(refuse)
    refusing.post("")(refuse)
    async with client(in_process(routers=[refusing, things], record=record)) as caller:
        for method in ("GET", "POST"):
            assert (await caller.request(method, "/refusing")).status_code == 403
        assert (await caller.get("/things/logs")).status_code == 200

    assert [(one.action, one.outcome, one.who) for one in audited] == [
        ("forbidden", "refused", "user:admin"),
        ("refuse", "refused", "user:admin"),
    ]


async def test_a_request_without_a_trace_begins_one_whatever_came_before_it_in_the_same_task():
    first = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with client(in_process()) as caller:
        given = await caller.get("/health", headers={"traceparent": f"00-{first}-00f067aa0ba902b7-01"})
        others = [(await caller.get("/health")).headers["x-trace-id"] for _ in range(2)]
        zeros = await caller.get("/health", headers={"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"})

    assert given.headers["x-trace-id"] == first
    assert len({first, *others, zeros.headers["x-trace-id"], "0" * 32}) == 5
