"""`/api/v1/keys`: issue, list and revoke API keys."""

import secrets
import string
from typing import Annotated

from fastapi import Body, Query, Response
from msgspec.structs import asdict

from muster.common.contracts.identity import IssuedKey, KeyPage, KeyView, Role
from muster.common.faults import Forbidden, InvalidMessage, NotFound
from muster.management_api.access.domain.keys import (
    SECRET_LENGTH,
    NewKey,
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
from muster.management_api.http.idempotency.requests import IdempotentSecret
from muster.management_api.http.ids import KeyId
from muster.management_api.http.openapi import BODY, LOCATION, refuses
from muster.management_api.http.parts import Nats, part
from muster.management_api.http.route import routes_of

KEYS = "/api/v1/keys"
LETTERS = string.ascii_letters + string.digits

Stored = Annotated[KeyStore, part(KeyStore)]
Reader = Annotated[Principal, requires("viewer", "keys:read")]
Writer = Annotated[Principal, requires("viewer", "keys:write")]

router = routes_of(KEYS, "access")


@router.get("", responses=refuses(422))
async def list_keys(query: Annotated[KeyQuery, Query()], caller: Reader, stored: Stored) -> KeyPage:
    """List keys, newest first, revoked ones too; `next_cursor` continues. Callers see their own, admins all."""
    owner = _owner(caller)
    if owner is not None and query.user_id not in (None, owner):
        raise Forbidden("only an admin sees others' keys", field="$.user_id")
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
    """Issue a key. Its secret is in this reply and nowhere else: only a digest is stored."""
    now, user_id = bus.now(), new.user_id or issuer.user_id
    refuse_wider(issuer, user_id=user_id, role=new.role, expires_at=new.expires_at)
    if new.expires_at is not None and new.expires_at <= now:
        raise InvalidMessage("this time has passed already", field="$.expires_at")
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
    """Return one key, without its secret."""
    return await stored.get(key_id, _owner(caller))


@router.delete("/{key_id}", responses=refuses(404, 422))
async def revoke_key(key_id: KeyId, caller: Writer, stored: Stored) -> KeyView:
    """Revoke a key for good: every replica refuses it from the next request on. Revoking it again changes nothing."""
    return await stored.revoke(key_id, _owner(caller), by=caller.name)


async def _role(users: UserStore, issuer: Principal, user_id: str) -> Role | None:
    if user_id == issuer.user_id:
        return issuer.role
    user = await users.known(user_id)
    if user is None:
        raise NotFound(f"there is no user {user_id}", field="$.user_id")
    return user.role


def _owner(caller: Principal) -> str | None:
    """Return the user whose keys the caller may see; None for an admin, who sees all."""
    return None if caller.role == "admin" else caller.user_id
