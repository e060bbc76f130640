"""`/api/v1/agents`: register, look, change, start and stop."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agent_messages import Handed, MessageAgent
from muster.common.contracts.agent_registry import (
    AgentPage,
    Choice,
    DeleteAgent,
    Deleted,
    FindAgent,
    ListAgents,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agents import AgentView
from muster.common.ids import NewId
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.queries import AgentQuery
from muster.management_api.domain.requests import AgentChange, AgentMessage, NewAgent, Wanted
from muster.management_api.routes.answers import answer, etag
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.routes.preconditions import if_match

AGENTS = "/api/v1/agents"
ONE = f"{AGENTS}/{{agent_id}}"


class Agents:
    """Agents, for people."""

    def __init__(self, neighbours: Neighbours, *, new_id: NewId) -> None:
        self._neighbours, self._new_id = neighbours, new_id

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of = Operation
        yield of("GET", ONE, self.get, "get-agent", "One agent", reply=AgentView, versioned=True)
        yield of("GET", AGENTS, self.list, "list-agents", "Agents, newest first", reply=AgentPage)
        says = "Make an agent known"
        yield of("POST", AGENTS, self.register, "register-agent", says, reply=AgentView, status=201, versioned=True)
        yield of(
            "PUT",
            ONE,
            self.update,
            "update-agent",
            "Change an agent",
            reply=AgentView,
            versioned=True,
            conditional=True,
            refusals=(409,),
        )
        yield of(
            "DELETE",
            ONE,
            self.delete,
            "delete-agent",
            "Forget a stopped agent",
            reply=Deleted,
            conditional=True,
            refusals=(409,),
        )
        for verb, handler, says in (
            ("start", self.start, "Wish an agent to run"),
            ("stop", self.stop, "Wish an agent to be stopped"),
            ("restart", self.restart, "Wish for a younger process of an agent"),
        ):
            name = f"{verb}-agent"
            yield of("POST", f"{ONE}/{verb}", handler, name, says, reply=AgentView, status=202, versioned=True)
        yield of("POST", f"{ONE}/messages", self.message, "message-agent", "Hand a text to an agent", reply=Handed)
        yield of("POST", f"{AGENTS}/find", self.find, "find-agent", "Which agent can do this, and why", reply=Choice)

    async def list(self, asked: Asked[AgentQuery, None]) -> Response:
        """Agents that match every filter, newest first; `next_cursor` continues."""
        query = asked.query
        wanted = ListAgents(
            state=query.state,
            package=query.package,
            mode=query.mode,
            capability=query.capability,
            labels=query.labels,
            name_starts=query.name_starts,
            cursor=query.cursor,
            limit=query.limit,
        )
        return answer(await self._neighbours.ask(wanted))

    async def register(self, asked: Asked[None, NewAgent]) -> Response:
        """Make an agent known. It is stopped until it is started; its name is nobody else's (409)."""
        new = asked.body
        view = await self._neighbours.ask(
            RegisterAgent(
                agent_id=asked.mint("agt", self._new_id),
                name=new.name,
                package=new.package,
                mode=new.mode,
                config=new.config,
                labels=new.labels,
            )
        )
        return answer(view, 201, {"Location": f"{AGENTS}/{view.agent_id}", **etag(view.version)})

    async def get(self, asked: Asked[None, None]) -> Response:
        """One agent. Its `ETag` is what a change must name."""
        return _versioned(await self._neighbours.agent(asked.id("agent_id")))

    async def update(self, asked: Asked[None, AgentChange]) -> Response:
        """Change name, config or labels; what is absent stays. A new config counts from the next launch on."""
        version, change = if_match(asked.request), asked.body
        command = UpdateAgent(
            agent_id=asked.id("agent_id"),
            version=version,
            name=change.name,
            config=change.config,
            labels=change.labels,
        )
        return _versioned(await self._neighbours.ask(command))

    async def delete(self, asked: Asked[None, None]) -> Response:
        """Forget an agent. 409 while it runs or has a live task, or is its package's default."""
        command = DeleteAgent(agent_id=asked.id("agent_id"), version=if_match(asked.request))
        return answer(await self._neighbours.ask(command))

    async def start(self, asked: Asked[None, None]) -> Response:
        """Wish it to run. Answered once the wish is stored; `GET …/status` and `…/events` tell how it goes."""
        return await self._wish(StartAgent(agent_id=asked.id("agent_id"), command_id=asked.mint("req", self._new_id)))

    async def stop(self, asked: Asked[None, None]) -> Response:
        """Wish it to be stopped: asked first, then forced with all its children."""
        return await self._wish(StopAgent(agent_id=asked.id("agent_id"), command_id=asked.mint("req", self._new_id)))

    async def restart(self, asked: Asked[None, None]) -> Response:
        """Wish for a process younger than this request."""
        return await self._wish(RestartAgent(agent_id=asked.id("agent_id"), command_id=asked.mint("req", self._new_id)))

    async def message(self, asked: Asked[None, AgentMessage]) -> Response:
        """Hand a text to a running process-mode agent, and answer what it said. 409 while it does not run."""
        command = MessageAgent(
            agent_id=asked.id("agent_id"),
            message_id=asked.mint("msg", self._new_id),
            text=asked.body.text,
            sender=asked.who,
        )
        return answer(await self._neighbours.ask(command))

    async def find(self, asked: Asked[None, Wanted]) -> Response:
        """The agent to take for something, and for every other one the reason why not. Changes nothing."""
        wanted = asked.body
        command = FindAgent(
            capabilities=wanted.capabilities,
            package=wanted.package,
            mode=wanted.mode,
            labels=wanted.labels,
            available=wanted.available,
        )
        return answer(await self._neighbours.ask(command))

    async def _wish(self, command: StartAgent | StopAgent | RestartAgent) -> Response:
        return _versioned(await self._neighbours.ask(command), 202)


def _versioned(view: AgentView, status: int = 200) -> Response:
    return answer(view, status, etag(view.version))
