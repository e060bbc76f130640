"""The composition root of the agent manager: opens connections, checks the schema, makes streams, runs the features."""

import asyncio
from collections.abc import Iterable, Sequence

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.database.relay import Relay
from muster.agent_manager.database.schema import HISTORY, refuse_older
from muster.agent_manager.fleet import wiring as fleet
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.handlers.generic_subjects import ManagerService
from muster.agent_manager.loops import Loop
from muster.agent_manager.results import wiring as results
from muster.agent_manager.retention import wiring as retention
from muster.agent_manager.retention.reconcilers import limited
from muster.agent_manager.settings import NAME, ManagerSettings
from muster.agent_manager.streams import STREAMS
from muster.agent_manager.tasks import wiring as tasks
from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.bus.audit_trail import AuditTrail
from muster.common.bus.command_audit import CommandAudit
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.bus.streams import ensure_stream
from muster.common.clock import utc_now
from muster.common.faults import TimedOut, Unavailable
from muster.common.ids import new_id
from muster.common.postgres.connection import pool_sizes
from muster.common.settings import MigrationSettings
from muster.common.supervision import supervise, until_told_to_stop
from muster.shim.client import ShimClient

PREPARED_WITHIN_S = 30.0


async def run(settings: ManagerSettings) -> None:
    """Serve requests and run all loops of the agent manager until the process receives a stop signal."""
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
        service = answering(bus, database, settings, catalogue, CommandAudit(bus, NAME, trail))
        async with asyncio.TaskGroup() as task_group:
            notices = ChangeNotices(database.url)
            kept = [*loops(bus, database, settings, catalogue, notices), ("audit trail", trail.run)]
            if settings.shim_socket is not None:
                kept += fleet.process_loops(bus, database, settings, catalogue, notices, shim, authority)
            running = [task_group.create_task(supervise(name, run)) for name, run in kept]
            async with service, fleet.log_answers(bus, database, settings):
                await until_told_to_stop()
            for loop in running:
                loop.cancel()
            await trail.finish()


async def _prepare(bus: Bus, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue) -> None:
    """Check the schema, find packages and create the streams; retry for 30 s if PostgreSQL or NATS is unreachable."""
    deadline = asyncio.get_running_loop().time() + PREPARED_WITHIN_S
    while True:
        try:
            await refuse_older(database)
            await fleet.discovery(database, settings, catalogue).look()
            for stream in limited(STREAMS, settings):
                await ensure_stream(bus, stream)
        except (Unavailable, TimedOut):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.25)  # No server announces that it is ready, so the service retries at intervals.
        else:
            return


async def migrate(arguments: Sequence[str], settings: MigrationSettings) -> None:
    """Migrate the schema of the agent manager as the command-line arguments ask: up, `--down`, or `--to REVISION`."""
    await HISTORY.run_command(arguments, settings.database)


def answering(
    bus: Bus,
    database: ManagerDatabase,
    settings: ManagerSettings,
    catalogue: Catalogue,
    command_audit: CommandAudit | None = None,
) -> Service:
    """Return a NATS service with the request handlers of the features `tasks` and `fleet`."""
    service = ManagerService(NAME, bus, command_audit, drain_s=settings.drain_s)
    tasks.answers(service, bus, database, settings, catalogue)
    results.answers(service, bus, database)
    fleet.answers(service, bus, database, settings, catalogue)
    return service


def loops(
    bus: Bus, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue, notices: ChangeNotices
) -> Iterable[Loop]:
    """Return name and coroutine function of each loop that every replica of the agent manager runs."""
    yield "notices", notices.run
    yield "relay", Relay(database, MessageStore(bus), waker=notices.waker(), recheck_s=settings.recheck_s).run
    yield from tasks.loops(bus, database, settings, notices)
    yield from results.loops(bus, database, settings, notices)
    yield from fleet.loops(bus, database, settings, catalogue, notices)
    yield from retention.loops(database, settings)
