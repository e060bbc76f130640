"""An identity provider removes or demotes users: their keys end, and older tokens have no effect."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.embedded.nats_server import NatsServer
from muster.embedded.sql import connected
from muster.management_api.access.domain.principals import Principal
from tests.support.api import ApiProcess, api_process
from tests.support.caller import Caller
from tests.support.identity_provider import AUDIENCE, IdentityProvider

WHOAMI, KEYS = "/api/v1/whoami", "/api/v1/keys"
DAYS = 7


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
        "MUSTER_OIDC_KEYS_REST_DAYS": str(DAYS),
    }
    with api_process(shared_nats.url, tmp_path_factory.mktemp("api"), shared_database_url, **told) as process:
        yield process
        assert "Traceback" not in process.log()


async def _last_token(database_url: str, user_id: str, days_ago: float) -> None:
    """Change the time of the user's last token in the database."""
    at = utc_now() - timedelta(days=days_ago)
    async with connected(database_url) as database:
        await database.execute("UPDATE api.users SET token_seen_at = $2 WHERE user_id = $1", user_id, at)


async def _key(owner: Caller, **fields: Any) -> Caller:
    issued = await owner.done("POST", KEYS, {"name": "laptop", **fields})
    return Caller(owner.url, issued["key"])


async def test_keys_of_a_providers_user_end_without_a_token_and_count_again_with_the_next(
    api: ApiProcess, provider: IdentityProvider, shared_database_url: str
):
    token = provider.token(sub=new_id("usr"), roles="operator")
    ann = Caller(api, token)
    user_id = (await ann.done("GET", WHOAMI))["user_id"]
    key = await _key(ann)

    await _last_token(shared_database_url, user_id, DAYS - 0.01)
    assert (await key.ask("GET", WHOAMI)).status == 200
    await _last_token(shared_database_url, user_id, DAYS + 0.01)
    ended = await key.ask("GET", WHOAMI)
    assert (await key.ask("GET", WHOAMI)).status == 401, "to use a key is not to show a token"
    await ann.done("GET", WHOAMI)

    assert ended.problem.status == 401
    assert "identity provider" in ended.problem.detail
    assert (await key.ask("GET", WHOAMI)).status == 200


async def test_reason_of_a_keys_end_is_shown_only_to_a_caller_with_its_secret(
    api: ApiProcess, provider: IdentityProvider, shared_database_url: str
):
    ann = Caller(api, provider.token(sub=new_id("usr"), roles="viewer"))
    user_id = (await ann.done("GET", WHOAMI))["user_id"]
    key = await _key(ann)
    await _last_token(shared_database_url, user_id, DAYS + 1)
    assert key.credential is not None

    guessed = await Caller(api, key.credential[:-43] + "x" * 43).ask("GET", WHOAMI)

    assert "identity provider" not in guessed.problem.detail


async def test_keys_of_local_users_need_no_token(api: ApiProcess, shared_database_url: str):
    admin = Caller(api)
    user = await admin.done("POST", "/api/v1/users", {"name": new_id("usr"), "role": "viewer"})
    key = await _key(admin, user_id=user["user_id"])
    async with connected(shared_database_url) as database:
        await database.execute(
            "UPDATE api.users SET created_at = now() - interval '1 year' WHERE user_id = $1", user["user_id"]
        )

    assert (await key.ask("GET", WHOAMI)).status == 200


async def test_older_token_does_not_restore_the_role_of_a_demoted_user(api: ApiProcess, provider: IdentityProvider):
    now, subject = utc_now().timestamp(), new_id("usr")

    def shown(age_s: float, role: str, name: str) -> Caller:
        return Caller(api, provider.token(sub=subject, iat=now - age_s, roles=role, name=name))

    old, new = shown(60, "admin", "Old"), shown(0, "viewer", "New")
    assert (await old.done("GET", WHOAMI))["role"] == "admin"
    assert (await new.done("GET", WHOAMI))["role"] == "viewer"

    again = await old.done("GET", WHOAMI)
    between = await shown(30, "operator", "Between").done("GET", WHOAMI)

    assert [(me["role"], me["name"]) for me in (again, between)] == [("viewer", "New")] * 2
    assert (await old.ask("GET", "/api/v1/users")).status == 403


async def test_newer_token_with_the_same_role_outdates_tokens_between(api: ApiProcess, provider: IdentityProvider):
    now, subject = utc_now().timestamp(), new_id("usr")
    for age_s in (50, 10):
        await Caller(api, provider.token(sub=subject, iat=now - age_s, roles="viewer")).done("GET", WHOAMI)

    between = await Caller(api, provider.token(sub=subject, iat=now - 30, roles="admin")).done("GET", WHOAMI)

    assert between["role"] == "viewer"


def test_a_feed_ends_when_the_last_token_is_too_old_or_the_key_expires():
    now = utc_now()
    rests, expires = now + timedelta(days=1), now + timedelta(days=2)

    def void_at(**fields: Any) -> object:
        who = Principal(name="key:1", user_id="usr_1", user_name="Ann", role="viewer", via="key", **fields)
        return who.void_at

    assert void_at() is None
    assert void_at(expires_at=expires) == expires
    assert void_at(rests_until=rests) == rests
    assert void_at(rests_until=rests, expires_at=expires) == rests
