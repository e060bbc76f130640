"""Every route times every role, with real requests: the table of roles is what the running API does, no more, no less."""

import re
from typing import get_args

import pytest

from muster.common.contracts.identity import Role
from muster.common.ids import new_id
from muster.management_api.domain.roles import RANK, ROWS, Row
from tests.support.api import ApiProcess, neighbours
from tests.support.caller import Caller

ROLES: tuple[Role, ...] = get_args(Role)
ALLOWED_NOT = (401, 403)


def path_of(row: Row) -> str:
    """The row's path with ids that nothing has, so that nothing is done where one may."""
    return re.sub(r"{(\w+)}", lambda place: "none.txt" if place[1] == "file" else new_id("req"), row.path)


async def test_the_table_and_the_routes_of_the_api_are_the_same(api: ApiProcess):
    document = await Caller(api, None).done("GET", "/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}

    assert described == {(row.method, row.path) for row in ROWS}
    for row in ROWS:
        operation = document["paths"][row.path][row.method.lower()]
        assert (operation.get("security") == []) == (row.least is None), row


async def test_each_role_may_exactly_what_its_rows_say(api: ApiProcess, nats_url: str):
    admin = Caller(api)
    async with neighbours(nats_url):
        callers: dict[Role, Caller] = {role: await admin.issue(role) for role in ROLES}
        wrong: list[tuple[str, str, str, int]] = []
        for row in ROWS:
            for role, caller in callers.items():
                told = await caller.ask(row.method, path_of(row))
                allowed = told.status not in ALLOWED_NOT
                if allowed != (RANK[role] >= RANK[row.least]) or told.status in (500, 504):
                    wrong.append((row.method, row.path, role, told.status))
                if not allowed:
                    assert told.problem.status == 403
                    assert f"needs the role {row.least}" in told.problem.detail

    assert wrong == []


@pytest.mark.parametrize("credential", [None, "wrong", "mk_" + "0" * 26 + "_" + "x" * 43, "a.b.c", "x" * 20_000])
async def test_nobody_may_only_what_is_open(api: ApiProcess, credential: str | None):
    nobody = Caller(api, credential)
    for row in ROWS:
        told = await nobody.ask(row.method, path_of(row))
        if row.least is None:
            assert told.status not in ALLOWED_NOT, row
        else:
            assert told.problem.status == 401, row
            assert told.headers["www-authenticate"].startswith("Bearer")


async def test_who_is_unknown_is_not_even_told_what_there_is(api: ApiProcess):
    for method, path in (("GET", "/nowhere"), ("POST", "/api/v1/nowhere"), ("DELETE", "/health"), ("HEAD", "/nowhere")):
        assert (await Caller(api, None).ask(method, path)).status == 401
    assert (await Caller(api).ask("GET", "/nowhere")).problem.status == 404
    wrong_method = await Caller(api).ask("DELETE", "/health")
    assert (wrong_method.status, wrong_method.headers["allow"]) == (405, "GET, HEAD")


async def test_only_a_bearer_is_taken(api: ApiProcess):
    key = Caller(api).credential
    for header in (f"Basic {key}", f"{key}", "Bearer", f"Token {key}", f"Bearer  {key} x"):
        assert (await Caller(api, None).ask("GET", "/api/v1/whoami", authorization=header)).status == 401
    for header in (f"bearer {key}", f"Bearer   {key}"):
        assert (await Caller(api, None).ask("GET", "/api/v1/whoami", authorization=header)).status == 200
