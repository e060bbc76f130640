"""`/api/v1/keys`: issued, listed, revoked."""

from collections.abc import Callable, Iterable

from starlette.responses import Response

from muster.common.clock import Clock
from muster.common.contracts.identity import IssuedKey, KeyPage, KeyView, Role
from muster.common.faults import Forbidden, InvalidMessage, NotFound
from muster.common.ids import NewId
from muster.management_api.domain.keys import (
    KeyQuery,
    NewKey,
    digest,
    refuse_unknown_scopes,
    refuse_wider,
    role_for,
    shown,
    written,
)
from muster.management_api.domain.principals import Principal
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.store.keys import Keys as Stored
from muster.management_api.store.paging import Place
from muster.management_api.store.users import Users

KEYS, ONE = "/api/v1/keys", "/api/v1/keys/{key_id}"


class Keys:
    """Keys: everybody's own, and for admins all of them."""

    def __init__(
        self, stored: Stored, users: Users, *, new_id: NewId, new_secret: Callable[[], str], now: Clock
    ) -> None:
        self._stored, self._users = stored, users
        self._new_id, self._new_secret, self._now = new_id, new_secret, now

    def operations(self) -> Iterable[Operation]:
        """The table."""
        return [
            Operation("GET", KEYS, self.list, "list-keys", "Keys, newest first", reply=KeyPage),
            Operation(
                *("POST", KEYS, self.issue, "issue-key", "A new key, told once"),
                reply=IssuedKey,
                status=201,
                refusals=(404, 409),
                secret=True,
            ),
            Operation("GET", ONE, self.get, "get-key", "One key, without its secret", reply=KeyView),
            Operation("DELETE", ONE, self.revoke, "revoke-key", "End a key for good, at once", reply=KeyView),
        ]

    async def list(self, asked: Asked[KeyQuery, None]) -> Response:
        """Keys, newest first, revoked ones too; `next_cursor` continues."""
        query, owner = asked.query, _owner(asked.caller)
        if owner is not None and query.user_id not in (None, owner):
            raise Forbidden("only an admin sees others' keys", field="$.user_id")
        after = Place.parse(query.cursor) if query.cursor else None
        keys, place = await self._stored.page(owner or query.user_id, after, query.limit)
        return answer(KeyPage(keys=keys, next_cursor=place.cursor() if place else None))

    async def issue(self, asked: Asked[None, NewKey]) -> Response:
        """A new key. Its secret is in this answer and nowhere else: only a digest is stored."""
        issuer, new, now = asked.caller, asked.body, self._now()
        user_id = new.user_id or issuer.user_id
        refuse_wider(issuer, user_id=user_id, role=new.role, expires_at=new.expires_at)
        refuse_unknown_scopes(new.scopes or ())
        if new.expires_at is not None and new.expires_at <= now:
            raise InvalidMessage("this moment is over already", field="$.expires_at")
        role = role_for(new.role, issuer, await self._role(issuer, user_id))
        key_id = asked.mint("key", self._new_id)
        key = written(key_id, self._new_secret())
        view = await self._stored.add(
            {
                "key_id": key_id,
                "user_id": user_id,
                "name": new.name,
                "digest": digest(key),
                "prefix": shown(key),
                "role": role,
                "scopes": new.scopes,
                "project": new.project,
                "issued_by": issuer.name,
                "created_at": now,
                "expires_at": new.expires_at,
            }
        )
        return answer(IssuedKey(key_id=key_id, key=key, view=view), 201, {"Location": f"{KEYS}/{key_id}"})

    async def _role(self, issuer: Principal, user_id: str) -> Role | None:
        if user_id == issuer.user_id:
            return issuer.role
        user = await self._users.known(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}", field="$.user_id")
        return user.role

    async def get(self, asked: Asked[None, None]) -> Response:
        """One key, without its secret."""
        return answer(await self._stored.get(asked.id("key_id"), _owner(asked.caller)))

    async def revoke(self, asked: Asked[None, None]) -> Response:
        """End a key: from the next request on, on every replica, it is unknown. Once more changes nothing."""
        return answer(await self._stored.revoke(asked.id("key_id"), _owner(asked.caller), by=asked.caller.name))


def _owner(caller: Principal) -> str | None:
    """Whose keys the caller may see: his own, or for an admin everybody's."""
    return None if caller.role == "admin" else caller.user_id
