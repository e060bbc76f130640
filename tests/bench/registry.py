"""Measures the registry with 10,000 agents, compared with a minimal NATS request."""

from typing import Any

from muster.agent_manager.database.engine import open_database
from muster.common.bus.connection import Bus
from muster.common.clock import utc_now
from muster.common.contract import Command
from muster.common.contracts.agent_registry import FindAgent, ListAgents
from muster.common.ids import new_id
from tests.bench.bare import NATS, responder
from tests.bench.ratios import latency, row, say
from tests.support.registry import seed_agents
from tests.support.stack import RunningStack

AGENTS = 10_000
ASKED: dict[str, Command[Any]] = {
    "find one of ten that can": FindAgent(capabilities=["rare"], available=True),
    "find any": FindAgent(capabilities=["echo"]),
    "find none, say why": FindAgent(capabilities=["flying"]),
    "list 50 of a label": ListAgents(labels={"rack": "7"}),
    "list 50 by name": ListAgents(name_starts="seed-77"),
}


async def report(stack: RunningStack, bus: Bus) -> None:
    """Measure searches, one at a time, and print the times."""
    async with open_database(stack.database_url, now=utc_now, new_id=new_id) as database:
        await seed_agents(database, AGENTS)
    say()
    say(f"{AGENTS:,} agents searched (ms; aim: milliseconds)")
    row("", "p50 / p99", "bare NATS p50", "ratio")
    async with responder(NATS, NATS=stack.nats_url, CREDENTIALS=stack.ready.nats_credentials):
        bare = await latency(lambda _: bus.call("bare.echo", b"{}", timeout_s=5), calls=200)
        for name, command in ASKED.items():
            took = await latency(lambda _, asked=command: bus.request(asked), calls=100)
            row(name, f"{took.p50:.2f} / {took.p99:.2f}", f"{bare.p50:.2f}", f"{took.p50 / bare.p50:.1f}")
