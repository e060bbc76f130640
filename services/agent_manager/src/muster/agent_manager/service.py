"""Wiring: what this service answers, and the loops it keeps."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from muster.agent_manager.adapters.agents import Agents
from muster.agent_manager.adapters.credentials import Credentials
from muster.agent_manager.adapters.gateway import Gateway
from muster.agent_manager.adapters.sandbox_logs import SandboxLogs
from muster.agent_manager.adapters.shim import Workers
from muster.agent_manager.domain.beats import Bounds
from muster.agent_manager.domain.packages import Catalogue
from muster.agent_manager.handlers.epochs import Epochs
from muster.agent_manager.handlers.generic import LONG_READ, Generic, Surface, Verbs
from muster.agent_manager.handlers.lifecycle import Lifecycle
from muster.agent_manager.handlers.logs import DEADLINE_S as LOGS_DEADLINE_S
from muster.agent_manager.handlers.logs import Logs
from muster.agent_manager.handlers.registry import Registry
from muster.agent_manager.handlers.status import Status
from muster.agent_manager.handlers.submission import Submission
from muster.agent_manager.handlers.tasks import Tasks
from muster.agent_manager.reconcilers.audit import Audit
from muster.agent_manager.reconcilers.deadlines import Deadlines
from muster.agent_manager.reconcilers.dependencies import Dependencies
from muster.agent_manager.reconcilers.discovery import Discovery, installed_roots
from muster.agent_manager.reconcilers.dispatcher import Dispatcher
from muster.agent_manager.reconcilers.follower import Follower, Meter
from muster.agent_manager.reconcilers.launches import Launcher
from muster.agent_manager.reconcilers.levels import Level, Reconciler
from muster.agent_manager.reconcilers.output import Outputs
from muster.agent_manager.reconcilers.ownership import Ownership, Renewals
from muster.agent_manager.reconcilers.processes import Processes
from muster.agent_manager.reconcilers.relay import Relay
from muster.agent_manager.reconcilers.replacements import Replacements
from muster.agent_manager.reconcilers.retention import Retention, limited
from muster.agent_manager.reconcilers.silence import Pulses
from muster.agent_manager.reconcilers.states import SandboxStates
from muster.agent_manager.reconcilers.sweeper import Reaper, Sweeper
from muster.agent_manager.reconcilers.validation import Validation
from muster.agent_manager.settings import Settings
from muster.agent_manager.store.agent_logs import AgentLogs
from muster.agent_manager.store.database import Database, open_database
from muster.agent_manager.store.notices import Notices
from muster.agent_manager.store.schema import HISTORY, refuse_older
from muster.agent_manager.store.streams import STREAMS
from muster.common.bus.audit import AuditTrail
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.journal import Journal
from muster.common.bus.service import Service
from muster.common.bus.streams import ensure_stream
from muster.common.bus.writes import Writes
from muster.common.clock import utc_now
from muster.common.contract import Answered
from muster.common.contracts.agent_health import GetAgentMetrics, GetAgentStatus
from muster.common.contracts.agent_lifecycle import RestartAgent, StartAgent, StopAgent
from muster.common.contracts.agent_logs import GetAgentLogs
from muster.common.contracts.agent_messages import MessageAgent
from muster.common.contracts.agent_registry import (
    DeleteAgent,
    FindAgent,
    GetAgent,
    GetAgents,
    ListAgents,
    ListCapabilities,
    RegisterAgent,
    UpdateAgent,
)
from muster.common.contracts.agent_wire import AgentManagerCommand, AgentManagerQuery
from muster.common.contracts.packages import ListPackages
from muster.common.contracts.sandbox_log import all_log_streams
from muster.common.contracts.tasks import (
    CancelTask,
    GetSandboxAttempt,
    GetTask,
    GetTasks,
    ListTasks,
    ReplaceAttempt,
    ReportExit,
    SubmitTask,
)
from muster.common.faults import TimedOut, Unavailable
from muster.common.identity.authority import AgentAuthority
from muster.common.ids import new_id
from muster.common.postgres.connection import pool_sizes
from muster.common.settings import MigrationSettings
from muster.common.supervision import supervise, until_told_to_stop
from muster.shim.client import ShimClient

NAME = "agent_manager"
PREPARED_WITHIN_S = 30.0

Loop = tuple[str, Callable[[], Awaitable[None]]]


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    async with (
        open_bus(
            settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
        ) as bus,
        open_database(settings.database, now=utc_now, new_id=new_id, sizes=pool_sizes(settings)) as database,
        AgentAuthority(settings) as authority,
        ShimClient(settings.shim_socket or "") as shim,
    ):
        catalogue = Catalogue()
        await _prepare(bus, database, settings, catalogue)
        trail = AuditTrail(bus)
        service = answering(bus, database, settings, catalogue, Writes(bus, NAME, trail))
        async with asyncio.TaskGroup() as tasks:
            kept = [*keeping(bus, database, settings, catalogue), ("audit trail", trail.run)]
            if settings.shim_socket is not None:
                kept += fleet(bus, database, settings, catalogue, shim, authority)
            loops = [tasks.create_task(supervise(name, run)) for name, run in kept]
            async with service, waiting(bus, database, settings):
                await until_told_to_stop()
            for loop in loops:
                loop.cancel()
            await trail.finish()


async def _prepare(bus: Bus, database: Database, settings: Settings, catalogue: Catalogue) -> None:
    """What must be there before the first request; waits for servers that are just starting."""
    deadline = asyncio.get_running_loop().time() + PREPARED_WITHIN_S
    while True:
        try:
            await refuse_older(database)
            await discovery(database, settings, catalogue).look()
            for stream in limited(STREAMS, settings):
                await ensure_stream(bus, stream)
        except (Unavailable, TimedOut):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.25)  # nothing announces that a server is up
        else:
            return


async def bring_along(arguments: Sequence[str], settings: MigrationSettings) -> None:
    """`migrate` and its options: see `History.bring_along`."""
    await HISTORY.bring_along(arguments, settings.database)


def discovery(database: Database, settings: Settings, catalogue: Catalogue) -> Discovery:
    """What fills the catalogue: the installed packages first, then those of the user's own folders."""
    return Discovery(
        database,
        catalogue,
        roots=(*installed_roots(), *settings.package_roots),
        allowed=settings.allowed_packages,
        every_s=settings.discovery_every_s,
    )


def answering(
    bus: Bus, database: Database, settings: Settings, catalogue: Catalogue, writes: Writes | None = None
) -> Service:
    """The whole surface."""
    tasks = Tasks(database)
    epochs = Epochs(database, SandboxLogs(Journal(bus)))
    service = Surface(NAME, bus, writes, drain_s=settings.drain_s)
    service.handles(SubmitTask, Submission(database, settings, catalogue, Gateway(bus)).submit)
    service.handles(GetTask, tasks.get)
    service.handles(GetTasks, tasks.several)
    service.handles(GetSandboxAttempt, tasks.of_sandbox)
    service.handles(ListTasks, tasks.page)
    service.handles(CancelTask, tasks.cancel)
    service.handles(ReplaceAttempt, epochs.replace)
    service.handles(ReportExit, epochs.report_exit)
    _answer_for_agents(service, bus, database, settings, catalogue)
    return service


def _answer_for_agents(
    service: Service, bus: Bus, database: Database, settings: Settings, catalogue: Catalogue
) -> None:
    """Each on its typed subject, and by its verb on a generic one."""
    commands, queries = Verbs(AgentManagerCommand.SUBJECT), Verbs(AgentManagerQuery.SUBJECT)
    generic = Generic(bus, commands, queries)

    def command[C, R](verb: str, contract: Answered[C, R], handler: Callable[[C], Awaitable[R]]) -> None:
        commands.add(verb, contract, handler)
        service.handles(contract, generic.telling(verb, handler))

    def query[C, R](verb: str, contract: Answered[C, R], handler: Callable[[C], Awaitable[R]]) -> None:
        queries.add(verb, contract, handler)
        service.handles(contract, handler)

    registry = Registry(database, settings, catalogue)
    command("register", RegisterAgent, registry.register)
    command("update", UpdateAgent, registry.update)
    # On its own subject only, which an operator may not use: of what comes by a generic one nobody knows whose it is.
    service.handles(DeleteAgent, generic.telling("delete", registry.delete))
    query("get", GetAgent, registry.get)
    query("several", GetAgents, registry.several)
    query("list", ListAgents, registry.page)
    query("packages", ListPackages, registry.packages)
    query("capabilities", ListCapabilities, registry.capabilities)
    query("find", FindAgent, registry.find)
    lifecycle = Lifecycle(database, Agents(bus), catalogue, processes=settings.shim_socket is not None)
    command("start", StartAgent, lifecycle.start)
    command("stop", StopAgent, lifecycle.stop)
    command("restart", RestartAgent, lifecycle.restart)
    command("message", MessageAgent, lifecycle.message)
    status = Status(database, Agents(bus))
    query("status", GetAgentStatus, status.status)
    query("metrics", GetAgentMetrics, status.metrics)
    commands.add("status", GetAgentStatus, status.status)
    queries.add(LONG_READ, GetAgentLogs, Logs(database, AgentLogs(bus, Journal(bus))).page)
    service.handles(AgentManagerCommand, generic.command)
    service.handles(AgentManagerQuery, generic.query, deadline_s=LOGS_DEADLINE_S)


def waiting(bus: Bus, database: Database, settings: Settings) -> Service:
    """What may take long to answer, by a service of its own: who waits for lines takes nobody's place."""
    service = Service(f"{NAME}_logs", bus, concurrency=1024, drain_s=settings.drain_s)
    service.handles(GetAgentLogs, Logs(database, AgentLogs(bus, Journal(bus))).page, deadline_s=LOGS_DEADLINE_S)
    return service


def fleet(
    bus: Bus, database: Database, settings: Settings, catalogue: Catalogue, shim: ShimClient, authority: AgentAuthority
) -> Iterable[Loop]:
    """The loops that keep agents in process mode."""
    notices, agents, logs = Notices(database.url), Agents(bus), AgentLogs(bus, Journal(bus))
    workers = Workers(shim, root=settings.data_dir.expanduser().absolute() / "agents")
    credentials = Credentials(
        authority, nats_url=settings.nats_url.get_secret_value(), ttl_s=settings.credentials_ttl_s
    )
    bounds = Bounds(
        running_ttl_s=settings.beat_ttl_running_s,
        idle_ttl_s=settings.beat_ttl_idle_s,
        inactive_after_s=settings.inactive_after_s,
    )
    pulses = Pulses(bus, database, agents, bounds=bounds)
    printed = asyncio.Event()
    outputs = Outputs(database, workers, logs, waker=printed, now=bus.now)
    renewals = Renewals(workers, credentials, every_s=settings.audit_every_s)
    owed = notices.waker()
    launcher = Launcher(database, workers, credentials, agents, catalogue, settings, expect=pulses.keep, now=bus.now)
    keepers = (renewals, pulses, outputs)
    processes = Processes(database, launcher, workers, keepers=keepers, waker=owed, now=bus.now)
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
    yield "fleet notices", notices.run
    yield "ownership", lease.run
    yield "processes", Level("processes", processes, key=str, waker=owed, recheck_s=recheck_s, most_at_once=64).run
    yield "exits", processes.follow_exits
    yield "audit", Audit(database, workers, processes, every_s=settings.audit_every_s, now=bus.now).run
    yield "renewals", renewals.run
    yield "output", Level("output", outputs, key=str, waker=printed, recheck_s=recheck_s).run
    yield "prints", outputs.follow
    yield "pulses", pulses.run


def keeping(bus: Bus, database: Database, settings: Settings, catalogue: Catalogue) -> Iterable[Loop]:
    """Every loop, by name."""
    notices, gateway, journal = Notices(database.url), Gateway(bus), Journal(bus)
    yield "notices", notices.run
    yield "discovery", discovery(database, settings, catalogue).run
    yield "relay", Relay(database, journal, waker=notices.waker(), recheck_s=settings.recheck_s).run
    for level in levels(bus, database, settings, gateway, notices):
        yield level.name, level.run
    yield "reaper", Reaper(database, gateway, every_s=settings.reap_every_s).run
    yield "retention", Retention(database, settings).run
    follower, meter = Follower(database, settings), Meter(database)
    for stream in all_log_streams():
        yield f"follow {stream}", Consumer(bus, stream, f"{NAME}-{stream[-2:]}", follower.take).run
    yield "meter", Consumer(bus, "MODEL_CALLS", f"{NAME}-meter", meter.take).run


def levels(
    bus: Bus, database: Database, settings: Settings, gateway: Gateway, notices: Notices
) -> Iterable[Level[Any]]:
    """What is brought from actual to desired, each woken by the database's notices and rechecked."""

    def level[W](name: str, loop: Reconciler[W], key: Callable[[W], str]) -> Level[W]:
        return Level(name, loop, key=key, waker=notices.waker(), recheck_s=settings.recheck_s)

    logs = SandboxLogs(Journal(bus))
    replacements = Replacements(database, gateway, logs, settings, now=bus.now)
    yield level("dispatch", Dispatcher(database, gateway, settings), lambda intent: intent[1].attempt_id)
    yield level("dependencies", Dependencies(database), str)
    yield level("replacements", replacements, lambda saga: f"{saga.task_id}/{saga.epoch}")
    yield level("validation", Validation(database, gateway, settings, now=bus.now), str)
    yield level("sandbox states", SandboxStates(database, Agents(bus)), lambda due: due[0])
    yield level("sweep", Sweeper(database, gateway), lambda attempt: attempt.sandbox_id)
    # Time passes without a notice: nothing but the clock makes an attempt overdue.
    overdue = Deadlines(database, settings)
    yield Level("deadlines", overdue, key=lambda late: late[0].attempt_id, waker=asyncio.Event(), recheck_s=1.0)
