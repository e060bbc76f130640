"""Finds the caller of a request from its credential: the admin key, an API key, or an identity provider's token."""

import hmac
from datetime import datetime, timedelta

import msgspec

from muster.common.clock import Clock
from muster.common.contracts.access import UserView
from muster.common.faults import Forbidden, Unauthenticated
from muster.management_api.access.adapters import TokenIssuer
from muster.management_api.access.domain import keys as key_rules
from muster.management_api.access.domain.claims import LEEWAY_S
from muster.management_api.access.domain.principals import STACK_ADMIN, Principal
from muster.management_api.access.store.keys import KeyStore
from muster.management_api.access.store.users import UserStore

LONGEST_CREDENTIAL = 16_384
SHORTEST_CREDENTIAL = 16
"""Least characters of a credential that is replaced in a path. A shorter text could be an ordinary part of the path."""
_TOKEN_DOTS = 2
KEY_REFUSED = "this key is unknown, revoked or expired"
KEY_UNSEEN = (
    "no token of this key's user was seen for too long: send one request with a token of your identity provider, "
    "then use this key again"
)


class Callers:
    """Verifies credentials and returns the callers that the credentials identify."""

    def __init__(
        self,
        *,
        admin_key: str,
        keys: KeyStore,
        users: UserStore,
        issuer: TokenIssuer | None,
        keys_rest_for: timedelta,
        now: Clock,
    ) -> None:
        """Set the sources of credentials.

        Keys of an identity provider's user stay valid for the time `keys_rest_for` after the user's last token.
        """
        self._admin_key, self._keys_rest_for = admin_key.encode(), keys_rest_for
        self._keys, self._users, self._issuer, self._now = keys, users, issuer, now

    @property
    def role_claimed(self) -> bool:
        """Whether the identity provider decides the roles of its users."""
        return bool(self._issuer and self._issuer.role_claim)

    async def identify(self, authorization: bytes) -> Principal:
        """Return the caller that the header `Authorization` identifies.

        Raises `Unauthenticated`, `Forbidden` or `Unavailable`.
        """
        scheme, _, credential = authorization.partition(b" ")
        credential = credential.strip()
        if scheme.lower() != b"bearer" or not credential:
            raise Unauthenticated("the request has no credentials; send the header `Authorization: Bearer <key>`")
        if hmac.compare_digest(credential, self._admin_key):
            return STACK_ADMIN
        text = credential[:LONGEST_CREDENTIAL].decode("latin-1")
        if key_id := key_rules.key_id(text):
            return await self._by_key(key_id, text)
        if self._issuer is not None and text.count(".") == _TOKEN_DOTS:
            return await self._by_token(self._issuer, text)
        raise Unauthenticated("the request's credentials are neither an API key nor an accepted token")

    async def again(self, principal: Principal) -> Principal:
        """Check again a caller that was identified before, and return the caller with its present role.

        Raises the errors of `identify`.
        """
        match principal.via:
            case "stack":
                return principal
            case "key":
                known = await self._keys.known(principal.key_id or "")
                now = self._now()
                return _kept(known and key_rules.holder(known, now, unseen_for=self._keys_rest_for), now)
            case "oidc":
                return await self._by_token_still(principal)

    def concealed(self, text: str, authorization: bytes) -> str:
        """Return `text` without the request's own credential and without words that look like a credential."""
        own = authorization.partition(b" ")[2].strip().decode("latin-1")
        text = text.replace(self._admin_key.decode(), "(the admin key)")
        text = key_rules.concealed(text)
        return text.replace(own, "(a credential)") if len(own) >= SHORTEST_CREDENTIAL else text

    async def _by_key(self, key_id: str, text: str) -> Principal:
        known, now = await self._keys.known(key_id), self._now()
        principal = _kept(known and key_rules.bearer(known, text, now, unseen_for=self._keys_rest_for), now)
        self._keys.used(key_id)
        return principal

    async def _by_token(self, issuer: TokenIssuer, text: str) -> Principal:
        claims = await issuer.verify(text)
        user = await self._users.seen(claims, claimed=bool(issuer.role_claim))
        _refuse_disabled(user)
        return Principal(
            name=f"user:{user.user_id}",
            user_id=user.user_id,
            user_name=user.name,
            role=user.role,
            via="oidc",
            expires_at=claims.expires_at,
            leeway_s=LEEWAY_S,
        )

    async def _by_token_still(self, principal: Principal) -> Principal:
        """Check again a caller that was identified by a token, and return the caller with the user's present role."""
        if principal.void_at is not None and principal.void_at <= self._now():
            raise Unauthenticated("the token has expired; get a new one from your identity provider")
        user = await self._users.known(principal.user_id)
        if user is None:
            raise Unauthenticated("your user was deleted from Muster; ask an administrator")
        _refuse_disabled(user)
        return msgspec.structs.replace(principal, role=user.role)


def _kept(principal: Principal | None, at: datetime) -> Principal:
    """Return the caller of a valid API key. Raises `Unauthenticated` if the key is not valid.

    The specific reason is sent only to a caller that knows the key's secret.
    """
    if principal is None:
        raise Unauthenticated(KEY_REFUSED)
    if principal.rests_until is not None and principal.rests_until <= at:
        raise Unauthenticated(KEY_UNSEEN)
    return principal


def _refuse_disabled(user: UserView) -> None:
    if user.disabled:
        raise Forbidden(f"the user {user.user_id} is disabled; ask an administrator")
