"""A command in a sandbox needs the role operator, is bounded, runs once and is audited. The API process is real."""

import pytest

from tests.support.api import ApiProcess, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually

SANDBOX = "sbx_exec"
EXEC = f"/api/v1/sandboxes/{SANDBOX}/exec"


async def test_operator_runs_a_command_once_and_the_audit_names_caller_and_sandbox(api: ApiProcess, nats_url: str):
    admin = Caller(api)
    operator = await admin.issue("operator")
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        first = await operator.ask("POST", EXEC, {"command": "ls", "timeout_s": 7}, idempotency_key="exec-1")
        again = await operator.ask("POST", EXEC, {"command": "ls", "timeout_s": 7}, idempotency_key="exec-1")
        assert (first.status, again.status, again.body) == (200, 200, first.body)
        assert [(one.command, one.timeout_s) for one in doubles.executed] == [("ls", 7)]
        await operator.ask("POST", EXEC, {"command": "ls"})
        assert doubles.executed[0].key != doubles.executed[1].key, "two requests are two runs"

    async def recorded() -> list[tuple[str, str, str]]:
        found = (await admin.done("GET", f"/api/v1/audit?who=key:{operator.key_id}"))["entries"]
        return [(one["action"], one["what"], one["outcome"]) for one in found]

    entry = ("exec-in-sandbox", f"POST {EXEC}", "done")
    assert await eventually(recorded, lambda found: len(found) == 3) == [entry] * 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "$.command"),
        ({"command": " "}, "$.command"),
        ({"command": "x" * 32_001}, "$.command"),
        ({"command": "ls", "timeout_s": 0}, "$.timeout_s"),
        ({"command": "ls", "timeout_s": 46}, "$.timeout_s"),
        ({"command": "ls", "user": "root"}, "$.user"),
    ],
)
async def test_body_outside_the_bounds_is_refused_and_its_field_is_named(api: ApiProcess, body: object, field: str):
    refused = await Caller(api).ask("POST", EXEC, body)
    assert (refused.status, refused.problem.field) == (422, field)


async def test_viewer_and_key_without_the_scope_may_not_run_a_command(api: ApiProcess, nats_url: str):
    viewer = await Caller(api).issue("viewer")
    narrow = await Caller(api).issue("operator", scopes=["sandboxes:read"])
    of_project = await Caller(api).issue("operator", project="alpha")
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        refused = [await caller.ask("POST", EXEC, {"command": "ls"}) for caller in (viewer, narrow, of_project)]
        assert [one.status for one in refused] == [403, 403, 403]
        assert doubles.executed == []
