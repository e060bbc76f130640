"""Every route is called with every role. The running API admits exactly the roles that the routes declare."""

import re
from typing import get_args

import pytest

from muster.common.contracts.access import Role
from muster.common.ids import new_id
from muster.management_api.access.domain.roles import RANK
from tests.contract.openapi import ROUTES
from tests.support.api import ApiProcess, neighbours
from tests.support.caller import Caller

ROLES: tuple[Role, ...] = get_args(Role)
ALLOWED_NOT = (401, 403)


def there(path: str) -> str:
    """Return the path with unknown ids, so that a permitted request changes nothing."""
    return re.sub(r"{\w+}", lambda _: new_id("req"), path)


async def test_each_role_may_exactly_what_the_routes_declare(api: ApiProcess, nats_url: str):
    admin = Caller(api)
    async with neighbours(nats_url):
        callers: dict[Role, Caller] = {role: await admin.issue(role) for role in ROLES}
        wrong: list[tuple[str, str, str, int]] = []
        for method, path, requirement in ROUTES:
            least = requirement and requirement.role
            for role, caller in callers.items():
                told = await caller.ask(method, there(path))
                allowed = told.status not in ALLOWED_NOT
                if allowed != (RANK[role] >= RANK[least]) or told.status in (500, 504):
                    wrong.append((method, path, role, told.status))
                if not allowed:
                    assert told.problem.status == 403
                    assert f"needs the role {least}" in told.problem.detail

    assert wrong == []


@pytest.mark.parametrize("credential", [None, "wrong", "mk_" + "0" * 26 + "_" + "x" * 43, "a.b.c", "x" * 20_000])
async def test_unknown_caller_may_use_only_open_routes(api: ApiProcess, credential: str | None):
    unknown = Caller(api, credential)
    for method, path, requirement in ROUTES:
        told = await unknown.ask(method, there(path))
        if requirement is None:
            assert told.status not in ALLOWED_NOT, path
        else:
            assert told.problem.status == 401, path
            assert told.headers["www-authenticate"].startswith("Bearer")


async def test_unknown_path_is_404_and_unknown_method_is_405(api: ApiProcess):
    for credential in (None, Caller(api).credential):
        caller = Caller(api, credential)
        for method, path in (("GET", "/nowhere"), ("POST", "/api/v1/nowhere"), ("HEAD", "/nowhere")):
            assert (await caller.ask(method, path)).status == 404
        wrong_method = await caller.ask("DELETE", "/health")
        assert (wrong_method.problem.status, wrong_method.headers["allow"]) == (405, "GET, HEAD")


async def test_only_bearer_credentials_are_accepted(api: ApiProcess):
    key = Caller(api).credential
    for header in (f"Basic {key}", f"{key}", "Bearer", f"Token {key}", f"Bearer  {key} x"):
        assert (await Caller(api, None).ask("GET", "/api/v1/whoami", authorization=header)).status == 401
    for header in (f"bearer {key}", f"Bearer   {key}"):
        assert (await Caller(api, None).ask("GET", "/api/v1/whoami", authorization=header)).status == 200
