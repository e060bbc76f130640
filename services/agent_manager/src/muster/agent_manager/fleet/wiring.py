"""Wiring of the feature `fleet`: adds its request handlers to the NATS service, and makes its loops."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.fleet.adapters.agents import AgentClient
from muster.agent_manager.fleet.adapters.credentials import AgentCredentials
from muster.agent_manager.fleet.adapters.shim import AgentProcesses
from muster.agent_manager.fleet.domain.heartbeats import HeartbeatBounds
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.agent_registry import AgentRegistry
from muster.agent_manager.fleet.handlers.generic_subjects import LONG_READ, GenericSubjects, GenericVerbs
from muster.agent_manager.fleet.handlers.lifecycle import AgentLifecycle
from muster.agent_manager.fleet.handlers.logs import DEADLINE_S as LOGS_DEADLINE_S
from muster.agent_manager.fleet.handlers.logs import AgentLogRequests
from muster.agent_manager.fleet.handlers.messages import AgentMessages, MessageOutcomes
from muster.agent_manager.fleet.handlers.status import AgentStatusRequests
from muster.agent_manager.fleet.reconcilers.discovery import Discovery, installed_roots
from muster.agent_manager.fleet.reconcilers.heartbeats import HeartbeatMonitor
from muster.agent_manager.fleet.reconcilers.launches import Launcher
from muster.agent_manager.fleet.reconcilers.log_shipping import LogShipper
from muster.agent_manager.fleet.reconcilers.ownership import CredentialRenewal, Ownership
from muster.agent_manager.fleet.reconcilers.process_drift import ProcessDriftCheck
from muster.agent_manager.fleet.reconcilers.processes import ProcessReconciler
from muster.agent_manager.fleet.reconcilers.sandbox_agents import SandboxAgentStates
from muster.agent_manager.fleet.store.logs import AgentLogs
from muster.agent_manager.loops import Loop, ReconcileLoop, reconcile_loop
from muster.agent_manager.settings import NAME, ManagerSettings
from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.contract import Answered
from muster.common.contracts.agent_health import GetAgentMetrics, GetAgentStatus
from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agent_logs import GetAgentLogs
from muster.common.contracts.agent_messages import MessageAgent
from muster.common.contracts.agent_process import AgentManagerCommand, AgentManagerQuery
from muster.common.contracts.agent_registry import (
    DeleteAgent,
    FindAgent,
    GetAgent,
    ListAgents,
    ListCapabilities,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.packages import ListPackages
from muster.shim.client import ShimClient


def discovery(database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue) -> Discovery:
    """Return the loop that finds agent packages: the installed packages first, then those in the user's folders."""
    return Discovery(
        database,
        catalogue,
        roots=(*installed_roots(), *settings.package_roots),
        allowed=settings.allowed_packages,
        every_s=settings.discovery_every_s,
    )


def answers(
    service: Service, bus: Bus, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue
) -> None:
    """Add the handlers of requests about agents, each on its typed NATS subject and by a verb on a generic subject."""
    commands, queries = GenericVerbs(AgentManagerCommand.SUBJECT), GenericVerbs(AgentManagerQuery.SUBJECT)
    generic = GenericSubjects(bus, commands, queries)

    def command[C, R](verb: str, contract: Answered[C, R], handler: Callable[[C], Awaitable[R]]) -> None:
        commands.add(verb, contract, handler)
        service.handles(contract, generic.telling(verb, handler))

    def query[C, R](verb: str, contract: Answered[C, R], handler: Callable[[C], Awaitable[R]]) -> None:
        queries.add(verb, contract, handler)
        service.handles(contract, handler)

    registry = AgentRegistry(database, settings, catalogue)
    command("register", RegisterAgent, registry.register)
    command("update", UpdateAgent, registry.update)
    # Deletion has only the typed subject, which operators may not use: a request on a generic subject does not name the
    # role of its sender.
    service.handles(DeleteAgent, generic.telling("delete", registry.delete))
    query("get", GetAgent, registry.get)
    query("list", ListAgents, registry.page)
    query("packages", ListPackages, registry.packages)
    query("capabilities", ListCapabilities, registry.capabilities)
    query("find", FindAgent, registry.find)
    lifecycle = AgentLifecycle(database, catalogue, processes=settings.shim_socket is not None)
    command("start", StartAgent, lifecycle.start)
    command("stop", StopAgent, lifecycle.stop)
    command("restart", RestartAgent, lifecycle.restart)
    command("message", MessageAgent, AgentMessages(database, AgentClient(bus)).message)
    status = AgentStatusRequests(database, AgentClient(bus))
    query("status", GetAgentStatus, status.status)
    query("metrics", GetAgentMetrics, status.metrics)
    commands.add("status", GetAgentStatus, status.status)
    queries.add(LONG_READ, GetAgentLogs, AgentLogRequests(database, AgentLogs(bus, MessageStore(bus))).page)
    service.handles(AgentManagerCommand, generic.command)
    service.handles(AgentManagerQuery, generic.query, deadline_s=LOGS_DEADLINE_S)


def log_answers(bus: Bus, database: ManagerDatabase, settings: ManagerSettings) -> Service:
    """Return a separate `Service` for log reads, so that long polls cannot use up the slots of other requests."""
    service = Service(f"{NAME}_logs", bus, concurrency=1024, drain_s=settings.drain_s)
    service.handles(
        GetAgentLogs, AgentLogRequests(database, AgentLogs(bus, MessageStore(bus))).page, deadline_s=LOGS_DEADLINE_S
    )
    return service


def loops(
    bus: Bus, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue, notices: ChangeNotices
) -> Iterable[Loop]:
    """Return the loops for all agents: the search for packages, and the states of agents in sandbox mode."""
    yield "discovery", discovery(database, settings, catalogue).run
    yield reconcile_loop(
        "sandbox agents", SandboxAgentStates(database, AgentClient(bus)), lambda due: due[0], notices, settings
    )


def process_loops(
    bus: Bus,
    database: ManagerDatabase,
    settings: ManagerSettings,
    catalogue: Catalogue,
    notices: ChangeNotices,
    shim: ShimClient,
    authority: AgentAuthority,
) -> Iterable[Loop]:
    """Return the loops for agents in process mode, whose processes run on this host."""
    agents, logs = AgentClient(bus), AgentLogs(bus, MessageStore(bus))
    workers = AgentProcesses(shim, root=settings.agents_root, at_least=settings.isolation_at_least)
    credentials = AgentCredentials(
        authority, nats_url=settings.nats_url.get_secret_value(), ttl_s=settings.credentials_ttl_s
    )
    bounds = HeartbeatBounds(
        running_ttl_s=settings.beat_ttl_running_s,
        idle_ttl_s=settings.beat_ttl_idle_s,
        inactive_after_s=settings.inactive_after_s,
    )
    pulses = HeartbeatMonitor(bus, database, agents, bounds=bounds)
    printed = asyncio.Event()
    outputs = LogShipper(database, workers, logs, waker=printed, now=bus.now)
    renewals = CredentialRenewal(workers, credentials, every_s=settings.audit_every_s)
    owed = notices.waker()
    launcher = Launcher(database, workers, credentials, agents, catalogue, settings, expect=pulses.keep, now=bus.now)
    keepers = (renewals, pulses, outputs)
    processes = ProcessReconciler(database, launcher, workers, keepers=keepers, waker=owed, now=bus.now)
    pulses.processes = outputs.processes = processes
    lease = Ownership(
        database,
        processes,
        waker=notices.waker(),
        new_id=lambda: bus.new_id("req").replace("req_", "mgr_"),
        ttl_s=settings.lease_ttl_s,
        every_s=settings.lease_every_s,
    )
    recheck_s = settings.recheck_s
    yield "ownership", lease.run
    yield (
        "processes",
        ReconcileLoop("processes", processes, key=str, waker=owed, recheck_s=recheck_s, most_at_once=64).run,
    )
    yield "exits", processes.follow_exits
    yield "audit", ProcessDriftCheck(database, workers, processes, every_s=settings.audit_every_s, now=bus.now).run
    yield "renewals", renewals.run
    yield "output", ReconcileLoop("output", outputs, key=str, waker=printed, recheck_s=recheck_s).run
    yield "prints", outputs.follow
    yield "pulses", pulses.run
    yield "message outcomes", MessageOutcomes(database, agents).run
