"""Permissions as pure decisions: roles, scopes, keys limited by their issuer, and claims of a token."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from muster.common.contracts.access import Role
from muster.common.contracts.access_bodies import NewKey
from muster.common.faults import Forbidden, InvalidMessage, Unauthenticated
from muster.management_api.access.domain.claims import believed
from muster.management_api.access.domain.keys import (
    KnownKey,
    bearer,
    concealed,
    digest,
    key_id,
    refuse_wider,
    shown,
    written,
)
from muster.management_api.access.domain.principals import STACK_ADMIN, Principal
from muster.management_api.access.domain.roles import Requirement, covers, lower, refuse

NOW = datetime(2026, 11, 21, tzinfo=UTC)
MONTH = timedelta(days=30)
KEY_ID = "key_01kagz5v3m8n6q2r4t7w9x0y1z"
KEY = written(KEY_ID, "s" * 43)
READ = Requirement("viewer", "tasks:read")
WRITE = Requirement("operator", "tasks:write", by_project=True)


def principal(role: Role | None = "viewer", **fields: Any) -> Principal:
    told: dict[str, Any] = {"name": "user:usr_1", "user_id": "usr_1", "user_name": "Ann", "via": "oidc", **fields}
    return Principal(role=role, **told)


def known(**fields: Any) -> KnownKey:
    row = KnownKey(
        key_id=KEY_ID,
        user_id="usr_1",
        user_name="Ann",
        digest=digest(KEY),
        role="operator",
        user_role="admin",
        scopes=None,
        project=None,
        expires_at=None,
        revoked_at=None,
        disabled_at=None,
        token_seen_at=None,
    )
    return msgspec.structs.replace(row, **fields)


@pytest.mark.parametrize(
    ("who", "needed", "why"),
    [
        (principal(None), READ, "no role yet"),
        (principal("viewer"), WRITE, "needs the role operator"),
        (principal("operator"), Requirement("admin", "tasks:write"), "needs the role admin"),
        (principal("admin", scopes=("agents:write",)), READ, "needs the scope tasks:read"),
        (principal("admin", scopes=("tasks:read",)), WRITE, "needs the scope tasks:write"),
        (principal("admin", scopes=()), READ, "has only none"),
        (principal("admin", project="p"), READ, "only for the tasks of the project p"),
    ],
)
def test_refused_caller_is_told_the_missing_permission(who: Principal, needed: Requirement, why: str):
    with pytest.raises(Forbidden, match=why):
        refuse(who, needed)


@pytest.mark.parametrize(
    ("who", "needed"),
    [
        (STACK_ADMIN, WRITE),
        (principal("viewer"), READ),
        (principal("operator", scopes=("tasks:write",)), READ),
        (principal("operator", scopes=("tasks:write",), project="p"), WRITE),
        (principal("viewer", scopes=("tasks:read",)), Requirement("viewer")),
    ],
)
def test_permitted_caller_is_admitted(who: Principal, needed: Requirement):
    refuse(who, needed)


def test_write_scope_includes_read_of_the_same_kind_only():
    assert covers(("tasks:write",), "tasks:read")
    assert not covers(("tasks:read",), "tasks:write")
    assert not covers(("tasks:write",), "agents:read")
    assert lower("admin", "viewer") == "viewer"
    assert lower(None, "admin") is None


def test_key_is_recognised_only_by_its_complete_text():
    assert key_id(KEY) == KEY_ID
    assert shown(KEY) == "mk_01kagz5v3m8n6q2r4t7w9x0y1z"
    assert "s" * 10 not in shown(KEY)
    found = bearer(known(), KEY, NOW, unseen_for=MONTH)
    assert found is not None
    assert (found.name, found.user_id, found.role, found.via) == (f"key:{KEY_ID}", "usr_1", "operator", "key")
    assert bearer(known(), written(KEY_ID, "t" * 43), NOW, unseen_for=MONTH) is None
    for no_key in ("", "mk_", "mk_x_y", KEY + "s", KEY[:-1], KEY.upper(), KEY + "\n", f"mk_{'0' * 26}_{'é' * 43}"):
        assert key_id(no_key) is None


def test_misplaced_credential_is_not_logged():
    written_down = concealed(f"DELETE /api/v1/keys/{KEY}/eyJhbGciOi.eyJpc3M.c2ln?x=mk_1")

    assert written_down == f"DELETE /api/v1/keys/{shown(KEY)}_(secret)/(a token)?x=mk_1"


@pytest.mark.parametrize(
    "ended", [{"revoked_at": NOW}, {"disabled_at": NOW}, {"expires_at": NOW}, {"expires_at": NOW - timedelta(days=1)}]
)
def test_revoked_expired_or_disabled_key_authenticates_nobody(ended: dict[str, datetime]):
    assert bearer(known(**ended), KEY, NOW, unseen_for=MONTH) is None


def test_key_has_no_more_permissions_than_its_user():
    for user_role, role in (("viewer", "viewer"), ("admin", "operator"), (None, None)):
        found = bearer(known(user_role=user_role), KEY, NOW, unseen_for=MONTH)
        assert found is not None
        assert found.role == role


SOON = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("issuer", "wish", "why"),
    [
        (principal("operator"), {"role": "admin"}, "cannot issue a key with the role admin"),
        (principal("operator"), {"user_id": "usr_2"}, "only an admin"),
        (principal("operator", user_id="admin"), {"user_id": "admin"}, "only an admin"),
        (principal("admin", scopes=("keys:write",)), {}, "limited to scopes"),
        (principal("admin", project="p"), {}, "limited to scopes"),
        (principal("admin", via="key", expires_at=NOW), {}, "expire later"),
        (principal("admin", via="key", expires_at=NOW), {"expires_at": SOON}, "expire later"),
    ],
)
def test_no_caller_issues_a_key_with_more_permissions_than_its_own(issuer: Principal, wish: dict[str, Any], why: str):
    told: dict[str, Any] = {"user_id": issuer.user_id, "role": "viewer", "expires_at": None, **wish}
    with pytest.raises(Forbidden, match=why):
        refuse_wider(issuer, **told)


def test_user_may_issue_keys_for_itself_and_an_admin_for_others():
    refuse_wider(principal("viewer"), user_id="usr_1", role="viewer", expires_at=None)
    refuse_wider(principal("admin"), user_id="usr_2", role="admin", expires_at=None)
    refuse_wider(principal("admin", via="key", expires_at=SOON), user_id="usr_2", role="admin", expires_at=NOW)
    refuse_wider(principal("admin", via="oidc", expires_at=NOW), user_id="usr_1", role="admin", expires_at=None)


def test_key_with_an_unknown_scope_is_refused():
    assert NewKey.from_json(b'{"name": "ci", "scopes": ["tasks:read"]}').scopes == ["tasks:read"]
    with pytest.raises(InvalidMessage, match="must be one of agents:read, ") as refused:
        NewKey.from_json(b'{"name": "ci", "scopes": ["tasks:read", "tasks:own"]}')
    assert refused.value.field == "$.scopes[1]"


CLAIMS = {"iss": "https://id", "sub": "s1", "iat": 1, "exp": NOW.timestamp()}


@pytest.mark.parametrize(
    ("said", "claim", "role"),
    [
        ({}, "roles", None),
        ({"roles": []}, "roles", None),
        ({"roles": ["admin", "viewer"]}, "roles", "admin"),
        ({"roles": "viewer operator"}, "roles", "operator"),
        ({"roles": ["ADMIN", "root", 7, None, ["admin"]]}, "roles", None),
        ({"roles": {"admin": True}}, "roles", None),
        ({"realm_access": {"roles": ["operator"]}}, "realm_access.roles", "operator"),
        ({"realm_access": "admin"}, "realm_access.roles", None),
        ({"https://id/roles": ["viewer"]}, "https://id/roles", "viewer"),
    ],
)
def test_role_claim_must_be_one_of_the_three_roles(said: dict[str, Any], claim: str, role: str | None):
    assert believed({**CLAIMS, **said}, role_claim=claim).role == role


def test_best_name_claim_is_used_and_an_unusual_subject_is_refused():
    assert believed({**CLAIMS, "name": "", "email": "a@b", "preferred_username": "ann"}, role_claim="r").name == "ann"
    assert believed({**CLAIMS, "name": 7}, role_claim="r").name == "s1"
    assert believed({**CLAIMS, "exp": 1e300}, role_claim="r").expires_at.year == 9999
    for subject in ("", 7, None, "x" * 256, "a\0b"):
        with pytest.raises(Unauthenticated):
            believed({**CLAIMS, "sub": subject}, role_claim="r")
