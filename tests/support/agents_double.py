"""A double of the agent manager: answers the API's requests about agents, and publishes agent events."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.clock import utc_now
from muster.common.contracts import agent_health, agent_lifecycle, agent_logs, agent_messages, agent_registry, agents
from muster.common.contracts.packages import Capability, ListPackages, Manifest, PackageList, PackageView
from muster.common.faults import Conflict, InvalidMessage, NotFound, PreconditionFailed
from muster.common.ids import new_id
from tests.support.streams import ensure_streams

ECHO = Capability(name="echo", description="Returns the text of each message.")


class AgentsDouble:
    """A double of the agent manager that stores its agents in a dictionary."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.journal = bus, MessageStore(bus)
        self.agents: dict[str, agents.AgentView] = {}
        self.commands: list[str] = []
        self.heard: list[agent_messages.MessageAgent] = []
        self.lines: dict[str, list[agent_logs.LogLine]] = {}
        self.closing = asyncio.Event()

    async def register(self, new: agent_registry.RegisterAgent) -> agents.AgentView:
        if new.agent_id in self.agents:
            return self.agents[new.agent_id]
        if any(view.name == new.name for view in self.agents.values()):
            raise Conflict(f"an agent named {new.name} already exists", field="$.name")
        if new.package != "echo":
            raise InvalidMessage(f"there is no package {new.package}", field="$.package")
        view = agents.AgentView(
            agent_id=new.agent_id,
            name=new.name,
            package=new.package,
            agent_type="echo",
            agent_version="0.1.0",
            mode=new.mode,
            capabilities=["echo"],
            config=new.config,
            labels=new.labels,
            is_default=False,
            desired="stopped",
            state="stopped",
            state_since=utc_now(),
            cites="registered",
            reason=None,
            exit_code=None,
            launch=0,
            restarts=0,
            pid=None,
            owner=None,
            last_seen=None,
            live_tasks=0,
            version=1,
            created_at=utc_now(),
            updated_at=utc_now(),
        )
        self.agents[new.agent_id] = view
        await self.told(view, "registered")
        return view

    async def get(self, asked: agent_registry.GetAgent) -> agents.AgentView:
        if asked.agent_id.startswith("agt_s10w"):
            await self.closing.wait()
        return self._view(asked.agent_id)

    async def list(self, asked: agent_registry.ListAgents) -> agent_registry.AgentPage:
        found = [
            view
            for view in reversed(self.agents.values())
            if asked.state in (None, view.state)
            and asked.package in (None, view.package)
            and view.name.startswith(asked.name_starts or "")
            and asked.labels.items() <= view.labels.items()
        ]
        begin = int(asked.cursor or 0)
        end = begin + asked.limit
        return agent_registry.AgentPage(agents=found[begin:end], next_cursor=str(end) if end < len(found) else None)

    async def update(self, asked: agent_registry.UpdateAgent) -> agents.AgentView:
        given = {name: getattr(asked, name) for name in ("name", "config", "labels")}
        fields = {name: value for name, value in given.items() if value is not None}
        self._unchanged_since(asked.agent_id, asked.version)
        return await self._change(asked.agent_id, "updated", **fields)

    async def delete(self, asked: agent_registry.DeleteAgent) -> agent_registry.Deleted:
        view = self._unchanged_since(asked.agent_id, asked.version)
        if view.desired == "running":
            raise Conflict("it runs; stop it first")
        await self._change(asked.agent_id, "deleted")
        del self.agents[asked.agent_id]
        return agent_registry.Deleted(agent_id=asked.agent_id)

    async def start(self, asked: agent_lifecycle.StartAgent) -> agents.AgentView:
        return await self._wish(asked.agent_id, asked.command_id, "running", "idle")

    async def restart(self, asked: agent_lifecycle.RestartAgent) -> agents.AgentView:
        return await self._wish(asked.agent_id, asked.command_id, "running", "idle")

    async def stop(self, asked: agent_lifecycle.StopAgent) -> agents.AgentView:
        return await self._wish(asked.agent_id, asked.command_id, "stopped", "stopped")

    async def message(self, asked: agent_messages.MessageAgent) -> agent_messages.Handed:
        if self._view(asked.agent_id).state != "idle":
            raise Conflict("it does not run; start it first")
        self.heard.append(asked)
        if asked.text.startswith("later "):
            return agent_messages.Handed(
                agent_id=asked.agent_id, message_id=asked.message_id, agent={"state": "accepted", "answer": None}
            )
        return agent_messages.Handed(agent_id=asked.agent_id, message_id=asked.message_id, agent={"said": asked.text})

    async def find(self, asked: agent_registry.FindAgent) -> agent_registry.Choice:
        considered = [
            agent_registry.Considered(
                agent_id=view.agent_id, name=view.name, chosen=view.state == "idle", why=f"it is {view.state}"
            )
            for view in self.agents.values()
        ]
        chosen = next((self.agents[one.agent_id] for one in considered if one.chosen), None)
        return agent_registry.Choice(agent=chosen, considered=considered[:100])

    async def status(self, asked: agent_health.GetAgentStatus) -> agent_health.AgentStatusView:
        view = self._view(asked.agent_id)
        return agent_health.AgentStatusView(
            agent_id=view.agent_id,
            state=view.state,
            desired=view.desired,
            state_since=view.state_since,
            cites=view.cites,
            last_seen=None,
            pid=None,
            exit_code=None,
            reason=None,
            health=None,
            asked="not_running",
        )

    async def metrics(self, asked: agent_health.GetAgentMetrics) -> agent_health.AgentMetricsView:
        return agent_health.AgentMetricsView(
            agent_id=self._view(asked.agent_id).agent_id, at=None, metrics={}, counted={"restarts": 0.0}
        )

    async def logs(self, asked: agent_logs.GetAgentLogs) -> agent_logs.AgentLogPage:
        self._view(asked.agent_id)
        lines = self.lines.get(asked.agent_id, [])
        begin = int(asked.cursor) if asked.cursor and asked.cursor.isdigit() else max(0, len(lines) - asked.limit)
        page = lines[begin : begin + asked.limit]
        return agent_logs.AgentLogPage(agent_id=asked.agent_id, lines=page, next_cursor=str(begin + len(page)))

    async def packages(self, asked: ListPackages) -> PackageList:
        manifest = Manifest(name="echo", type="echo", version="0.1.0", module="muster.agents.echo", capabilities=[ECHO])
        broken = PackageView(name="broken", folder="broken", usable=False, reason="there is no agent.toml")
        return PackageList(packages=[broken, PackageView(name="echo", folder="echo", usable=True, manifest=manifest)])

    async def capabilities(self, asked: agent_registry.ListCapabilities) -> agent_registry.CapabilityList:
        view = agent_registry.CapabilityView(capability=ECHO, packages=["echo"], agents=len(self.agents))
        return agent_registry.CapabilityList(capabilities=[view])

    async def say(self, agent_id: str, *texts: str) -> None:
        """Store output lines of an agent, as if its process had written them."""
        lines = self.lines.setdefault(agent_id, [])
        told = [agent_logs.LoggedLine(n=len(lines) + n, at=utc_now(), text=text) for n, text in enumerate(texts, 1)]
        lines += [agent_logs.LogLine(position=one.n, n=one.n, launch=1, at=one.at, text=one.text) for one in told]
        output = agent_logs.AgentOutput(agent_id=agent_id, launch=1, lines=told, next_offset=len(lines))
        await self.journal.store(output, new_id("evt"))

    async def settle(self, outcome: agent_messages.MessageResult) -> None:
        """Store the event with the outcome of a message."""
        (agent_id,) = {one.agent_id for one in self.heard if one.message_id == outcome.message_id}
        await self._change(agent_id, f"message-{outcome.state}", told={"message": outcome})

    async def told(self, view: agents.AgentView, kind: str, told: object = None) -> None:
        """Store an `AgentChanged` event, as the manager's outbox relay does."""
        changed = agents.AgentChanged(
            agent_id=view.agent_id,
            kind=kind,
            event_id=new_id("evt"),
            version=view.version,
            at=utc_now(),
            state=view.state,
            desired=view.desired,
            body=msgspec.Raw(msgspec.json.encode(told or {})),
        )
        await self.journal.store(changed, changed.event_id)

    async def _wish(
        self, agent_id: str, command_id: str, desired: agents.Desired, state: agents.AgentState
    ) -> agents.AgentView:
        self._view(agent_id)
        if command_id in self.commands:
            return self._view(agent_id)
        self.commands.append(command_id)
        return await self._change(agent_id, state, desired=desired, state=state)

    async def _change(self, agent_id: str, kind: str, *, told: object = None, **fields: Any) -> agents.AgentView:
        view = self._view(agent_id)
        view = msgspec.structs.replace(view, **fields, version=view.version + 1, updated_at=utc_now())
        self.agents[agent_id] = view
        await self.told(view, kind, told)
        return view

    def _unchanged_since(self, agent_id: str, version: int | None) -> agents.AgentView:
        view = self._view(agent_id)
        if version not in (None, view.version):
            raise PreconditionFailed(f"the agent has version {view.version} now; read the agent again")
        return view

    def _view(self, agent_id: str) -> agents.AgentView:
        if agent_id not in self.agents:
            raise NotFound(f"there is no agent {agent_id}", field="$.agent_id")
        return self.agents[agent_id]


def answers(service: Service, double: AgentsDouble) -> None:
    """Register the double's handlers in `service`."""
    service.handles(agent_registry.RegisterAgent, double.register)
    service.handles(agent_registry.GetAgent, double.get, deadline_s=60)
    service.handles(agent_registry.ListAgents, double.list)
    service.handles(agent_registry.UpdateAgent, double.update)
    service.handles(agent_registry.DeleteAgent, double.delete)
    service.handles(agent_lifecycle.StartAgent, double.start)
    service.handles(agent_lifecycle.StopAgent, double.stop)
    service.handles(agent_lifecycle.RestartAgent, double.restart)
    service.handles(agent_messages.MessageAgent, double.message)
    service.handles(agent_registry.FindAgent, double.find)
    service.handles(agent_health.GetAgentStatus, double.status)
    service.handles(agent_health.GetAgentMetrics, double.metrics)
    service.handles(agent_logs.GetAgentLogs, double.logs)
    service.handles(agent_registry.ListCapabilities, double.capabilities)
    service.handles(ListPackages, double.packages)


@asynccontextmanager
async def agents_double(nats_url: str, *, answering: bool = True) -> AsyncGenerator[AgentsDouble]:
    """Yield a double and create its streams; without `answering` the double handles no requests."""
    async with open_bus(nats_url, "test-agents") as bus:
        await ensure_streams(bus, "AGENTS", "AGENT_LOGS")
        double = AgentsDouble(bus)
        if not answering:
            yield double
            return
        service = Service("agent_manager", bus)
        answers(service, double)
        async with service:
            try:
                yield double
            finally:
                double.closing.set()
