"""Tokens of an identity provider with real keys over real HTTP: accepted, refused, rotated, and during an outage."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from muster.common.clock import utc_now
from muster.common.faults import Unauthenticated, Unavailable
from muster.common.ids import new_id
from muster.embedded.nats_server import NatsServer
from muster.management_api.access.adapters import TokenIssuer
from muster.management_api.settings import ApiSettings
from tests.support.api import ApiProcess, api_process
from tests.support.caller import Caller
from tests.support.identity_provider import AUDIENCE, IdentityProvider, identity_provider
from tests.support.patience import PATIENCE_S

WHOAMI = "/api/v1/whoami"


@pytest.fixture(scope="module")
def api(
    provider: IdentityProvider,
    shared_nats: NatsServer,
    shared_database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiProcess]:
    told = {
        "MUSTER_OIDC_ISSUER": provider.issuer,
        "MUSTER_OIDC_AUDIENCE": AUDIENCE,
        "MUSTER_OIDC_ROLE_CLAIM": "realm_access.roles",
    }
    home = tmp_path_factory.mktemp("api")
    with api_process(shared_nats.url, home, shared_database_url, **told) as process:
        yield process
        assert "Traceback" not in process.log()
        assert "eyJ" not in process.log()  # how every token begins


def roles(*names: str) -> dict[str, Any]:
    return {"realm_access": {"roles": list(names)}}


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
async def test_first_token_creates_its_user_with_the_role_of_its_claim(
    api: ApiProcess, provider: IdentityProvider, kid: str
):
    subject = new_id("usr")
    ann = Caller(api, provider.token(kid, sub=subject, name="Ann", email="ann@example.org", **roles("operator")))
    me = await ann.done("GET", WHOAMI)

    assert (me["name"], me["role"], me["via"]) == ("Ann", "operator", "oidc")
    assert me["who"] == f"user:{me['user_id']}"
    again = await ann.done("GET", WHOAMI)
    assert again["user_id"] == me["user_id"]
    user = await Caller(api).done("GET", f"/api/v1/users/{me['user_id']}")
    assert (user["email"], user["issuer"], user["role"]) == ("ann@example.org", provider.issuer, "operator")


async def test_concurrent_first_requests_create_one_user(api: ApiProcess, provider: IdentityProvider):
    ann = Caller(api, provider.token(sub=new_id("usr"), **roles("viewer")))
    seen = await asyncio.gather(*(ann.done("GET", WHOAMI) for _ in range(12)))

    assert len({me["user_id"] for me in seen}) == 1


async def test_role_changed_by_the_provider_applies_to_the_next_request(api: ApiProcess, provider: IdentityProvider):
    subject, admin = new_id("usr"), Caller(api)
    high = await Caller(api, provider.token(sub=subject, **roles("admin"))).done("GET", WHOAMI)
    own = await Caller(api, provider.token(sub=subject, **roles("admin"))).issue("admin")
    one = f"/api/v1/users/{high['user_id']}"
    assert high["role"] == "admin"

    fallen = await Caller(api, provider.token(sub=subject)).ask("GET", WHOAMI)
    assert "no role" in fallen.problem.detail
    assert (await own.ask("GET", WHOAMI)).status == 403  # The user's key has lost the role too.
    assert (await admin.ask("PATCH", one, {"role": "admin"})).problem.field == "$.role"
    await admin.done("PATCH", one, {"disabled": True})
    disabled = await Caller(api, provider.token(sub=subject, **roles("admin"))).ask("GET", WHOAMI)
    assert (disabled.status, "disabled" in disabled.problem.detail) == (403, True)


STRANGER = rsa.generate_private_key(65537, 2048)


def bad_tokens(provider: IdentityProvider) -> Iterator[tuple[str, str]]:
    now = utc_now().timestamp()
    good = provider.token(**roles("admin"))
    head, payload, signature = good.split(".")
    yield "no signature at all", provider.unsigned(**roles("admin"))
    yield "the public key as a shared secret", _hs256(provider, **roles("admin"))
    yield "another's key under our key id", provider.token("rsa", key=STRANGER, **roles("admin"))
    yield "an unpublished key", provider.token("nobody", key=STRANGER, **roles("admin"))
    yield "the shared key that is published", provider.token("shared", key="s" * 32, alg="HS256")
    yield "the wrong audience", provider.token(aud="others")
    yield "no audience", provider.token(aud=None)
    yield "the wrong issuer", provider.token(iss=f"{provider.issuer}/")
    yield "no issuer", provider.token(iss=None)
    yield "expired", provider.token(exp=now - 120)
    yield "never expiring", provider.token(exp=None)
    yield "not yet valid", provider.token(nbf=now + 120)
    yield "from the future", provider.token(iat=now + 120)
    yield "no subject", provider.token(sub=None)
    yield "an empty subject", provider.token(sub="")
    yield "a cut signature", f"{head}.{payload}.{signature[:-4]}"
    yield "another's payload", f"{head}.{provider.token(sub='bob').split('.')[1]}.{signature}"
    yield "the algorithm of another key", provider.token("ec", key=STRANGER, alg="RS256")
    yield "no JSON", "x.y.z"
    yield "empty parts", ".."


def _hs256(provider: IdentityProvider, **claims: Any) -> str:
    """Return a token that is signed with the public key as a shared secret, which the JWT library refuses to create."""
    payload = provider.token(**claims).split(".")[1]
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa","typ":"JWT"}').decode().rstrip("=")
    digest = hmac.digest(provider.public_pem("rsa"), f"{header}.{payload}".encode(), hashlib.sha256)
    return f"{header}.{payload}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


async def test_invalid_tokens_are_refused_and_not_repeated_in_the_response(api: ApiProcess, provider: IdentityProvider):
    for what, token in bad_tokens(provider):
        refused = await Caller(api, token).ask("GET", WHOAMI)
        assert refused.problem.status == 401, what
        assert token not in refused.body.decode() or len(token) < 10


async def test_small_clock_difference_is_tolerated(api: ApiProcess, provider: IdentityProvider):
    now = utc_now().timestamp()
    for claims in ({"exp": now - 5}, {"nbf": now + 5}, {"iat": now + 5}):
        assert (await Caller(api, provider.token(**claims, **roles("viewer"))).ask("GET", WHOAMI)).status == 200


async def test_new_signing_key_is_fetched_at_first_use_but_not_for_every_unknown_key_id(provider: IdentityProvider):
    issuer = TokenIssuer(provider.issuer, audience=AUDIENCE, role_claim="roles", ask_again_after_s=0.5)
    await issuer.verify(provider.token())
    asked = provider.asked
    await asyncio.gather(
        *(issuer.verify(provider.token(f"k{n}", key=STRANGER)) for n in range(20)), return_exceptions=True
    )
    assert provider.asked - asked <= 1

    provider.add("next", "RS256", rsa.generate_private_key(65537, 2048))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                claims = await issuer.verify(provider.token("next"))
            except Unauthenticated:
                await asyncio.sleep(0.1)  # The provider was not called again yet.
            else:
                break
    assert claims.subject == "ann"


async def test_without_the_provider_known_signing_keys_work_and_unknown_ones_get_503(
    nats_url: str, shared_database_url: str, tmp_path: Path
):
    with identity_provider() as provider:
        issuer = TokenIssuer(provider.issuer, audience=AUDIENCE, role_claim="roles", ask_again_after_s=0.0)
        await issuer.verify(provider.token())
        provider.away = True
        await issuer.verify(provider.token())
        with pytest.raises(Unavailable):
            await issuer.verify(provider.token("later", key=STRANGER))
        await issuer.verify(provider.token())

        told = {"MUSTER_OIDC_ISSUER": provider.issuer, "MUSTER_OIDC_AUDIENCE": AUDIENCE}
        told["MUSTER_OIDC_JWKS_URL"] = f"{provider.issuer}/jwks"
        with api_process(nats_url, tmp_path, shared_database_url, **told) as api:
            refused = await Caller(api, provider.token(roles="viewer")).ask("GET", WHOAMI)
            assert (refused.problem.status, "fetched" in refused.problem.detail) == (503, True)


async def test_withdrawn_signing_key_is_refused_after_the_next_fetch(provider: IdentityProvider):
    provider.add("old", "RS256", STRANGER)
    issuer = TokenIssuer(
        provider.issuer, audience=AUDIENCE, role_claim="roles", ask_again_after_s=0.0, stale_after_s=0.0
    )
    await issuer.verify(provider.token("old"))
    token = provider.token("old")
    provider.withdraw("old")
    with pytest.raises(Unauthenticated, match="does not publish"):
        await issuer.verify(token)


def test_incomplete_issuer_or_invalid_limit_setting_is_refused_by_its_name():
    told: dict[str, Any] = {"nats_url": "nats://x", "database_url": "postgresql://x", "admin_key": "k" * 16}
    for wrong in ({"oidc_issuer": "https://id"}, {"requests_per_principal": "many"}, {"refusals_per_address": "0/s"}):
        with pytest.raises(ValidationError) as refused:
            ApiSettings.model_validate({**told, **wrong})
        (error,) = refused.value.errors()
        assert error["loc"] == (("oidc_audience",) if "oidc_issuer" in wrong else tuple(wrong))
