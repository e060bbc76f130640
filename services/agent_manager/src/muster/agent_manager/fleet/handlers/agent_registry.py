"""Handles requests of clients that register, change, delete, list and find agents."""

import msgspec

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.paging import cursor_after, read_cursor
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import SETTLED, AgentRecord, all_capabilities
from muster.agent_manager.fleet.domain.config_check import refuse_unfit_config
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.domain.selection import AgentRequirements, Candidate, choose
from muster.agent_manager.fleet.handlers.field_checks import (
    agent_token,
    refuse_large_config,
    refuse_unfit_labels,
    refuse_unfit_name,
    refuse_unfit_wish,
)
from muster.agent_manager.fleet.handlers.views import agent_view
from muster.agent_manager.fleet.store import agent_queries, agents
from muster.agent_manager.settings import ManagerSettings
from muster.common.contract import fields_of, token
from muster.common.contracts.agent_registry import (
    AgentPage,
    CapabilityList,
    CapabilityView,
    Choice,
    DeleteAgent,
    Deleted,
    FindAgent,
    GetAgent,
    ListAgents,
    ListCapabilities,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentView
from muster.common.contracts.limits import LARGEST_PAGE
from muster.common.contracts.packages import Capability, ListPackages, Manifest, PackageList
from muster.common.faults import Conflict, InvalidMessage, NotFound, PreconditionFailed


class AgentRegistry:
    """Handles requests of clients to the registry of agents."""

    def __init__(self, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue) -> None:
        self._database, self._settings, self._catalogue = database, settings, catalogue

    async def register(self, command: RegisterAgent) -> AgentView:
        """Store a new agent and return its view. A repeated registration returns the agent that is stored already."""
        agent_token(command.agent_id)
        refuse_unfit_name(command.name)
        refuse_unfit_labels(command.labels)
        refuse_large_config(command.config)
        manifest = self._catalogue.usable(command.package)
        if command.mode not in manifest.modes:
            raise InvalidMessage(
                f"package {manifest.name} supports only mode {' and '.join(manifest.modes)}", field="$.mode"
            )
        refuse_unfit_config(manifest, command.config)
        async with self._database.begin() as tx:
            agent = await agents.stored(tx, command.agent_id, held=True)
            if agent is None:
                agent = await _add(tx, command, manifest)
            elif agent.deleted_at is not None:
                agent = await agents.revive(tx, agent, _new(tx, command, manifest))
            return await _view(tx, _same(agent, command))

    async def update(self, command: UpdateAgent) -> AgentView:
        """Change the given fields of an agent. A running process keeps its old config until its next launch."""
        if command.name is not None:
            refuse_unfit_name(command.name)
        if command.labels is not None:
            refuse_unfit_labels(command.labels)
        if command.config is not None:
            refuse_large_config(command.config)
        async with self._database.begin() as tx:
            agent = await _locked(tx, command.agent_id, command.version)
            if command.config is not None:
                refuse_unfit_config(self._catalogue.usable(agent.package, field="$.config"), command.config)
            given = {name: getattr(command, name) for name in AgentSpec.__struct_fields__ if name != "mode"}
            spec = msgspec.structs.replace(
                agent.spec, **{name: value for name, value in given.items() if value is not None}
            )
            if spec != agent.spec:
                agent = await agents.change(tx, agent, "updated", spec=spec, capabilities=self._capable(agent, spec))
            return await _view(tx, agent)

    def _capable(self, agent: AgentRecord, spec: AgentSpec) -> list[str]:
        """Return the capabilities that an agent has if its spec is `spec`.

        If the package cannot be used now, the capabilities that the package declared last are kept.
        """
        manifest = self._catalogue.manifest(agent.package)
        offered = (
            [capability.name for capability in manifest.capabilities]
            if manifest
            else [name for name in agent.capabilities if name not in agent.spec.capabilities]
        )
        return all_capabilities(offered, spec.capabilities)

    async def delete(self, command: DeleteAgent) -> Deleted:
        """Delete an agent that does not run and that no unfinished task needs. Raises `Conflict` otherwise."""
        async with self._database.begin() as tx:
            agent = await _locked(tx, command.agent_id, command.version)
            if agent.is_default and self._catalogue.manifest(agent.package) is not None:
                raise Conflict(f"agent {agent.name} is the default agent of package {agent.package}; stop it instead")
            if agent.state not in SETTLED or (agent.state == "stopped" and agent.desired == "running"):
                raise Conflict(f"agent {agent.name} is in state {agent.state}; stop it before you delete it")
            if waiting := await agents.open_tasks(tx, agent.agent_id):
                raise Conflict(f"agent {agent.name} has {waiting} unfinished tasks; cancel them, or wait for them")
            await agents.delete(tx, agent)
        return Deleted(agent_id=command.agent_id)

    async def get(self, command: GetAgent) -> AgentView:
        """Return the view of one agent. Raises `NotFound`."""
        found = await agent_queries.one(self._database.reader, token(command.agent_id, "agent_id"))
        if found is None:
            raise _unknown(command.agent_id)
        agent, live = found
        return agent_view(agent, live_tasks=live)

    async def page(self, command: ListAgents) -> AgentPage:
        """Return one page of the list of agents, newest first."""
        if not 1 <= command.limit <= LARGEST_PAGE:
            raise InvalidMessage(f"limit must be between 1 and {LARGEST_PAGE}", field="$.limit")
        refuse_unfit_wish(command)
        before = read_cursor(command.cursor) if command.cursor else None
        found, more = await agent_queries.page(self._database.reader, command, before=before, limit=command.limit)
        views = [agent_view(agent, live_tasks=live) for agent, live in found]
        return AgentPage(
            agents=views, next_cursor=cursor_after(found[-1][0].created_at, found[-1][0].agent_id) if more else None
        )

    async def packages(self, _: ListPackages) -> PackageList:
        """Return the agent packages that the last search found."""
        return PackageList(packages=list(self._catalogue.packages))

    async def capabilities(self, _: ListCapabilities) -> CapabilityList:
        """Return all capabilities; for each, the packages that declare it and the number of agents that have it."""
        counted = await agent_queries.capabilities(self._database.reader)
        offered: dict[str, tuple[Capability, list[str]]] = {name: (Capability(name=name), []) for name in counted}
        for manifest in self._catalogue.manifests:
            for capability in manifest.capabilities:
                packages = offered.get(capability.name, (capability, []))[1]
                offered[capability.name] = (capability, [*packages, manifest.name])
        return CapabilityList(
            capabilities=[
                CapabilityView(capability=capability, packages=packages, agents=counted.get(name, 0))
                for name, (capability, packages) in sorted(offered.items())
            ]
        )

    async def find(self, command: FindAgent) -> Choice:
        """Return the best agent for a request, and for each other considered agent the reason for or against it."""
        refuse_unfit_wish(command)
        wanted = AgentRequirements(
            capabilities=command.capabilities,
            package=command.package,
            mode=command.mode,
            labels=command.labels,
            available=command.available,
            most_live=self._settings.max_running,
        )
        usable = [manifest.name for manifest in self._catalogue.manifests]
        found = await agent_queries.candidates(self._database.reader, wanted, usable=usable)
        chosen = choose([self._candidate(agent, live) for agent, live in found], wanted)
        best = chosen.best and agent_view(chosen.best.agent, live_tasks=chosen.best.live_tasks)
        return Choice(agent=best, considered=chosen.considered)

    def _candidate(self, agent: AgentRecord, live_tasks: int) -> Candidate:
        trouble = None if self._catalogue.manifest(agent.package) else self._catalogue.why_not(agent.package)
        return Candidate(agent=agent, live_tasks=live_tasks, package_trouble=trouble)


def _new(tx: Transaction, command: RegisterAgent, manifest: Manifest) -> AgentRecord:
    return AgentRecord(
        agent_id=command.agent_id,
        spec=AgentSpec(**fields_of(AgentSpec, command)),
        package=manifest.name,
        is_default=False,
        agent_type=manifest.type,
        agent_version=manifest.version,
        capabilities=all_capabilities((offered.name for offered in manifest.capabilities), command.capabilities),
        desired="stopped",
        state="stopped",
        state_since=tx.now,
        cites="registered",
        created_at=tx.now,
        updated_at=tx.now,
    )


async def _add(tx: Transaction, command: RegisterAgent, manifest: Manifest) -> AgentRecord:
    agent = _new(tx, command, manifest)
    if await agents.add(tx, agent):
        return agent
    if there := await agents.read(tx, command.agent_id):  # Another registration stored this id first.
        return there
    raise agents.NameTaken(f"the name {command.name!r} belongs to another agent; choose another name", field="$.name")


def _same(agent: AgentRecord, command: RegisterAgent) -> AgentRecord:
    for field in ("package", "mode", "name"):
        if (has := getattr(agent, field)) != getattr(command, field):
            raise Conflict(f"agent {agent.agent_id} exists already, and its {field} is {has}", field="$.agent_id")
    return agent


async def _locked(tx: Transaction, agent_id: str, version: int | None) -> AgentRecord:
    if (agent := await agents.lock(tx, token(agent_id, "agent_id"))) is None:
        raise _unknown(agent_id)
    if version not in (None, agent.version):
        raise PreconditionFailed(
            f"agent {agent_id} has version {agent.version}, not {version}; read it again", field="$.version"
        )
    return agent


async def _view(tx: Transaction, agent: AgentRecord) -> AgentView:
    return agent_view(agent, live_tasks=(await agents.live_tasks(tx, [agent.agent_id]))[agent.agent_id])


def _unknown(agent_id: str) -> NotFound:
    return NotFound(f"there is no agent {agent_id}", field="$.agent_id")
