"""Generates the OpenAPI document `docs/openapi.json` and the table of routes and roles `docs/roles.md`.

`python -m tests.contract.openapi` writes both files. A running API serves the same document at `/openapi.json`. The
table is generated from the routes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client import CollectorRegistry

from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.management_api.access.domain.roles import Requirement
from muster.management_api.access.routes.requires import requirements_of
from muster.management_api.http.application import application
from muster.management_api.routers import OPEN_ROUTERS, ROUTERS
from tests.support.house import ROOT

DOCUMENT, TABLE = ROOT / "docs/openapi.json", ROOT / "docs/roles.md"
HEAD = """# Who may call what

`python -m tests.contract.openapi` generates this table from the routes.
The roles are viewer, operator and admin, and each role includes the permissions of the roles before it.
A key can be narrowed to scopes (`:write` includes `:read`) or to the tasks of one project.
Routes with the role none need no credential. `/docs`, `/openapi.json` and `/` need no credential either.

| route | role | scope | keys of a project |
| --- | --- | --- | --- |
"""


class Asked(NamedTuple):
    """One route and its required role and scope."""

    method: str
    path: str
    requirement: Requirement | None


def app() -> FastAPI:
    """Return the application without its parts, because the document needs only the routes."""

    async def record(_: object) -> None:
        raise AssertionError

    parts: dict[type, Any] = {CollectorRegistry: CollectorRegistry()}
    return application(
        parts, ROUTERS, open_routers=OPEN_ROUTERS, record=record, now=utc_now, new_id=new_id, monotonic=lambda: 0.0
    )


def routes() -> Iterator[Asked]:
    """Yield every route of the API."""
    for found in iter_route_contexts(app().routes):
        route = found.original_route
        if isinstance(route, APIRoute) and route.include_in_schema:
            requires = next(iter(requirements_of(route)), None)
            for method in sorted(found.methods or ()):
                yield Asked(method, found.path or "", requires and requires.requirement)


ROUTES = list(routes())


def document() -> bytes:
    """Return the document as the file stores it."""
    return msgspec.json.format(msgspec.json.encode(app().openapi(), order="deterministic")) + b"\n"


def table() -> str:
    """Return the table as the file stores it."""
    return HEAD + "".join(
        f"| `{one.method} {one.path}` | {_cells(one.requirement)} |\n" for one in sorted(ROUTES, key=_place)
    )


def _place(one: Asked) -> tuple[str, str]:
    return one.path, one.method


def _cells(requirement: Requirement | None) -> str:
    if requirement is None:
        return "none | - | -"
    scope = f"`{requirement.scope}`" if requirement.scope else "any"
    return f"{requirement.role} | {scope} | {'yes' if requirement.by_project else 'no'}"


if __name__ == "__main__":
    DOCUMENT.write_bytes(document())
    TABLE.write_text(table())
