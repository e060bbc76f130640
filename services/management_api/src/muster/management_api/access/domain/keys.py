"""API keys: `mk_<id>_<secret>`. Only a digest is stored, and a key never allows more than its issuer may."""

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
"""Characters of the secret, of 62 letters and digits: 256 bits."""


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its user, as the database stores them."""

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
    """When the user last showed a token of the identity provider; None if the user was not created by a provider."""


def written(key_id: str, secret: str) -> str:
    """Return the whole key, which only its owner keeps."""
    return f"mk_{key_id.removeprefix('key_')}_{secret}"


def shown(key: str) -> str:
    """Return the beginning of the key: enough to tell it from others, nothing of the secret."""
    return key[: -SECRET_LENGTH - 1]


def digest(key: str) -> bytes:
    """Return the digest that is stored. A fast hash is enough, because nobody can guess 256 bits."""
    return sha256(key.encode()).digest()


def key_id(text: str) -> str | None:
    """Return the id in a possible key; None if the text cannot be a key."""
    found = _KEY.fullmatch(text)
    return f"key_{found[1]}" if found else None


def concealed(text: str) -> str:
    """Return `text` without a credential that was put into it by mistake."""
    return _LIKE_A_TOKEN.sub("(a token)", _LIKE_A_KEY.sub(r"\1_(secret)", text))


def bearer(known: KnownKey, text: str, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Return the holder of the key `text`, or None if the secret is wrong or the key is not valid now."""
    return holder(known, at, unseen_for=unseen_for) if hmac.compare_digest(known.digest, digest(text)) else None


def holder(known: KnownKey, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Return the holder of a stored key; None if it is revoked, expired, or its user is disabled.

    A provider does not announce which users it has removed; those users get no new tokens. So the key of a provider's
    user ends `unseen_for` after the last token that the user showed, and is valid again after the next token.
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
    """Return the role of a new key: `wanted`, or that of its user. Raises `Forbidden` if the user has a lower role.

    A user without a role may be given a key for later; its role must then be named.
    """
    if its is None:
        if wanted is None:
            raise Forbidden(
                "this user has no role yet; give the user a role first, or name the role of the key", field="$.role"
            )
        return wanted
    if wanted is not None and RANK[wanted] > RANK[its]:
        raise Forbidden(f"the key's user has the role {its}, and a key is never good for more", field="$.role")
    return wanted or lower(its, issuer.role) or its


def refuse_wider(issuer: Principal, *, user_id: str, role: Role | None, expires_at: datetime | None) -> None:
    """Raise `Forbidden` if a new key would allow more, or last longer, than its issuer may."""
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
    """A key to issue: for the caller, or for another user if an admin names one.

    Without scopes it has every scope of its role. Without a role it has the role of its user, as far as the issuer has
    that role too.
    """

    name: PersonName
    role: Role | None = None
    user_id: Name | None = None
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=100)] | None = None
    project: Name | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
