"""API keys: `mk_<id>_<secret>`, known by their digest, never wider than whoever issued them."""

import hmac
import re
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated

import msgspec

from muster.common.contracts.fields import Name
from muster.common.contracts.identity import Role
from muster.common.faults import Forbidden
from muster.management_api.access.domain.principals import ADMIN_ID, Principal
from muster.management_api.access.domain.roles import RANK, Scope, lower
from muster.management_api.access.domain.users import PersonName
from muster.management_api.http.bodies import RequestBody

_KEY = re.compile(r"mk_([0-9a-z]{26})_([0-9A-Za-z]{43})")
_LIKE_A_KEY = re.compile(r"(mk_[0-9a-z]{26})_[0-9A-Za-z]+")
_LIKE_A_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")
SECRET_LENGTH = 43
"""Of 62 letters and digits: 256 bits."""


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key and whose it is, as they are stored."""

    key_id: str
    user_id: str
    user_name: str
    digest: bytes
    role: Role
    user_role: Role | None
    scopes: list[str] | None
    project: str | None
    expires_at: datetime | None
    revoked_at: datetime | None
    disabled_at: datetime | None
    token_seen_at: datetime | None
    """When their user last showed a token of the identity provider; None: the user is none of a provider's."""


def written(key_id: str, secret: str) -> str:
    """The key as its owner keeps it."""
    return f"mk_{key_id.removeprefix('key_')}_{secret}"


def shown(key: str) -> str:
    """How a key begins: enough to tell it from others, nothing of the secret."""
    return key[: -SECRET_LENGTH - 1]


def digest(key: str) -> bytes:
    """What is stored. A fast hash will do: nobody guesses 256 bits."""
    return sha256(key.encode()).digest()


def key_id(text: str) -> str | None:
    """The id in what may be a key; None for what cannot be one."""
    found = _KEY.fullmatch(text)
    return f"key_{found[1]}" if found else None


def concealed(text: str) -> str:
    """`text`, which somebody may have put a credential into by mistake, without it."""
    return _LIKE_A_TOKEN.sub("(a token)", _LIKE_A_KEY.sub(r"\1_(secret)", text))


def bearer(known: KnownKey, text: str, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Whoever shows `text`, or None: a wrong secret, or a key that is good for nothing now."""
    return holder(known, at, unseen_for=unseen_for) if hmac.compare_digest(known.digest, digest(text)) else None


def holder(known: KnownKey, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Whose key it is and what for, or None: revoked, expired, or its user is disabled.

    A provider does not tell us of users that it has removed; they get no new tokens. So the key of a provider's user
    rests on their tokens: it ends `unseen_for` after the last one that they showed, and counts again from the next.
    """
    ended = known.revoked_at is not None or known.disabled_at is not None
    if ended or (known.expires_at is not None and known.expires_at <= at):
        return None
    return Principal(
        name=f"key:{known.key_id}",
        user_id=known.user_id,
        user_name=known.user_name,
        role=lower(known.role, known.user_role),
        via="key",
        scopes=None if known.scopes is None else tuple(known.scopes),
        project=known.project,
        key_id=known.key_id,
        expires_at=known.expires_at,
        rests_until=None if known.token_seen_at is None else known.token_seen_at + unseen_for,
    )


def role_for(wanted: Role | None, issuer: Principal, its: Role | None) -> Role:
    """The role of a new key: `wanted`, or its user's. Raises `Forbidden` where that is more than the user has.

    A user without a role may be given a key for the time when he has one; what it is for has to be said then.
    """
    if its is None:
        if wanted is None:
            raise Forbidden("this user has no role yet: give him one first, or say the key's", field="$.role")
        return wanted
    if wanted is not None and RANK[wanted] > RANK[its]:
        raise Forbidden(f"the key's user has the role {its}, and a key is never good for more", field="$.role")
    return wanted or lower(its, issuer.role) or its


def refuse_wider(issuer: Principal, *, user_id: str, role: Role | None, expires_at: datetime | None) -> None:
    """Raise `Forbidden` where a new key would be good for more, or longer, than whoever issues it."""
    if issuer.narrowed:
        raise Forbidden("a key that is narrowed to scopes or a project cannot issue keys")
    if user_id != issuer.user_id and issuer.role != "admin":
        raise Forbidden("only an admin issues keys for others", field="$.user_id")
    if user_id == ADMIN_ID and issuer.role != "admin":
        raise Forbidden("only an admin issues keys of the stack's administrator", field="$.user_id")
    if role is not None and RANK[role] > RANK[issuer.role]:
        raise Forbidden(f"you have the role {issuer.role} and cannot issue a key with {role}", field="$.role")
    if issuer.via == "key" and issuer.expires_at is not None and (expires_at is None or expires_at > issuer.expires_at):
        raise Forbidden("a key cannot issue one that outlives it", field="$.expires_at")


class NewKey(RequestBody):
    """A key to issue: for oneself, unless an admin names another. Without scopes it is good for all its role may.

    Without a role it has its user's, as far as the issuer has that too.
    """

    name: PersonName
    role: Role | None = None
    user_id: Name | None = None
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=100)] | None = None
    project: Name | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
