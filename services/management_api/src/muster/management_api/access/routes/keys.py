"""The routes below `/api/v1/keys`, which issue, list, read and revoke API keys."""

import secrets
import string
from typing import Annotated

from fastapi import Body, Query, Response
from msgspec.structs import asdict

from muster.common.contracts.access import IssuedKey, KeyPage, KeyView, Role
from muster.common.contracts.access_bodies import NewKey
from muster.common.faults import Forbidden, InvalidMessage, NotFound
from muster.management_api.access.domain.keys import (
    SECRET_LENGTH,
    digest,
    refuse_wider,
    role_for,
    shown,
    written,
)
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.queries import KeyQuery
from muster.management_api.access.routes.requires import requires
from muster.management_api.access.store.keys import KeyStore
from muster.management_api.access.store.users import UserStore
from muster.management_api.http.application_parts import Nats, part
from muster.management_api.http.idempotency.requests import IdempotentSecret
from muster.management_api.http.ids import KeyId
from muster.management_api.http.openapi import BODY, LOCATION, refuses
from muster.management_api.http.route import routes_of

KEYS = "/api/v1/keys"
LETTERS = string.ascii_letters + string.digits
LAST_YEAR = 9998
"""Last year in which an API key can expire."""

Stored = Annotated[KeyStore, part(KeyStore)]
Reader = Annotated[Principal, requires("viewer", "keys:read")]
Writer = Annotated[Principal, requires("viewer", "keys:write")]

router = routes_of(KEYS, "access")


@router.get("", responses=refuses(422))
async def list_keys(query: Annotated[KeyQuery, Query()], caller: Reader, stored: Stored) -> KeyPage:
    """List API keys, newest first and with revoked keys. `next_cursor` is the cursor of the next page.

    Admins get the keys of all users, and other callers get only their own keys.
    """
    owner = _owner(caller)
    if owner is not None and query.user_id not in (None, owner):
        raise Forbidden("only an admin can list the keys of other users", field="$.user_id")
    return await stored.page(owner or query.user_id, query.cursor, query.limit)


@router.post("", status_code=201, responses=BODY | refuses(404) | {201: LOCATION})
async def issue_key(
    new: Annotated[NewKey, Body(examples=[{"name": "nightly build", "role": "operator", "scopes": ["tasks:write"]}])],
    issuer: Writer,
    new_id: IdempotentSecret,
    stored: Stored,
    users: Annotated[UserStore, part(UserStore)],
    bus: Nats,
    response: Response,
) -> IssuedKey:
    """Issue an API key. Only this reply contains the key's secret, because the API stores only a digest."""
    now, user_id = bus.now(), new.user_id or issuer.user_id
    refuse_wider(issuer, user_id=user_id, role=new.role, expires_at=new.expires_at)
    if new.expires_at is not None and new.expires_at <= now:
        raise InvalidMessage("the expiry time has passed already; send a later time", field="$.expires_at")
    # The database driver stores the largest time that Python knows as `infinity`, which is no time in JSON.
    if new.expires_at is not None and new.expires_at.year > LAST_YEAR:
        raise InvalidMessage(
            f"the expiry time is after the year {LAST_YEAR}; send an earlier time", field="$.expires_at"
        )
    role = role_for(new.role, issuer, await _role(users, issuer, user_id))
    key_id = new_id("key")
    key = written(key_id, "".join(secrets.choice(LETTERS) for _ in range(SECRET_LENGTH)))
    view = await stored.add(
        asdict(new)
        | {"key_id": key_id, "user_id": user_id, "role": role, "issued_by": issuer.name, "created_at": now}
        | {"digest": digest(key), "prefix": shown(key)}
    )
    response.headers["Location"] = f"{KEYS}/{key_id}"
    return IssuedKey(key_id=key_id, key=key, view=view)


@router.get("/{key_id}", responses=refuses(404, 422))
async def get_key(key_id: KeyId, caller: Reader, stored: Stored) -> KeyView:
    """Return one API key, without the key's secret."""
    return await stored.get(key_id, _owner(caller))


@router.delete("/{key_id}", responses=refuses(404, 422))
async def revoke_key(key_id: KeyId, caller: Writer, stored: Stored) -> KeyView:
    """Revoke an API key permanently. Every replica refuses the key from the next request on.

    To revoke a revoked key again changes nothing.
    """
    return await stored.revoke(key_id, _owner(caller), by=caller.name)


async def _role(users: UserStore, issuer: Principal, user_id: str) -> Role | None:
    if user_id == issuer.user_id:
        return issuer.role
    user = await users.known(user_id)
    if user is None:
        raise NotFound(f"there is no user {user_id}", field="$.user_id")
    return user.role


def _owner(caller: Principal) -> str | None:
    """Return the id of the user whose keys the caller may read; None for an admin, who may read all keys."""
    return None if caller.role == "admin" else caller.user_id
