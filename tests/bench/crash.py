"""Measures the time from an agent's crash to the first line of its replacement, compared with a minimal parent process."""

import asyncio
import os
import signal
import statistics
import sys
import time
from pathlib import Path

from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.agent_lifecycle import StartAgent
from muster.common.contracts.agent_logs import AgentOutput
from muster.common.contracts.agent_registry import GetAgent, RegisterAgent
from muster.common.contracts.agents import AgentView
from tests.bench.ratios import row, say
from tests.support.patience import PATIENCE_S
from tests.support.process_agents import write_package

CRASHES = 7
PACKAGE = "bench_crash"
CODE = "import time\nprint(time.time_ns(), flush=True)\ntime.sleep(3600)\n"


def prepare(packages: Path) -> None:
    """Write the agent package; called before the stack starts."""
    write_package(packages, PACKAGE, CODE)


async def report(bus: Bus, packages: Path) -> None:
    """Crash each agent once and print the times. The first restart of an agent is immediate."""
    told, stored = [list[float]() for _ in range(2)]
    bare_told, bare_read = [list[float]() for _ in range(2)]
    for number in range(CRASHES):
        agent = await running(bus, number)
        for times, into in (
            (await crashed(bus, agent), (told, stored)),
            (await bare(packages), (bare_told, bare_read)),
        ):
            for one, all_of_them in zip(times, into, strict=True):
                all_of_them.append(one)
    say()
    say("a process agent crashes → its replacement's first line (ms, median; aim 3)")
    row("", "Muster", "wait and spawn", "ratio")
    for name, ours, theirs in (("said", told, bare_told), ("stored in AGENT_LOGS | read", stored, bare_read)):
        mine, bare_one = statistics.median(ours) * 1000, statistics.median(theirs) * 1000
        row(f"first line {name}", f"{mine:.0f}", f"{bare_one:.0f}", f"{mine / bare_one:.2f}")


async def running(bus: Bus, number: int) -> AgentView:
    """Start a new agent and return it when its process runs."""
    agent_id = bus.new_id("agt")
    await bus.request(RegisterAgent(agent_id=agent_id, name=f"crash-{number}", package=PACKAGE))
    await bus.request(StartAgent(agent_id=agent_id, command_id=bus.new_id("req")))
    async with asyncio.timeout(PATIENCE_S):
        async for _ in MessageStore(bus).follow("AGENT_LOGS", f"agent.{agent_id}.log"):
            view = await bus.request(GetAgent(agent_id=agent_id))
            if view.pid is not None:
                return view
    raise AssertionError("no output")


async def crashed(bus: Bus, agent: AgentView) -> tuple[float, float]:
    """Return the seconds from the kill until the next launch wrote its first line, and until the line was stored."""
    assert agent.pid is not None
    began = time.time()
    os.kill(agent.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        async for found in MessageStore(bus).follow("AGENT_LOGS", f"agent.{agent.agent_id}.log"):
            output = decode(found.body, AgentOutput)
            if output.launch > agent.launch:
                return int(output.lines[0].text) / 1e9 - began, time.time() - began
    raise AssertionError("no replacement")


async def bare(packages: Path) -> tuple[float, float]:
    """Measure the same times for a parent process that only waits for its child and starts the next one."""
    first = await spawned(packages)
    began = time.time()
    first.kill()
    await first.wait()
    second = await spawned(packages)
    assert second.stdout
    said = int(await second.stdout.readline()) / 1e9 - began
    read = time.time() - began
    second.kill()
    await second.wait()
    return said, read


async def spawned(packages: Path) -> asyncio.subprocess.Process:
    """Start the package's process without Muster."""
    env = os.environ | {"PYTHONPATH": str(packages)}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", PACKAGE, stdout=asyncio.subprocess.PIPE, env=env)
