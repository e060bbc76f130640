"""Declares which role and scope a caller of a route needs. `docs/roles.md` is generated from these declarations."""

from fastapi import Security, params
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.security.base import SecurityBase

from muster.common.contracts.access import Role, Scope
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.roles import Requirement, refuse
from muster.management_api.access.routes.admission import Admission
from muster.management_api.http.application_parts import part_of


def requires(role: Role, scope: Scope | None = None, *, by_project: bool = False) -> params.Security:
    """Return a FastAPI dependency that admits only callers with this role and scope. Its value is the caller.

    The dependency raises `Unauthenticated`, `Forbidden`, `TooMany` or `Unavailable`.
    """
    needed = Requires(Requirement(role, scope, by_project))
    # FastAPI uses `scopes` only to show the required role and scope in the OpenAPI document.
    return Security(needed, scopes=[role, scope] if scope else [role])


class Requires(SecurityBase):
    """Verifies the credentials of a request and checks the caller's role, scope and project, once for each request."""

    model = HTTPBearer(description="An API key, the stack's admin key, or a token of the identity provider.")
    scheme_name = "bearer"

    def __init__(self, requirement: Requirement) -> None:
        self.requirement = requirement

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller of an HTTP request, or of a WebSocket that is not accepted yet.

        Raises a refusal if the caller does not meet the requirement.
        """
        state = connection.state
        if not hasattr(state, "principal"):
            state.requirement = self.requirement
            principal = await part_of(connection, Admission).admit(connection)
            refuse(principal, self.requirement)
            state.principal = principal
        return state.principal


def requirements_of(route: APIRoute | APIWebSocketRoute) -> list[Requires]:
    """Return the requirements that a route declares: one requirement, or none if the route needs no credentials."""
    declared = (dependency.call for dependency in route.dependant.dependencies)
    return [call for call in declared if isinstance(call, Requires)]
