"""The composition root of the management API: opens connections, makes the parts, runs the loops and serves HTTP."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

import structlog

from muster.common.bus.audit_trail import AUDIT, AuditTrail
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.service import Service
from muster.common.bus.streams import ensure_stream
from muster.common.faults import TimedOut, Unavailable
from muster.common.http import listening_socket, serving
from muster.common.postgres.connection import pool_sizes
from muster.common.settings import MigrationSettings
from muster.common.supervision import supervise, until_told_to_stop
from muster.management_api.access.adapters import TokenIssuer
from muster.management_api.access.routes.access_recheck import AccessRecheck
from muster.management_api.access.routes.admission import Admission
from muster.management_api.access.routes.authentication import Callers
from muster.management_api.access.store.keys import KeyStore
from muster.management_api.access.store.notices import PermissionNotices
from muster.management_api.access.store.users import UserStore
from muster.management_api.agents.routes.status import AgentLogPages
from muster.management_api.audit.store import AuditTable
from muster.management_api.database.engine import ApiDatabase, open_database
from muster.management_api.database.schema import HISTORY, refuse_older
from muster.management_api.feeds.open_feeds import FeedSlots
from muster.management_api.health.routes.health import HealthProbe
from muster.management_api.health.routes.metrics import registry_of
from muster.management_api.http.application import application
from muster.management_api.http.application_parts import Parts
from muster.management_api.http.idempotency.requests import RequestIds
from muster.management_api.http.idempotency.store import StoredReplies
from muster.management_api.http.rate_limits import RateLimits
from muster.management_api.routers import OPEN_ROUTERS, ROUTERS
from muster.management_api.service_client import ServiceClient
from muster.management_api.settings import ApiSettings

log = structlog.get_logger()

NAME = "management_api"
PREPARED_WITHIN_S = 30.0

Loop = tuple[str, Callable[[], Awaitable[None]]]


async def run(settings: ApiSettings) -> None:
    """Run the management API until the process receives a signal to stop."""
    sockets = [listening_socket(fd=settings.http_fd, host=settings.http_host, port=settings.http_port)]
    async with (
        open_bus(
            settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
        ) as bus,
        open_database(settings.database, sizes=pool_sizes(settings)) as database,
        asyncio.TaskGroup() as tasks,
    ):
        await _prepare(bus, database, settings)
        trail, parts = AuditTrail(bus), assembled(bus, database, settings)
        app = application(
            parts,
            ROUTERS,
            open_routers=OPEN_ROUTERS,
            record=trail.record,
            now=bus.now,
            new_id=bus.new_id,
            monotonic=asyncio.get_running_loop().time,
        )
        kept = [
            tasks.create_task(supervise(name, run)) for name, run in [("audit trail", trail.run), *loops(bus, parts)]
        ]
        async with (
            Service(NAME, bus, drain_s=settings.drain_s),
            serving(app, sockets, grace_s=settings.drain_s, trusted_proxies=settings.trusted_proxies, websockets=True),
        ):
            # After `gc.freeze` the garbage collector ignores the routes' objects, which live as long as the process.
            gc.freeze()
            log.info("management api serves requests", address=str(sockets[0].getsockname()))
            await until_told_to_stop()
            parts[FeedSlots].close()
        for loop in kept:
            loop.cancel()
        trail.give_up()


def assembled(bus: Bus, database: ApiDatabase, settings: ApiSettings) -> Parts:
    """Make the objects that the routes and the background loops use, each stored by its type."""
    keys = KeyStore(database, now=bus.now)
    users = UserStore(database, now=bus.now, new_id=bus.new_id)
    callers = Callers(
        admin_key=settings.admin_key.get_secret_value(),
        keys=keys,
        users=users,
        issuer=_issuer(settings),
        keys_rest_for=timedelta(days=settings.oidc_keys_rest_days),
        now=bus.now,
    )
    limits = RateLimits(per_caller=settings.requests_per_principal, per_address=settings.refusals_per_address)
    notices, neighbours = PermissionNotices(settings.database), ServiceClient(bus)
    parts = (
        *(bus, neighbours, keys, users, callers, notices),
        Admission(callers, limits),
        AgentLogPages(bus, neighbours),
        AuditTable(database, kept_days=settings.audit_kept_days),
        FeedSlots(AccessRecheck(callers, notices, now=bus.now), most=settings.feeds_per_user),
        RequestIds(StoredReplies(database, now=bus.now), bus.new_id),
        HealthProbe(neighbours, database),
        registry_of(neighbours),
    )
    return {type(part): part for part in parts}


def loops(bus: Bus, parts: Parts) -> Iterable[Loop]:
    """Yield the background loops of the API, each with its name in the process's log."""
    table: AuditTable = parts[AuditTable]
    yield "answers", parts[RequestIds].answered.expire
    yield "uses of keys", parts[KeyStore].keep_uses
    yield "changes of callers", parts[PermissionNotices].run
    yield "audit table", Consumer(bus, AUDIT.name, f"{NAME}-audit", table.take).run
    yield "old audit entries", table.expire


def _issuer(settings: ApiSettings) -> TokenIssuer | None:
    if not settings.oidc_issuer:
        return None
    return TokenIssuer(
        settings.oidc_issuer,
        audience=settings.oidc_audience,
        jwks_url=settings.oidc_jwks_url,
        role_claim=settings.oidc_role_claim,
    )


async def migrate(arguments: Sequence[str], settings: MigrationSettings) -> None:
    """Migrate the database schema of the API according to the arguments of the command `migrate`."""
    await HISTORY.run_command(arguments, settings.database)


async def _prepare(bus: Bus, database: ApiDatabase, settings: ApiSettings) -> None:
    """Check the database schema and create the audit stream. Waits up to 30 s for PostgreSQL and NATS to start."""
    deadline = asyncio.get_running_loop().time() + PREPARED_WITHIN_S
    while True:
        try:
            await refuse_older(database)
            await ensure_stream(bus, AUDIT.kept_for(settings.audit_kept_days))
        except (Unavailable, TimedOut) as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("database schema or audit stream not ready", error=str(fault))
            await asyncio.sleep(0.25)  # A server sends no signal when it is ready, so this loop retries.
        else:
            return
