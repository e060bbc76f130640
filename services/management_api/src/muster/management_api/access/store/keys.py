"""Stores API keys in the database. Each request reads its key again, so that a revoked key is refused at once."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import IntegrityError

from muster.common.clock import Clock
from muster.common.contracts.access import KeyPage, KeyView
from muster.common.faults import Conflict, Fault, NotFound
from muster.common.postgres.reading import Read, json_rows
from muster.management_api.access.domain.keys import KnownKey
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.paging import rows_after
from muster.management_api.database.tables import keys, users

GATHER_S = 1.0
"""Seconds for which uses of keys are collected. They are then stored together, so that no request waits for this."""

_KNOWN = (
    sa.select(
        keys.c.key_id,
        keys.c.user_id,
        users.c.name.label("user_name"),
        sa.func.encode(keys.c.digest, "base64").label("digest"),
        keys.c.role,
        users.c.role.label("user_role"),
        keys.c.scopes,
        keys.c.project,
        keys.c.expires_at,
        keys.c.revoked_at,
        users.c.disabled_at,
        sa.case((users.c.issuer.is_not(None), sa.func.coalesce(users.c.token_seen_at, users.c.created_at))).label(
            "token_seen_at"
        ),
    )
    .join(users, users.c.user_id == keys.c.user_id)
    .where(keys.c.key_id == sa.bindparam("key_id"))
)
_ONE = Read(json_rows(_KNOWN), KnownKey)
_KEY_IDS = sa.bindparam("ids", type_=ARRAY(sa.Text))
_USED = (
    sa.func.unnest(_KEY_IDS, sa.bindparam("at", type_=ARRAY(sa.DateTime(timezone=True))))
    .table_valued(sa.column("key_id", sa.Text), sa.column("at", sa.DateTime(timezone=True)))
    .render_derived(name="used")
)
_USERS_SEEN = (
    sa.select(keys.c.user_id, sa.func.max(_USED.c.at).label("at"))
    .join(_USED, _USED.c.key_id == keys.c.key_id)
    .group_by(keys.c.user_id)
    .subquery("seen")
)
# An UPDATE locks its rows in no fixed order, so a SELECT before each UPDATE locks them in order of their ids.
_STORE_USES = (
    sa.select(users.c.user_id)
    .where(users.c.user_id.in_(sa.select(_USERS_SEEN.c.user_id)))
    .order_by(users.c.user_id)
    .with_for_update(key_share=True),
    sa.update(users)
    .where(users.c.user_id == _USERS_SEEN.c.user_id)
    .values(last_seen_at=sa.func.greatest(users.c.last_seen_at, _USERS_SEEN.c.at)),
    sa.select(keys.c.key_id)
    .where(keys.c.key_id == sa.any_(_KEY_IDS))
    .order_by(keys.c.key_id)
    .with_for_update(key_share=True),
    sa.update(keys)
    .where(keys.c.key_id == _USED.c.key_id)
    .values(last_used_at=sa.func.greatest(keys.c.last_used_at, _USED.c.at)),
)


class KeyStore:
    """Reads and writes the database table `keys`, which contains the API keys."""

    def __init__(self, database: ApiDatabase, *, now: Clock) -> None:
        self._database, self._now = database, now
        self._used: dict[str, datetime] = {}
        self._uses = asyncio.Event()

    async def known(self, key_id: str) -> KnownKey | None:
        """Return a stored API key with its user, to verify a credential; None if the key does not exist."""
        return await self._database.reader.one(_ONE, key_id=key_id)

    def used(self, key_id: str) -> None:
        """Record in memory that an API key was used now. `keep_uses` stores the record later."""
        self._used[key_id] = self._now()
        self._uses.set()

    async def keep_uses(self) -> None:
        """Store the recorded uses of API keys about once a second, until cancelled. `supervise` must run this loop."""
        while True:
            await self._uses.wait()
            await asyncio.sleep(GATHER_S)
            self._uses.clear()
            used, self._used = self._used, {}
            try:
                await self._write_down(used)
            except Fault:
                self._used = used | self._used
                self._uses.set()

    async def _write_down(self, used: Mapping[str, datetime]) -> None:
        """Store the times at which API keys and their users were last used, in one transaction.

        Rows of users are locked first, then rows of keys, each in order of their ids. So there is no deadlock with
        other replicas or with the deletion of a user. The number of statements does not depend on the number of keys.
        """
        named = {"ids": list(used), "at": list(used.values())}
        async with self._database.begin() as connection:
            for statement in _STORE_USES:
                await connection.execute(statement, named)

    async def add(self, row: dict[str, Any]) -> KeyView:
        """Store a new API key. If a key with this id exists and was never used, that key gets the new secret.

        Raises `NotFound` for an unknown user, and `Conflict` if the existing key was used or revoked.
        """
        try:
            async with self._database.begin() as connection:
                found = (await connection.execute(_added(row))).mappings().one_or_none()
        except IntegrityError:
            raise NotFound(f"there is no user {row['user_id']}", field="$.user_id") from None
        if found is None:
            raise Conflict("this key was issued already, with its secret; revoke the key and issue another one")
        return _view(found)

    async def get(self, key_id: str, user_id: str | None) -> KeyView:
        """Return one API key. If `user_id` is given, the key must belong to this user. Raises `NotFound`."""
        query = _of(sa.select(keys).where(keys.c.key_id == key_id), user_id)
        async with self._database.single() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise _unknown(key_id)
        return _view(row)

    async def page(self, user_id: str | None, cursor: str | None, limit: int) -> KeyPage:
        """Return one page of the API keys of a user, or of all users, newest first and with revoked keys."""
        query = _of(sa.select(keys), user_id)
        async with self._database.single() as connection:
            rows, following = await rows_after(connection, query, keys.c.created_at, keys.c.key_id, cursor, limit)
        return KeyPage(keys=[_view(row) for row in rows], next_cursor=following)

    async def revoke(self, key_id: str, user_id: str | None, *, by: str) -> KeyView:
        """Revoke an API key permanently. To revoke a revoked key again changes nothing. Raises `NotFound`."""
        first = sa.func.coalesce
        change = (
            sa.update(keys)
            .where(keys.c.key_id == key_id, *([keys.c.user_id == user_id] if user_id is not None else []))
            .values(revoked_at=first(keys.c.revoked_at, self._now()), revoked_by=first(keys.c.revoked_by, by))
            .returning(keys)
        )
        async with self._database.begin() as connection:
            row = (await connection.execute(change)).mappings().one_or_none()
        if row is None:
            raise _unknown(key_id)
        return _view(row)


def _added(row: dict[str, Any]) -> Any:  # noqa: ANN401 - a statement
    """Return the SQL statement that adds an API key.

    If a replica died while it handled a request with an `Idempotency-Key`, the repeated request adds a key with the
    same id. The statement then replaces the digest of the first secret, unless the API key was used or revoked.
    """
    first = insert(keys).values(row)
    same = [keys.c[name] == first.excluded[name] for name in ("user_id", "issued_by")]
    untold = sa.and_(*same, keys.c.revoked_at.is_(None), keys.c.last_used_at.is_(None))
    return first.on_conflict_do_update(
        index_elements=[keys.c.key_id], set_={"digest": first.excluded.digest}, where=untold
    ).returning(keys)


def _of(query: sa.Select[Any], user_id: str | None) -> sa.Select[Any]:
    return query if user_id is None else query.where(keys.c.user_id == user_id)


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id}", field="$.key_id")


def _view(row: Mapping[Any, Any]) -> KeyView:
    return KeyView(**{name: row[name] for name in KeyView.__struct_fields__})
