"""Statements about keys. A key is read for each request and never cached, so a revoked key is refused at once."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from muster.common.clock import Clock
from muster.common.contracts.identity import KeyPage, KeyView
from muster.common.faults import Conflict, Fault, NotFound
from muster.common.postgres.reading import Read
from muster.common.together import Together
from muster.management_api.access.domain.keys import KnownKey
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.paging import rows_after
from muster.management_api.database.tables import keys

GATHER_S = 1.0
"""Seconds. Uses of keys within this time are stored together, outside of the requests."""

_KNOWN = """
    SELECT json_build_object(
        'key_id', k.key_id, 'user_id', k.user_id, 'user_name', u.name, 'digest', encode(k.digest, 'base64'),
        'role', k.role, 'user_role', u.role, 'scopes', k.scopes, 'project', k.project,
        'expires_at', k.expires_at, 'revoked_at', k.revoked_at, 'disabled_at', u.disabled_at,
        'token_seen_at', CASE WHEN u.issuer IS NOT NULL THEN coalesce(u.token_seen_at, u.created_at) END)
    FROM api.keys k JOIN api.users u USING (user_id) WHERE k.key_id"""
_USED = "unnest(CAST(:ids AS text[]), CAST(:at AS timestamptz[])) AS used (key_id, at)"
# An UPDATE locks rows in no fixed order; these two statements lock them first.
_HOLD_USERS = sa.text(f"""
    SELECT user_id FROM api.users WHERE user_id IN (SELECT user_id FROM api.keys JOIN {_USED} USING (key_id))
    ORDER BY user_id FOR NO KEY UPDATE""")  # noqa: S608 - constants
_HOLD_KEYS = sa.text("SELECT key_id FROM api.keys WHERE key_id = ANY (:ids) ORDER BY key_id FOR NO KEY UPDATE")
_USERS_SEEN = sa.text(f"""
    UPDATE api.users AS u SET last_seen_at = greatest(u.last_seen_at, seen.at)
    FROM (SELECT user_id, max(at) AS at FROM api.keys JOIN {_USED} USING (key_id) GROUP BY user_id) AS seen
    WHERE u.user_id = seen.user_id""")  # noqa: S608 - constants
_KEYS_USED = sa.text(f"""
    UPDATE api.keys AS k SET last_used_at = greatest(k.last_used_at, used.at) FROM {_USED}
    WHERE k.key_id = used.key_id""")  # noqa: S608 - constants
_ONE = Read(f"{_KNOWN} = $1", KnownKey)
_SEVERAL = Read(f"{_KNOWN} = ANY ($1)", KnownKey)


class KeyStore:
    """The table `keys`."""

    def __init__(self, database: ApiDatabase, *, now: Clock) -> None:
        self._database, self._now = database, now
        self._used: dict[str, datetime] = {}
        self._uses = asyncio.Event()
        self._known = Together(self._read, self._read_several)

    async def known(self, key_id: str) -> KnownKey | None:
        """Return the stored key with its user, which verification needs."""
        try:
            return await self._known.one(key_id)
        except NotFound:
            return None

    async def _read(self, key_id: str) -> KnownKey:
        found = await self._database.reader.one(_ONE, key_id)
        if found is None:
            raise _unknown(key_id)
        return found

    async def _read_several(self, key_ids: Sequence[str]) -> dict[str, KnownKey]:
        return {known.key_id: known for known in await self._database.reader.all(_SEVERAL, list(set(key_ids)))}

    def used(self, key_id: str) -> None:
        """Remember that a key was used now."""
        self._used[key_id] = self._now()
        self._uses.set()

    async def keep_uses(self) -> None:
        """Store the uses of keys at intervals, until cancelled. Must run under `supervise`."""
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
        """Lock users first, then keys, each in order of ids.

        So replicas and deletions of users never wait for each other. The number of statements does not depend on the
        number of keys.
        """
        named = {"ids": list(used), "at": list(used.values())}
        async with self._database.begin() as connection:
            for statement in (_HOLD_USERS, _USERS_SEEN, _HOLD_KEYS, _KEYS_USED):
                await connection.execute(statement, named)

    async def add(self, row: dict[str, Any]) -> KeyView:
        """Store a new key. If the id exists and its secret was never sent, the stored key gets the new secret.

        Raises `NotFound` for an unknown user, `Conflict` for an id whose secret may have been sent.
        """
        try:
            async with self._database.begin() as connection:
                found = (await connection.execute(_added(row))).mappings().one_or_none()
        except IntegrityError:
            raise NotFound(f"there is no user {row['user_id']}", field="$.user_id") from None
        if found is None:
            raise Conflict("this key was issued already, and its secret told then; revoke it and issue another")
        return _view(found)

    async def get(self, key_id: str, user_id: str | None) -> KeyView:
        """Return one key, of `user_id` if that is given. Raises `NotFound`."""
        query = _of(sa.select(keys).where(keys.c.key_id == key_id), user_id)
        async with self._database.single() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise _unknown(key_id)
        return _view(row)

    async def page(self, user_id: str | None, cursor: str | None, limit: int) -> KeyPage:
        """Return keys, newest first, revoked ones too."""
        query = _of(sa.select(keys), user_id)
        async with self._database.single() as connection:
            rows, following = await rows_after(connection, query, keys.c.created_at, keys.c.key_id, cursor, limit)
        return KeyPage(keys=[_view(row) for row in rows], next_cursor=following)

    async def revoke(self, key_id: str, user_id: str | None, *, by: str) -> KeyView:
        """Revoke a key for good; doing it again changes nothing. Raises `NotFound`."""
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
    """Return whether the id exists because a request under an `Idempotency-Key` died before its reply."""
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
