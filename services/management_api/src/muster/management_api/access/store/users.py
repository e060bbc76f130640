"""Stores users in the database. An admin creates a user, or the user's first token of the identity provider does."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from muster.common.clock import Clock
from muster.common.contracts.access import Role, UserPage, UserView
from muster.common.faults import Conflict, NotFound
from muster.common.ids import NewId
from muster.common.postgres.reading import Read, json_rows
from muster.management_api.access.domain.claims import TokenClaims
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.paging import rows_after
from muster.management_api.database.tables import keys, users

SEEN_AGAIN_AFTER = timedelta(minutes=1)
"""Least time between two updates of `last_seen_at`, because a write for each request would take too long."""


class _Provided(UserView):
    """A user of an identity provider, with the times of the user's last token."""

    token_seen_at: datetime | None
    token_issued_at: datetime | None


_USERS = sa.select(users, users.c.disabled_at.is_not(None).label("disabled"))
_SEEN = Read(
    json_rows(_USERS.where(users.c.issuer == sa.bindparam("issuer"), users.c.subject == sa.bindparam("subject"))),
    _Provided,
)
_KNOWN = Read(json_rows(_USERS.where(users.c.user_id == sa.bindparam("user_id"))), UserView)


class UserStore:
    """Reads and writes the database table `users`, which contains the users of the API."""

    def __init__(self, database: ApiDatabase, *, now: Clock, new_id: NewId) -> None:
        self._database, self._now, self._new_id = database, now, new_id

    async def add(self, user_id: str, *, name: str, email: str | None, role: Role | None) -> UserView:
        """Create a user and return it. A user that already has this id is returned unchanged.

        Raises `Conflict` if another user has the name.
        """
        row = {"user_id": user_id, "name": name, "email": email, "role": role, **self._made()}
        new = insert(users).values(row).on_conflict_do_nothing(index_elements=[users.c.user_id]).returning(users)
        try:
            async with self._database.begin() as connection:
                made = (await connection.execute(new)).mappings().one_or_none()
        except IntegrityError:
            if already := await self.known(user_id):  # Another request with this `user_id` has just added the user.
                return already
            raise Conflict(f"there is already a user named {name!r}; choose another name", field="$.name") from None
        return await self.get(user_id) if made is None else _view(made)

    async def known(self, user_id: str) -> UserView | None:
        """Return the stored user with one fast read; None if the user does not exist."""
        return await self._database.reader.one(_KNOWN, user_id=user_id)

    async def get(self, user_id: str) -> UserView:
        """Return one stored user. Raises `NotFound` if the user does not exist."""
        async with self._database.single() as connection:
            row = (
                (await connection.execute(sa.select(users).where(users.c.user_id == user_id))).mappings().one_or_none()
            )
        if row is None:
            raise _unknown(user_id)
        return _view(row)

    async def page(self, cursor: str | None, limit: int) -> UserPage:
        """Return one page of the users, newest first."""
        query = sa.select(users)
        async with self._database.single() as connection:
            rows, following = await rows_after(connection, query, users.c.created_at, users.c.user_id, cursor, limit)
        return UserPage(users=[_view(row) for row in rows], next_cursor=following)

    async def change(self, user_id: str, **fields: object) -> UserView:
        """Change the given fields of a user and return it. Raises `NotFound`, or `Conflict` if the name is used."""
        changed: dict[str, object] = {**fields, "updated_at": self._now()}
        if "disabled" in changed:
            changed["disabled_at"] = self._now() if changed.pop("disabled") else None
        query = sa.update(users).where(users.c.user_id == user_id).values(changed).returning(users)
        try:
            async with self._database.begin() as connection:
                row = (await connection.execute(query)).mappings().one_or_none()
        except IntegrityError:
            raise Conflict("there is already a user with this name; choose another name", field="$.name") from None
        if row is None:
            raise _unknown(user_id)
        return _view(row)

    async def remove(self, user_id: str) -> None:
        """Delete a user and all API keys of the user. Raises `NotFound` if the user does not exist."""
        of_user = keys.c.user_id == user_id
        async with self._database.begin() as connection:
            # While the user's row is locked, a request for a new key of the user waits, and then finds no user.
            held = sa.select(users.c.user_id).where(users.c.user_id == user_id).with_for_update()
            if await connection.scalar(held) is None:
                raise _unknown(user_id)
            # `KeyStore` locks the rows of keys in the same order. Another order could cause a deadlock.
            await connection.execute(sa.select(keys.c.key_id).where(of_user).order_by(keys.c.key_id).with_for_update())
            await connection.execute(sa.delete(keys).where(of_user))
            await connection.execute(sa.delete(users).where(users.c.user_id == user_id))

    async def seen(self, claims: TokenClaims, *, claimed: bool) -> UserView:
        """Store the claims of a verified token, and return the token's user. The user's first token creates the user.

        With `claimed` the identity provider decides the role. Only the newest token by `iat` changes the user: an older
        token, which is valid until it expires, must not restore a role that the provider has withdrawn.
        """
        told: dict[str, object] = {"name": claims.name, "email": claims.email}
        if claimed:
            told["role"] = claims.role
        user = await self._database.reader.one(_SEEN, issuer=claims.issuer, subject=claims.subject)
        if user is not None and _nothing_new(user, claims, told, self._now()):
            return user
        # A single statement stores the user, because two requests may store the same user at the same time.
        async with self._database.single() as connection:
            stored = await connection.execute(_shown(self._new_id("usr"), claims, told, self._now()))
            return _view(stored.mappings().one())

    def _made(self) -> dict[str, datetime]:
        now = self._now()
        return {"created_at": now, "updated_at": now}


def _nothing_new(user: _Provided, claims: TokenClaims, told: Mapping[str, object], now: datetime) -> bool:
    newest, seen_at = user.token_issued_at, user.token_seen_at
    if newest is None or seen_at is None or claims.issued_at > newest or now - seen_at >= SEEN_AGAIN_AFTER:
        return False
    return claims.issued_at < newest or all(getattr(user, name) == value for name, value in told.items())


def _shown(user_id: str, claims: TokenClaims, told: Mapping[str, object], now: datetime) -> Any:  # noqa: ANN401 - a statement
    """Return the SQL that stores the time of a token, and the token's claims unless a newer token was stored."""
    moments = {"token_seen_at": now, "last_seen_at": now, "token_issued_at": claims.issued_at}
    named = {"user_id": user_id, "issuer": claims.issuer, "subject": claims.subject}
    first = insert(users).values({"role": None, **told, **named, **moments, "created_at": now, "updated_at": now})
    new = first.excluded
    speaks = sa.func.coalesce(users.c.token_issued_at <= new.token_issued_at, sa.true())
    differs = sa.or_(*(users.c[name].is_distinct_from(new[name]) for name in told))
    changed = {name: sa.case((speaks, new[name]), else_=users.c[name]) for name in told}
    changed["updated_at"] = sa.case((speaks & differs, now), else_=users.c.updated_at)
    changed |= {name: sa.func.greatest(users.c[name], new[name]) for name in moments}
    return first.on_conflict_do_update(index_elements=[users.c.issuer, users.c.subject], set_=changed).returning(users)


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"there is no user {user_id}", field="$.user_id")


def _view(row: Mapping[Any, Any]) -> UserView:
    return UserView(
        user_id=row["user_id"],
        name=row["name"],
        email=row["email"],
        role=row["role"],
        issuer=row["issuer"],
        disabled=row["disabled_at"] is not None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_seen_at=row["last_seen_at"],
    )
