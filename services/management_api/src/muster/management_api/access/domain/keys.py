"""The rules of API keys, which have the form `mk_<id>_<secret>`.

Only a digest of a key is stored. A new key never has more permissions than the caller that issues it.
"""

import hmac
import re
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec

from muster.common.contracts.access import Role
from muster.common.faults import Forbidden
from muster.management_api.access.domain.principals import ADMIN_ID, Principal
from muster.management_api.access.domain.roles import RANK, lower

_KEY = re.compile(r"mk_([0-9a-z]{26})_([0-9A-Za-z]{43})")
_LIKE_A_KEY = re.compile(r"(mk_[0-9a-z]{26})_[0-9A-Za-z]+")
_LIKE_A_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")
SECRET_LENGTH = 43
"""Number of letters and digits in the secret of a key, which contain 256 random bits."""


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key and its user, as stored in the database."""

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
    """Time of the user's last token of the identity provider; None if the user was not created by a provider."""


def written(key_id: str, secret: str) -> str:
    """Return the text of a whole API key, with its secret. Only the owner of the key keeps this text."""
    return f"mk_{key_id.removeprefix('key_')}_{secret}"


def shown(key: str) -> str:
    """Return the beginning of an API key without its secret, by which people can distinguish keys."""
    return key[: -SECRET_LENGTH - 1]


def digest(key: str) -> bytes:
    """Return the digest of an API key, which is stored. A fast hash is enough, because 256 bits cannot be guessed."""
    return sha256(key.encode()).digest()


def key_id(text: str) -> str | None:
    """Return the id in a text that has the form of an API key; None if the text has another form."""
    found = _KEY.fullmatch(text)
    return f"key_{found[1]}" if found else None


def concealed(text: str) -> str:
    """Return `text` without words that look like the secret of an API key or like a token.

    Each such word is replaced before the text is logged, so that no log contains a secret.
    """
    return _LIKE_A_TOKEN.sub("(a token)", _LIKE_A_KEY.sub(r"\1_(secret)", text))


def bearer(known: KnownKey, text: str, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Return the caller that the API key `text` identifies; None if its secret is wrong or the key is not valid."""
    return holder(known, at, unseen_for=unseen_for) if hmac.compare_digest(known.digest, digest(text)) else None


def holder(known: KnownKey, at: datetime, *, unseen_for: timedelta) -> Principal | None:
    """Return the caller that a stored API key identifies; None if it is revoked or expired, or its user is disabled.

    An identity provider does not announce which users it has removed, but these users get no new tokens. So a key of a
    provider's user becomes invalid when the user has sent no token for the time `unseen_for`. The user's next token
    makes the key valid again.
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
    """Return the role of a new API key: `wanted` if given, otherwise the lower of the user's and the issuer's roles.

    `its` is the role of the user that gets the key. Raises `Forbidden` if this role is lower than `wanted`. A key may
    be issued to a user that has no role yet, but only if `wanted` is given.
    """
    if its is None:
        if wanted is None:
            raise Forbidden(
                "the key's user has no role yet; give the user a role first, or set the role of the key", field="$.role"
            )
        return wanted
    if wanted is not None and RANK[wanted] > RANK[its]:
        raise Forbidden(f"the key's user has the role {its}; the key cannot have a higher role", field="$.role")
    return wanted or lower(its, issuer.role) or its


def refuse_wider(issuer: Principal, *, user_id: str, role: Role | None, expires_at: datetime | None) -> None:
    """Raise `Forbidden` if a new API key would have more permissions, or expire later, than its issuer's credential."""
    if issuer.narrowed:
        raise Forbidden("a key that is limited to scopes or to a project cannot issue keys")
    if user_id != issuer.user_id and issuer.role != "admin":
        raise Forbidden("only an admin can issue keys for other users", field="$.user_id")
    if user_id == ADMIN_ID and issuer.role != "admin":
        raise Forbidden("only an admin can issue keys for the stack's administrator", field="$.user_id")
    if role is not None and RANK[role] > RANK[issuer.role]:
        raise Forbidden(f"you have the role {issuer.role} and cannot issue a key with the role {role}", field="$.role")
    if issuer.via == "key" and issuer.expires_at is not None and (expires_at is None or expires_at > issuer.expires_at):
        raise Forbidden(
            "the new key cannot expire later than the key that issues it; set an earlier time", field="$.expires_at"
        )
