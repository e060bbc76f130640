"""A followed command needs the role operator, is bounded, starts once and is audited. The API process is real."""

from typing import Any

from muster.common.contract import decode
from muster.common.contracts.sandbox_commands import CommandOutput
from tests.support.api import ApiProcess, neighbours
from tests.support.caller import Caller
from tests.support.eventually import eventually

SANDBOX = "sbx_commands"
COMMANDS = f"/api/v1/sandboxes/{SANDBOX}/commands"


async def test_operator_follows_a_command_and_the_audit_names_its_start_and_end(api: ApiProcess, nats_url: str):
    admin = Caller(api)
    operator = await admin.issue("operator")
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        first = await operator.ask("POST", COMMANDS, {"command": "ls", "timeout_s": 7}, idempotency_key="run-1")
        again = await operator.ask("POST", COMMANDS, {"command": "ls", "timeout_s": 7}, idempotency_key="run-1")
        assert (first.status, again.status, again.body) == (202, 202, first.body)
        command_id = decode(first.body, CommandOutput).command_id
        one = f"{COMMANDS}/{command_id}"
        read: dict[str, Any] = await operator.done("GET", f"{one}?offset=4&follow=true")
        assert (read["text"], read["exit_code"], read["running"]) == ("two\n", 3, False)
        await operator.done("DELETE", one)
        assert [(asked.command, asked.timeout_s) for asked in doubles.started.values()] == [("ls", 7)]
        assert doubles.ended == [command_id]

    async def recorded() -> list[tuple[str, str]]:
        found = (await admin.done("GET", f"/api/v1/audit?who=key:{operator.key_id}"))["entries"]
        return sorted((entry["action"], entry["what"]) for entry in found)

    wanted = [("end-command", f"DELETE {one}"), *[("start-command", f"POST {COMMANDS}")] * 2]
    assert await eventually(recorded, lambda found: len(found) == 3) == wanted


async def test_viewer_and_bodies_outside_the_bounds_are_refused(api: ApiProcess, nats_url: str):
    viewer = await Caller(api).issue("viewer")
    narrow = await Caller(api).issue("operator", scopes=["sandboxes:read"])
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, "tsk_1")
        for caller in (viewer, narrow):
            refused = [
                await caller.ask("POST", COMMANDS, {"command": "ls"}),
                await caller.ask("GET", f"{COMMANDS}/req_1"),
                await caller.ask("DELETE", f"{COMMANDS}/req_1"),
            ]
            assert [one.status for one in refused] == [403, 403 if caller is viewer else 404, 403]
        for body, field in (({"command": " "}, "$.command"), ({"command": "ls", "timeout_s": 3_501}, "$.timeout_s")):
            answer = await Caller(api).ask("POST", COMMANDS, body)
            assert (answer.status, answer.problem.field) == (422, field)
        assert doubles.started == {}
