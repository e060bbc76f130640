"""An agent from registration to deletion over HTTP, in both modes, on a whole stack without doubles."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.caller import Caller
from tests.support.eventually import eventually
from tests.support.whole_stack import WholeStack


async def _until(caller: Caller, path: str, holds: Callable[[Any], bool]) -> Any:
    """Repeat a request until `holds` is true of the response; return the response."""
    return await eventually(lambda: caller.done("GET", path, Accept="application/json"), holds)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["process", "sandbox"])
async def test_every_agent_route_works_from_registration_to_deletion(whole: WholeStack, mode: str):
    stack = whole.stack
    caller = Caller(stack.api_url, stack.admin_key)
    made = await caller.ask("POST", "/api/v1/agents", {"name": f"one of {mode}", "package": "echo", "mode": mode})
    assert made.status == 201, made.body
    one, agent_id = made.headers["location"], made.json["agent_id"]
    listed = await caller.done("GET", f"/api/v1/agents?package=echo&mode={mode}&name_starts=one")
    assert [view["agent_id"] for view in listed["agents"]] == [agent_id]
    changed = await caller.ask("PUT", one, {"labels": {"rack": "7"}}, If_Match=made.headers["etag"])
    assert (changed.status, changed.json["labels"]) == (200, {"rack": "7"})

    assert (await caller.ask("POST", f"{one}/start")).status == 202
    running = await _until(caller, one, lambda view: view["state"] in ("idle", "running"))
    assert running["desired"] == "running"
    status = await caller.done("GET", f"{one}/status")
    assert status["cites"]
    if mode == "process":
        assert (status["asked"], status["pid"]) == ("answered", running["pid"])
        handed = await caller.done("POST", f"{one}/messages", {"text": "hello"})
        assert handed["agent"], "its own answer"
        first = await caller.done("GET", f"{one}/logs?wait_s=30&limit=1000")
        assert first["lines"]
        assert (await caller.ask("POST", f"{one}/restart")).status == 202
        again = await _until(caller, one, lambda view: view["launch"] > running["launch"] and view["state"] == "idle")
        assert again["pid"] != running["pid"]
        more = await caller.done("GET", f"{one}/logs?wait_s=30&cursor={first['next_cursor']}")
        assert more["lines"][-1]["launch"] == again["launch"]
    assert (await caller.done("GET", f"{one}/metrics"))["agent_id"] == agent_id
    choice = await caller.done("POST", "/api/v1/agents/find", {"labels": {"rack": "7"}})
    assert choice["agent"]["agent_id"] == agent_id
    refused = await caller.ask("DELETE", one, If_Match="*")
    assert refused.problem.status == 409

    assert (await caller.ask("POST", f"{one}/stop")).status == 202
    stopped = await _until(caller, one, lambda view: view["state"] == "stopped")
    assert stopped["pid"] is None
    deleted = await caller.ask("DELETE", one, If_Match=f'"{stopped["version"]}"')
    assert deleted.status == 200, deleted.body
    assert (await caller.ask("GET", one)).problem.status == 404

    told = await _until(caller, f"{one}/events?limit=100", lambda page: page["events"][-1]["kind"] == "deleted")
    assert [event["version"] for event in told["events"]] == list(range(1, len(told["events"]) + 1))
