"""Stores the audit entries of the stream `AUDIT` in a table, which can be emptied and filled again from the stream."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from muster.common.bus.message_store import Stored
from muster.common.contract import decode
from muster.common.contracts.access import AuditEntry, AuditPage
from muster.common.contracts.audit import Audited
from muster.common.faults import Fault
from muster.common.storable_values import without_nul
from muster.management_api.audit.domain import AuditQuery
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.paging import rows_after
from muster.management_api.database.tables import audit, keys, users

log = structlog.get_logger()

_STORED = [name for name in AuditEntry.__struct_fields__ if name != "who_name"]
_USER, _KEY = "user:", "key:"
EXPIRY_EVERY_S = 3600.0
BATCH = 1_000


class AuditTable:
    """Reads and writes the database table `audit`, which contains the audit entries of all services."""

    def __init__(self, database: ApiDatabase, *, kept_days: int = 0) -> None:
        self._database, self._kept_days = database, kept_days

    async def take(self, stored: Stored) -> None:
        """Store one audit entry of the stream `AUDIT`. A repeated delivery of the same entry changes nothing."""
        entry = decode(stored.body, Audited)
        row: dict[str, Any] = {
            "event_id": entry.event_id[:64],
            "at": entry.at,
            "service": entry.service[:64],
            "action": entry.action[:64],
            "who": entry.who[:128],
            "what": entry.what,
            "outcome": entry.outcome[:64],
            "source": entry.source and entry.source[:255],
            "trace_id": str(entry.detail.get("trace_id") or "")[:64] or None,
            "detail": entry.detail,
        }
        async with self._database.single() as connection:
            await connection.execute(insert(audit).values(without_nul(row)).on_conflict_do_nothing())

    async def expire(self) -> None:
        """Delete old audit entries every hour, until cancelled. `supervise` must run this loop."""
        while True:
            try:
                while self._kept_days and await self.delete_old() == BATCH:
                    pass
            except Fault as error:
                log.warning("old audit entries not deleted", error=str(error))
            await asyncio.sleep(EXPIRY_EVERY_S)

    async def delete_old(self) -> int:
        """Delete one batch of the oldest expired audit entries and return their number. Raises `Unavailable`.

        The age of an entry is computed with the database's clock.
        """
        expired = audit.c.at < sa.func.now() - timedelta(days=self._kept_days)
        old = sa.select(audit.c.event_id).where(expired).order_by(audit.c.at).limit(BATCH)
        async with self._database.single() as connection:
            return (await connection.execute(sa.delete(audit).where(audit.c.event_id.in_(old)))).rowcount

    async def page(self, query: AuditQuery) -> AuditPage:
        """Return one page of the audit entries that match a query, newest first, with the names of the callers."""
        found = sa.select(audit)
        if query.who is not None:
            found = found.where(_done_by(query.who))
        for name in ("action", "service", "outcome", "trace_id"):
            if (wanted := getattr(query, name)) is not None:
                found = found.where(audit.c[name] == wanted)
        if query.since is not None:
            found = found.where(audit.c.at >= query.since)
        if query.until is not None:
            found = found.where(audit.c.at < query.until)
        async with self._database.single() as connection:
            rows, following = await rows_after(
                connection, found, audit.c.at, audit.c.event_id, query.cursor, query.limit
            )
            names = await _names(connection, {row["who"] for row in rows})
        entries = [AuditEntry(**{name: row[name] for name in _STORED}, who_name=names.get(row["who"])) for row in rows]
        return AuditPage(entries=entries, next_cursor=following)


async def _names(connection: AsyncConnection, callers: Collection[str]) -> Mapping[str, str]:
    """Return the names of callers: `vera` for a user, `vera (key laptop)` for a key of this user."""
    of_users = sa.select(users.c.user_id, users.c.name).where(users.c.user_id.in_(_ids(callers, _USER)))
    of_keys = (
        sa.select(keys.c.key_id, keys.c.name, sa.func.coalesce(users.c.name, keys.c.user_id).label("owner"))
        .outerjoin(users, users.c.user_id == keys.c.user_id)
        .where(keys.c.key_id.in_(_ids(callers, _KEY)))
    )
    names = {_USER + row.user_id: row.name for row in await connection.execute(of_users)}
    return names | {_KEY + row.key_id: f"{row.owner} (key {row.name})" for row in await connection.execute(of_keys)}


def _ids(callers: Collection[str], prefix: str) -> list[str]:
    return [caller.removeprefix(prefix) for caller in callers if caller.startswith(prefix)]


def _done_by(who: str) -> sa.ColumnElement[bool]:
    """Return the SQL condition for the audit entries of a caller; for a user, also the entries of the user's keys."""
    kind, _, user_id = who.partition(":")
    if kind != "user":
        return audit.c.who == who
    return sa.or_(audit.c.who == who, audit.c.detail["user_id"].astext == user_id)
