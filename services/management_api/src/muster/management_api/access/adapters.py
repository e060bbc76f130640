"""Verifies the bearer tokens of an identity provider with the keys that the provider publishes."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import httpcore
import jwt
import msgspec
import structlog

from muster.common.faults import Unauthenticated, Unavailable
from muster.management_api.access.domain.claims import LEEWAY_S, TokenClaims, believed

log = structlog.get_logger()

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Accepted algorithms of signatures, all asymmetric: with a shared secret, each verifier could also create tokens."""
ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})
ASK_AGAIN_AFTER_S = 10.0
"""Least seconds between two fetches of the provider's keys. A token with an unknown key id causes a fetch."""
STALE_AFTER_S = 300.0
"""Seconds after which the keys are fetched again, so that a key that the provider has withdrawn is not used."""
FETCH_DEADLINE_S = 3.0
MOST_BYTES = 1 << 20


class TokenIssuer:
    """The identity provider whose tokens the API accepts, with the provider's published keys."""

    def __init__(
        self,
        issuer: str,
        *,
        audience: str,
        jwks_url: str = "",
        role_claim: str,
        ask_again_after_s: float = ASK_AGAIN_AFTER_S,
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        self.role_claim = role_claim
        self._issuer, self._audience, self._jwks_url = issuer, audience, jwks_url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = self._fetched_at = float("-inf")
        self._answered = False
        self._asking = asyncio.Lock()
        self._ask_again_after_s, self._stale_after_s = ask_again_after_s, stale_after_s

    async def verify(self, token: str) -> TokenClaims:
        """Verify a token of the identity provider and return the token's claims.

        Raises `Unauthenticated` if the token is invalid, and `Unavailable` if the provider's keys cannot be fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise Unauthenticated(f"the token's algorithm is not accepted; use one of {', '.join(ALGORITHMS)}")
            key = await self._key(header.get("kid"))
            payload = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired; get a new one from your identity provider") from None
        except jwt.InvalidTokenError as error:
            # PyJWT's error text names the wrong claim, but does not contain the claim's value or the token.
            raise Unauthenticated(f"the token is not valid: {error}") from None
        except (ValueError, OverflowError, RecursionError):
            # The token's JSON is nested too deeply, or one of its times is out of range.
            raise Unauthenticated("the token is not valid: its content cannot be decoded") from None
        return believed(payload, role_claim=self.role_claim)

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        now = asyncio.get_running_loop().time()
        found = self._found(kid)
        if found is None or (now - self._fetched_at > self._stale_after_s and not self._asking.locked()):
            await self._ask()
            found = self._found(kid)
        if found is not None:
            return found
        if not self._answered:
            raise Unavailable("the token cannot be verified: the identity provider's keys cannot be fetched; try later")
        raise Unauthenticated("the token is signed with a key that the identity provider does not publish")

    def _found(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid or "")

    async def _ask(self) -> None:
        """Fetch the provider's keys, unless a fetch was tried shortly before. A failed fetch keeps the known keys."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now - self._asked_at < self._ask_again_after_s:
                return
            self._asked_at = now
            try:
                keys = await self._fetched_keys()
            except (OSError, TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, ValueError) as error:
                self._answered = False
                log.warning("identity provider keys not fetched", error=f"{type(error).__name__}: {error}"[:200])
                return
            self._keys, self._answered, self._fetched_at = keys, True, now

    async def _fetched_keys(self) -> dict[str, jwt.PyJWK]:
        async with asyncio.timeout(FETCH_DEADLINE_S):
            url = self._jwks_url or await self._discovered()
            published = (await _fetch(url)).get("keys")
        found: dict[str, jwt.PyJWK] = {}
        for one in cast("list[Any]", published if isinstance(published, list) else []):
            if isinstance(one, dict) and (key := _usable(cast("dict[str, Any]", one))):
                found[key.key_id or ""] = key
        if not found:
            raise ValueError("the identity provider publishes no usable key")
        return found

    async def _discovered(self) -> str:
        document = await _fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise ValueError("the identity provider's discovery document names another issuer than MUSTER_OIDC_ISSUER")
        return str(document.get("jwks_uri"))


def _usable(published: dict[str, Any]) -> jwt.PyJWK | None:
    if published.get("kty") not in ASYMMETRIC or published.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(published)
    except jwt.PyJWTError:
        return None  # PyJWT does not support this kind of key, but the provider may publish other keys.
    return key if key.algorithm_name in ALGORITHMS else None


async def _fetch(url: str) -> Mapping[str, Any]:
    """Fetch a JSON object from the identity provider. Raises `ValueError`, or the errors of httpcore."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("the identity provider's URL must begin with http or https")
    body = bytearray()
    async with (
        httpcore.AsyncConnectionPool() as pool,
        pool.stream("GET", url, headers=[("accept", "application/json")]) as response,
    ):
        if response.status != HTTPStatus.OK:
            raise ValueError(f"the identity provider answered with the status {response.status}")
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"the identity provider's answer has over {MOST_BYTES} bytes")
    return msgspec.json.decode(bytes(body), type=dict[str, Any])
