"""Measures one read through API, manager and PostgreSQL, compared with minimal HTTP and NATS servers."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.common.bus.connection import Bus
from muster.common.contract import Command
from muster.common.contracts.agent_registry import GetAgent, RegisterAgent
from muster.common.contracts.tasks import GetTask
from muster.common.ids import new_id
from tests.bench.bare import FASTAPI, HTTP, NATS, responder
from tests.bench.client import Lane, lanes
from tests.bench.ratios import Latency, latency, row, say
from tests.support.eventually import eventually
from tests.support.fleet import Fleet
from tests.support.stack import RunningStack

CALLS = {1: 400, 32: 2400}
"""By how many are under way at a time."""
SETTLED_S = 90.0
ENV = {"MUSTER_REQUESTS_PER_PRINCIPAL": "1000000 per second"}
"""All lanes are one caller, and together faster than one is allowed to be."""


async def report(stack: RunningStack, bus: Bus) -> None:
    """Read tasks and agents, one at a time and 32 at a time. Each lane reads another object."""
    tasks, agents = await ended_tasks(Fleet(stack), max(CALLS)), await registered_agents(bus, max(CALLS))
    say()
    say("one read: HTTP → API → NATS → manager → PostgreSQL → back (ms; aim 3 times the bare at p50)")
    row("", "p50 / p99", "bare HTTP + bare NATS p50", "ratio")
    async with (
        responder(HTTP) as port,
        responder(NATS, NATS=stack.nats_url, CREDENTIALS=stack.ready.nats_credentials),
        responder(FASTAPI, NATS=stack.nats_url, CREDENTIALS=stack.ready.nats_credentials) as plain_port,
        lanes(f"http://127.0.0.1:{port}", max(CALLS)) as bare,
        lanes(f"http://127.0.0.1:{plain_port}", max(CALLS)) as plain,
        lanes(stack.api_url, max(CALLS)) as api,
    ):
        for side_by_side in CALLS:
            limits = await bare_limits(bare, bus, side_by_side)
            await plain_fastapi(limits, plain, side_by_side)
            of_tasks = Reads("task", "/api/v1/tasks/", tasks, lambda task_id: GetTask(task_id=task_id))
            await beside(limits, of_tasks, stack, bus, api, side_by_side)
            of_agents = Reads("agent", "/api/v1/agents/", agents, lambda agent_id: GetAgent(agent_id=agent_id))
            await beside(limits, of_agents, stack, bus, api, side_by_side)


@dataclass(frozen=True)
class Reads:
    """The objects of one kind that the lanes read."""

    name: str
    path: str
    ids: list[str]
    command: Callable[[str], Command[Any]]


async def ended_tasks(fleet: Fleet, count: int) -> list[str]:
    """Create `count` tasks with one attempt each; return when all are completed and their sandboxes are deleted."""
    tasks = [await fleet.submit(metadata={"steps": [{"finish": "success"}]}) for _ in range(count)]
    for task in tasks:
        await fleet.ended(task.task_id)
    async with asyncio.timeout(SETTLED_S):
        for task in tasks:
            await eventually(
                functools.partial(fleet.sandboxes, task.task_id),
                lambda sandboxes: all(sandbox.state == "deleted" for sandbox in sandboxes),
                within_s=SETTLED_S,
            )
    return [task.task_id for task in tasks]


async def registered_agents(bus: Bus, count: int) -> list[str]:
    """Register `count` agents, all stopped, and return their ids."""
    new = [RegisterAgent(agent_id=new_id("agt"), name=f"read-{number}", package="echo") for number in range(count)]
    return [(await bus.request(command)).agent_id for command in new]


async def bare_limits(bare: list[Lane], bus: Bus, side_by_side: int) -> tuple[Latency, Latency]:
    """Measure HTTP and NATS requests to processes that answer at once."""
    calls = CALLS[side_by_side]
    http = await latency(lambda lane: bare[lane].request("GET", "/", {}), calls=calls, side_by_side=side_by_side)
    nats = await latency(lambda _: bus.call("bare.echo", b"{}", timeout_s=5), calls=calls, side_by_side=side_by_side)
    return http, nats


async def plain_fastapi(limits: tuple[Latency, Latency], plain: list[Lane], side_by_side: int) -> None:
    """Print one row for a FastAPI application that only sends a NATS request."""
    (http, nats), calls = limits, CALLS[side_by_side]

    async def read(lane: int) -> None:
        status, _ = await plain[lane].request("GET", "/tasks/tsk_1", {})
        assert status == 200, status

    took = await latency(read, calls=calls, side_by_side=side_by_side)
    row(
        f"bare FastAPI + NATS, {side_by_side} at a time",
        f"{took.p50:.2f} / {took.p99:.2f}",
        f"{http.p50:.2f} + {nats.p50:.2f}",
        f"{took.p50 / (http.p50 + nats.p50):.2f}",
    )


async def beside(
    limits: tuple[Latency, Latency],
    reads: Reads,
    stack: RunningStack,
    bus: Bus,
    api: list[Lane],
    side_by_side: int,
) -> None:
    """Print two rows: for the whole path, and for the part behind the API."""
    (http, nats), calls = limits, CALLS[side_by_side]
    headers = {"authorization": f"Bearer {stack.admin_key}"}

    async def read(lane: int) -> None:
        status, _ = await api[lane].request("GET", reads.path + reads.ids[lane], headers)
        assert status == 200, status

    async def ask(lane: int) -> None:
        await bus.request(reads.command(reads.ids[lane]))

    asked = await latency(ask, calls=calls, side_by_side=side_by_side)
    whole = await latency(read, calls=calls, side_by_side=side_by_side)
    row(
        f"{reads.name}, {side_by_side} at a time",
        f"{whole.p50:.2f} / {whole.p99:.2f}",
        f"{http.p50:.2f} + {nats.p50:.2f}",
        f"{whole.p50 / (http.p50 + nats.p50):.2f}",
    )
    row("  of it NATS → manager → PostgreSQL", f"{asked.p50:.2f} / {asked.p99:.2f}", f"{nats.p50:.2f}", "")
