"""Each process of a stack is killed with -9 during a task.

The task completes, invariants I1 to I5 hold, and no second attempt is live.
"""

import asyncio
import json
import os
import signal
from contextlib import suppress

import httpcore
import msgspec
import pytest

from muster.common.bus.connection import open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.clock import rfc3339, utc_now
from muster.common.contract import decode
from muster.common.contracts.audit import Audited
from muster.common.contracts.gateway import SandboxView
from muster.common.contracts.sandbox_log import FrameHead, FrameKind, log_stream, log_subject, partition
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims
from tests.support.fleet import Fleet
from tests.support.patience import PATIENCE_S
from tests.support.severing import sever_unix_connections

pytestmark = pytest.mark.timeout(180)

OFTEN, ALSO = ["sandbox_gateway", "nats"], ["agent_manager", "guardian", "management_api", "postgres"]
PARTS = [*OFTEN, *(pytest.param(part, marks=pytest.mark.stress) for part in ALSO)]
ROUNDS = range(5 if os.environ.get("MUSTER_CHAOS") == "full" else 1)
"""`make chaos` kills every part several times; `make test` two of them once."""
EVENTS = 60
BUSY: list[dict[str, object]] = [
    {"act": "step", "observe": "did something", "times": EVENTS // 2, "every_ms": 100},
    {"finish": "success", "summary": "done"},
]


# pytest varies the upper parameter fastest; a process that crashes five times within a minute would end the stack.
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("round_", ROUNDS)
async def test_task_completes_when_a_process_of_the_stack_is_killed(fleet: Fleet, part: str, round_: int) -> None:
    task = await fleet.submit(metadata={"steps": varied(BUSY)})
    await fleet.until_logged(task.task_id, 10 + 5 * round_)
    await fleet.stack.kill(part)

    task = await fleet.ended(task.task_id)

    assert task.state == "completed"
    assert [attempt.epoch for attempt in task.attempts] == [1], "the worker lived: no second attempt"
    (verdict,) = await fleet.assert_proven(task)
    assert verdict.events > EVENTS
    assert verdict.gaps == []


async def write_as(fleet: Fleet, sandbox: SandboxView) -> int:
    """Post one event as the sandbox's worker; return the status of the response."""
    keys = json.loads((fleet.stack.data_dir / "secrets.json").read_text())["token_keys"]
    until = int(utc_now().timestamp()) + 600
    claims = SandboxClaims(sandbox.sandbox_id, sandbox.task_id, sandbox.agent_id, sandbox.epoch, until, "scripted/echo")
    event = {
        "seq": 100,
        "event_id": "late",
        "kind": "late",
        "at": rfc3339(utc_now()),
        "source": "agent",
        "body": "late",
    }
    body = {"epoch": sandbox.epoch, "events": [event]}
    token = Keyring.parsed(keys).sign(claims)
    headers = [("authorization", f"Bearer {token}"), ("content-type", "application/json")]
    url = f"{fleet.stack.gateway_url}/v1/sandboxes/{sandbox.sandbox_id}/events"
    async with httpcore.AsyncConnectionPool() as pool:
        return (await pool.request("POST", url, headers=headers, content=msgspec.json.encode(body))).status


def varied(steps: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the same steps with different commands, so that the guardian finds no repetition."""
    words = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett")
    acts: list[dict[str, object]] = []
    for step in steps:
        if step.get("act"):
            times = int(str(step["times"]))
            acts += [
                step | {"act": f"{words[n % 10]} {words[n // 10]}", "observe": words[n % 7], "times": 1}
                for n in range(times)
            ]
        else:
            acts.append(step)
    return acts


@pytest.mark.stress
async def test_task_completes_when_the_connection_to_the_shim_is_cut(fleet: Fleet) -> None:
    task = await fleet.submit(metadata={"steps": varied(BUSY)})
    await fleet.until_logged(task.task_id, 10)

    assert sever_unix_connections(fleet.stack.pids["sandbox_gateway"]) > 0
    task = await fleet.ended(task.task_id)

    assert task.state == "completed"
    assert len(task.attempts) == 1
    await fleet.assert_proven(task)


async def test_a_killed_worker_is_replaced_and_the_second_attempt_finishes(fleet: Fleet) -> None:
    task = await fleet.submit(metadata={"steps": varied(BUSY)})
    sandbox_id = await fleet.until_logged(task.task_id, 10)
    await fleet.signal_worker(sandbox_id, signal.SIGKILL)

    task = await fleet.ended(task.task_id)

    assert task.state == "completed"
    assert [attempt.epoch for attempt in task.attempts] == [1, 2]
    assert (await fleet.assert_proven(task))[0].ended == "fenced"


async def test_a_frozen_worker_is_fenced_and_replaced_and_nothing_it_writes_later_is_stored(fleet: Fleet) -> None:
    task = await fleet.submit(metadata={"steps": varied(BUSY)})
    sandbox_id = await fleet.until_logged(task.task_id, 10)
    worker = await fleet.worker_pid(sandbox_id)
    sandbox = await fleet.read(f"/api/v1/sandboxes/{sandbox_id}", SandboxView)
    os.kill(worker, signal.SIGSTOP)
    async with open_bus(fleet.stack.nats_url, "test", credentials=fleet.stack.nats_credentials) as bus:
        message_store, stream, subject = MessageStore(bus), log_stream(partition(sandbox_id)), log_subject(sandbox_id)
        async with asyncio.timeout(PATIENCE_S):
            async for stored in message_store.follow(stream, subject):
                if decode(stored.body, FrameHead).kind is FrameKind.FENCED:
                    break
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
            # The worker may end before it writes, so the test also sends the same event with the worker's token.
            assert [await write_as(fleet, sandbox) for _ in range(3)] == [410, 410, 410]
            async for stored in message_store.follow("AUDIT", "audit.sandbox_gateway.zombie-write"):
                if decode(stored.body, Audited).who == sandbox_id:
                    break
        task = await fleet.ended(task.task_id)
        frames = [decode(stored.body, FrameHead) async for stored in message_store.replay(stream, subject)]

    assert task.state == "completed"
    assert [attempt.epoch for attempt in task.attempts] == [1, 2]
    assert [frame.kind for frame in frames].index(FrameKind.FENCED) == len(frames) - 1, "I4"
    await fleet.assert_proven(task)
