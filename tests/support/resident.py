"""Starts an agent in process mode as the manager does, and collects all messages that the agent publishes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from muster.common.bus.connection import Bus, Incoming
from muster.common.contract import decode, encode
from muster.common.contracts.agent_process import (
    AgentAnswered,
    AgentBeat,
    AgentMeasured,
    AgentOrder,
    AgentQuestion,
    AgentResponse,
    ProcessHandoff,
)
from tests.support.eventually import eventually
from tests.support.patience import PATIENCE_S


class Resident:
    """An agent process and the messages that were received from it."""

    def __init__(self, bus: Bus, handoff: ProcessHandoff, process: subprocess.Popen[bytes], log: Path) -> None:
        self.bus, self.handoff, self.process, self.log = bus, handoff, process, log
        self.beats: list[AgentBeat] = []
        self.measured: list[AgentMeasured] = []
        self.answered: list[AgentAnswered] = []
        self._changed = asyncio.Condition()

    async def take(self, message: Incoming) -> None:
        """Store one message that the agent has published."""
        match message.subject.rpartition(".")[2]:
            case "status":
                self.beats.append(decode(message.data, AgentBeat))
            case "metrics":
                self.measured.append(decode(message.data, AgentMeasured))
            case "response":
                self.answered.append(decode(message.data, AgentAnswered))
            case _:  # Commands and queries of the test itself are not stored.
                return
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds` is true of the received messages."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: bool(holds()))
        except TimeoutError:
            raise AssertionError(f"the condition was never true: {self.beats[-3:]}\n{self.said}") from None

    async def beating(self, state: str = "idle") -> None:
        """Wait until the latest heartbeat has this state."""
        await self.until(lambda: self.beats and self.beats[-1].beat.state == state)

    async def order(self, command: str, *, launch: int | None = None, **params: Any) -> AgentResponse:
        """Send one command to the agent and return its reply."""
        told = self.handoff
        order = AgentOrder(agent_id=told.agent_id, command=command, launch=launch or told.launch, params=params)
        return await self.bus.request(order, timeout_s=PATIENCE_S)

    async def ask(self, command: Any) -> AgentResponse:
        """Send one query to the agent and return its reply."""
        told = self.handoff
        question = AgentQuestion(agent_id=told.agent_id, command=command, launch=told.launch)
        return await self.bus.request(question, timeout_s=PATIENCE_S)

    async def until_said(self, words: str) -> None:
        """Wait until the agent's output contains `words`; the file is polled."""
        await eventually(lambda: words in self.said)

    async def ended(self) -> int:
        """Wait until the process ends, and return its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.to_thread(self.process.wait)

    @property
    def said(self) -> str:
        """The output of the process so far."""
        return self.log.read_text()


@asynccontextmanager
async def resident(
    bus: Bus, url: str, home: Path, *, module: str = "muster.agents.echo", path: Path | None = None, **told: Any
) -> AsyncGenerator[Resident]:
    """Start `python -m <module>` with a handoff file and yield the agent; kill the process at the end."""
    fresh: dict[str, Any] = {
        "agent_id": bus.new_id("agt"),
        "launch": 3,
        "name": "parrot",
        "agent_type": "scripted",
        "agent_version": "0.1.0",
        "config": {},
        "nats_url": url,
        "credentials": "",
        "credentials_file": str(home / "agent.creds"),
        "state_dir": str(home / "state"),
        "beat_running_s": 1.0,
        "beat_idle_s": 1.0,
    }
    handoff = ProcessHandoff(**(fresh | told))
    file, log = home / "handoff.json", home / "agent.log"
    file.write_bytes(encode(handoff))
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    watched: list[Resident] = []

    async def take(message: Incoming) -> None:
        await watched[0].take(message)

    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--handoff", str(file)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    watched.append(Resident(bus, handoff, process, log))
    subscription = await bus.subscribe(f"agent.{handoff.agent_id}.*", take)
    if bus.connected.is_set():
        await bus.flush()
    try:
        yield watched[0]
    finally:
        process.kill()
        process.wait()
        await subscription.unsubscribe()
