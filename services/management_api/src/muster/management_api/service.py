"""The API wired: one door, its routes, who may come in, an audit trail."""

import asyncio
import secrets
import string
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

import structlog

from muster.common.bus.audit import AUDIT, AuditTrail
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.consume import Consumer
from muster.common.bus.service import Service
from muster.common.bus.streams import ensure_stream
from muster.common.faults import TimedOut, Unavailable
from muster.common.http import listening_socket, serving
from muster.common.postgres.connection import pool_sizes
from muster.common.settings import MigrationSettings
from muster.common.supervision import supervise, until_told_to_stop
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.adapters.oidc import Issuer
from muster.management_api.domain.keys import SECRET_LENGTH
from muster.management_api.domain.limits import Limit
from muster.management_api.domain.roles import Table
from muster.management_api.routes.agent_events import AgentEvents
from muster.management_api.routes.agent_views import AgentViews
from muster.management_api.routes.agents import Agents
from muster.management_api.routes.audit import Audit
from muster.management_api.routes.callers import Callers
from muster.management_api.routes.docs import Docs
from muster.management_api.routes.door import Door
from muster.management_api.routes.events import Events
from muster.management_api.routes.feeds import Feeds
from muster.management_api.routes.heads import Heads
from muster.management_api.routes.health import Pulse
from muster.management_api.routes.idempotency import Idempotent
from muster.management_api.routes.keys import Keys
from muster.management_api.routes.metrics import Measured, Metrics
from muster.management_api.routes.operation import Operation
from muster.management_api.routes.packages import Packages
from muster.management_api.routes.routing import Api
from muster.management_api.routes.sandboxes import Sandboxes
from muster.management_api.routes.standing import Standing
from muster.management_api.routes.tasks import Tasks
from muster.management_api.routes.users import Users
from muster.management_api.routes.whoami import Caller
from muster.management_api.settings import Settings, written_limit
from muster.management_api.store.audit_table import AuditTable
from muster.management_api.store.database import Database, open_database
from muster.management_api.store.idempotency import Answered
from muster.management_api.store.keys import Keys as StoredKeys
from muster.management_api.store.notices import Notices
from muster.management_api.store.schema import HISTORY, refuse_older
from muster.management_api.store.users import Users as StoredUsers

log = structlog.get_logger()

NAME = "management_api"
PREPARED_WITHIN_S = 30.0
LETTERS = string.ascii_letters + string.digits

Loop = tuple[str, Callable[[], Awaitable[None]]]


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    sockets = [listening_socket(fd=settings.http_fd, host=settings.http_host, port=settings.http_port)]
    async with (
        open_bus(
            settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
        ) as bus,
        open_database(settings.database, sizes=pool_sizes(settings)) as database,
        asyncio.TaskGroup() as tasks,
    ):
        await _prepare(bus, database, settings)
        trail, identity = AuditTrail(bus), Identity(bus, database, settings)
        rooms = Rooms(bus, database, identity.standing, feeds=settings.feeds_per_user)
        answered = Answered(database, now=bus.now)
        routes = application([*rooms.operations(), *identity.operations()])
        door = Door(
            Idempotent(routes, answered),
            table=Table(),
            callers=identity.callers,
            per_principal=Limit(*written_limit(settings.requests_per_principal)),
            per_address=Limit(*written_limit(settings.refusals_per_address)),
            record=trail.record,
            now=bus.now,
            new_id=bus.new_id,
        )
        kept = [
            tasks.create_task(supervise(name, run))
            for name, run in [("audit trail", trail.run), ("answers", answered.expire), *identity.loops()]
        ]
        outermost, proxies = Heads(Measured(door, rooms.metrics)), settings.trusted_proxies
        async with (
            Service(NAME, bus, drain_s=settings.drain_s),
            serving(outermost, sockets, grace_s=settings.drain_s, trusted_proxies=proxies),
        ):
            log.info("ready", address=str(sockets[0].getsockname()))
            await until_told_to_stop()
            rooms.close()
        for loop in kept:
            loop.cancel()
        trail.give_up()


class Identity:
    """Who may come in: the parts of it, wired."""

    def __init__(self, bus: Bus, database: Database, settings: Settings) -> None:
        self._bus, self._issuer = bus, _issuer(settings)
        self._keys = StoredKeys(database, now=bus.now)
        self._users = StoredUsers(database, now=bus.now, new_id=bus.new_id)
        self._audit = AuditTable(database, kept_days=settings.audit_kept_days)
        self.callers = Callers(
            admin_key=settings.admin_key.get_secret_value(),
            keys=self._keys,
            users=self._users,
            issuer=self._issuer,
            keys_rest_for=timedelta(days=settings.oidc_keys_rest_days),
            now=bus.now,
        )
        self._notices = Notices(settings.database)
        self.standing = Standing(self.callers, self._notices, Table(), now=bus.now)

    def operations(self) -> list[Operation]:
        """Its routes."""
        users = Users(self._users, new_id=self._bus.new_id, role_claimed=bool(self._issuer and self._issuer.role_claim))
        keys = Keys(self._keys, self._users, new_id=self._bus.new_id, new_secret=_secret, now=self._bus.now)
        routes = (Caller(), users, keys, Audit(self._audit))
        return [operation for route in routes for operation in route.operations()]

    def loops(self) -> Iterable[Loop]:
        """What it keeps doing, by name."""
        yield "uses of keys", self._keys.keep_uses
        yield "changes of callers", self._notices.run
        yield "audit table", Consumer(self._bus, AUDIT.name, f"{NAME}-audit", self._audit.take).run
        yield "old audit entries", self._audit.expire


def _issuer(settings: Settings) -> Issuer | None:
    if not settings.oidc_issuer:
        return None
    return Issuer(
        settings.oidc_issuer,
        audience=settings.oidc_audience,
        jwks_url=settings.oidc_jwks_url,
        role_claim=settings.oidc_role_claim,
    )


def _secret() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(SECRET_LENGTH))


class Rooms:
    """What is asked of other services: the parts of it, wired."""

    def __init__(self, bus: Bus, database: Database, standing: Standing, *, feeds: int) -> None:
        self._bus, self._feeds = bus, Feeds(standing, most=feeds)
        self.neighbours = Neighbours(bus)
        self._pulse = Pulse(self.neighbours, database)
        self.metrics = Metrics(self.neighbours)

    def operations(self) -> list[Operation]:
        """Its routes."""
        bus, asked = self._bus, self.neighbours
        tasks, agents = Tasks(asked, new_id=bus.new_id), Agents(asked, new_id=bus.new_id)
        feeds = [feed(bus, asked, self._feeds) for feed in (Events, AgentEvents, AgentViews)]
        routes = (tasks, agents, *feeds, Packages(asked), Sandboxes(asked), self._pulse, self.metrics)
        return [operation for route in routes for operation in route.operations()]

    def close(self) -> None:
        """End what would stay open for ever."""
        self._feeds.close()


def application(operations: Iterable[Operation]) -> Api:
    """Every route, and their description."""
    docs = Docs()
    everything = [*operations, *docs.operations()]
    docs.describe(everything)
    return Api(everything)


async def bring_along(arguments: Sequence[str], settings: MigrationSettings) -> None:
    """`migrate` and its options: see `History.bring_along`."""
    await HISTORY.bring_along(arguments, settings.database)


async def _prepare(bus: Bus, database: Database, settings: Settings) -> None:
    """What must be there before the first request; waits for servers that are just starting."""
    deadline = asyncio.get_running_loop().time() + PREPARED_WITHIN_S
    while True:
        try:
            await refuse_older(database)
            await ensure_stream(bus, AUDIT.kept_for(settings.audit_kept_days))
        except (Unavailable, TimedOut) as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("not ready", error=str(fault))
            await asyncio.sleep(0.25)  # nothing announces that a server is up
        else:
            return
